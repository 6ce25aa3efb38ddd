"""Recordings sent to a server again: a real socket, a real server, engines that cost nothing."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from analytics_server.server import Server
from frankenstream.config import EncoderSettings, OutputSettings, StreamSettings
from frankenstream.recording_replay import RecordingReplay, replay_recording
from pipeline.bundle import Bundle
from pipeline.codec import LatentCodec, Reference
from pipeline.errors import BundleError, ConfigError
from pipeline.runtime.engine import Features, Float32, NullEngine
from recordings.frames import recorded_frames
from recordings.reader import Recording
from recordings.recorder import Made, Recorder
from recordings.replay import Pace
from recordings.topics import BITSTREAM, Bitstream, Facts
from tests.bundles import backbone, random_bundle

FRAMES = 6


class PixelEngine(NullEngine):
    """Features that depend on the latent, so that a wrong one shows."""

    def from_latents(self, latents_BCHW: Float32) -> Features:
        return Features(np.ascontiguousarray(latents_BCHW[:, : self.feature_width, 3, 5]), 0.0, 0.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    backbones = (
        backbone("null", alias="", pooled_width=8, default=True),
        backbone("null2", alias="second", pooled_width=8),
    )
    return random_bundle(tmp_path_factory.mktemp("replay") / "bundle", backbones=backbones)


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Server]:
    engines = [PixelEngine("null"), PixelEngine("null2")]
    with Server(bundle, ["tcp://127.0.0.1:0"], engines=engines) as server:
        yield server


@pytest.fixture
def latents(bundle: Bundle, tmp_path: Path) -> Path:
    """Bitstreams without answers: each frame but the first refers to the one before, in a session long gone."""
    codec: LatentCodec = bundle.latent_codec()
    rng = np.random.default_rng(1)
    recorder = Recorder(thread=False)
    track = recorder.record(tmp_path / "latents.mcap", Facts(codec_id=bundle.codec_id, bundle_id=bundle.bundle_id))
    before: Reference | None = None
    for number in range(FRAMES):
        symbols = np.rint(rng.laplace(0, 1.0, (48, 28, 28))).astype(np.int16)
        payload = codec.encode(symbols, 1, reference=before)
        before = Reference(epoch=99, frame=number, layers=8, symbols=symbols)
        sent = Bitstream(frame=number, captured_ns=recorder.time_ns(number / 50), payload=payload)
        track.put(BITSTREAM, number / 50, lambda s=sent: Made(s.encode(), s.frame / 50, s.frame), cost=3000)  # type: ignore[misc]
    recorder.close()
    return tmp_path / "latents.mcap"


def run(file: Path, server: Server, bundle: Bundle, **options: object) -> tuple[int, str]:
    """(exit code, what was printed)."""
    out = io.StringIO()
    settings = RecordingReplay(
        recording=file, server=server.urls[0], encoder=EncoderSettings(bundle=Path(bundle.where))
    )
    settings = dataclasses.replace(settings, **options)  # type: ignore[arg-type]
    code = replay_recording(settings, console=Console(file=out, width=200))
    return code, out.getvalue()


def output(tmp_path: Path, name: str = "b.mcap") -> OutputSettings:
    return OutputSettings(headless=True, record=tmp_path / name, summary=tmp_path / f"{name}.json")


def test_old_latents_answer_new_questions(latents: Path, server: Server, bundle: Bundle, tmp_path: Path) -> None:
    """As fast as it goes, other tasks on another backbone; every frame decodes though it referred to others."""
    code, _ = run(
        latents, server, bundle, lossless=True, pace=Pace(realtime=False), output=output(tmp_path),
        stream=StreamSettings(tasks="food101,cifar100@second", top_k=3),
    )  # fmt: skip
    assert code == 0
    summary = json.loads((tmp_path / "b.mcap.json").read_text())
    assert (summary["captured"], summary["answered"]) == (FRAMES, FRAMES)
    frames = list(recorded_frames(Recording(tmp_path / "b.mcap")))
    assert {answer.task for frame in frames for answer in frame.answers} == {"food101", "cifar100"}
    assert all(len(answer.labels) == 3 for frame in frames for answer in frame.answers)


def test_a_replay_verifies_bit_for_bit(latents: Path, server: Server, bundle: Bundle, tmp_path: Path) -> None:
    """Recorded while replayed, then verified; the recording of a verification verifies too."""
    run(latents, server, bundle, verify=False, lossless=True, output=output(tmp_path))
    code, said = run(tmp_path / "b.mcap", server, bundle, verify=True, output=output(tmp_path, "c.mcap"))
    assert (code, f"verified {FRAMES} of {FRAMES} frames: {FRAMES} bit for bit" in said) == (0, True), said
    assert all(frame.result is not None and frame.result.batch == 1
               for frame in recorded_frames(Recording(tmp_path / "c.mcap")))  # fmt: skip
    assert run(tmp_path / "c.mcap", server, bundle, verify=True)[0] == 0


def test_answers_of_another_engine_fail_the_verification(
    latents: Path, server: Server, bundle: Bundle, tmp_path: Path
) -> None:
    run(latents, server, bundle, lossless=True, output=output(tmp_path))

    class Other(PixelEngine):
        def from_latents(self, latents_BCHW: Float32) -> Features:
            return super().from_latents(latents_BCHW[:, ::-1])

    with Server(bundle, ["tcp://127.0.0.1:0"], engines=[Other("null"), Other("null2")]) as other:
        code, said = run(tmp_path / "b.mcap", other, bundle, verify=True)
    assert code == 1
    assert "now it is" in said


def test_a_recording_without_answers_cannot_be_verified(latents: Path, server: Server, bundle: Bundle) -> None:
    code, said = run(latents, server, bundle, verify=True)
    assert code == 1
    assert "nothing was compared" in said


def test_at_recorded_pace(latents: Path, server: Server, bundle: Bundle, tmp_path: Path) -> None:
    """Live rules: frames may be superseded, and every one is accounted for."""
    run(latents, server, bundle, output=output(tmp_path))
    summary = json.loads((tmp_path / "b.mcap.json").read_text())
    assert summary["captured"] == FRAMES == summary["answered"] + sum(summary["dropped"].values())
    assert summary["encoder"] == "as recorded"


def test_step_by_step(
    latents: Path, server: Server, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each Enter shows the answer before and sends the next frame; q ends."""
    answers = iter(["", "", "q"])
    monkeypatch.setattr("builtins.input", lambda *prompt: next(answers))
    code, said = run(latents, server, bundle, step=True, output=output(tmp_path))
    assert code == 0
    assert re.findall(r"frame (\d)  \d+ B", said) == ["0", "1"]
    assert json.loads((tmp_path / "b.mcap.json").read_text())["answered"] == 2


def test_a_missing_reference_costs_the_frames_that_need_it(
    latents: Path, server: Server, bundle: Bundle, tmp_path: Path
) -> None:
    """They are dropped with the reason; the replay goes on to its end."""
    data = bytearray(latents.read_bytes())
    code, _ = run(_without(latents, 2, tmp_path), server, bundle, lossless=True, output=output(tmp_path))
    assert code == 0
    frames = {frame.frame: frame for frame in recorded_frames(Recording(tmp_path / "b.mcap"))}
    assert [frames[n].state for n in range(FRAMES - 1)] == ["answered"] * 2 + ["encode_failed"] * 3
    assert "frame 3 is coded against frame 2, which the recording does not have" in frames[2].detail
    assert data == latents.read_bytes()


def _without(file: Path, frame: int, folder: Path) -> Path:
    recorder = Recorder(thread=False)
    recording = Recording(file)
    track = recorder.record(folder / "gap.mcap", recording.facts)
    for message in recording:
        if message.sequence != frame:
            track.put(message.topic, 0.0, lambda m=message: Made(m.data, 0.0, m.sequence), cost=1)  # type: ignore[misc]
    recorder.close()
    return folder / "gap.mcap"


def test_another_bundle_is_refused_with_a_line(
    latents: Path, server: Server, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By us where we can see it, by the server where only it knows."""
    monkeypatch.setenv("FRANKENSTREAM_HOME", str(tmp_path / "home"))  # where none was kept
    other = random_bundle(tmp_path / "other", seed=5, backbones=bundle.backbones)
    with pytest.raises(BundleError, match=r"was recorded with codec .*, .* has .*: name the bundle"):
        run(latents, server, other)
    with (
        Server(other, ["tcp://127.0.0.1:0"], engines=[NullEngine("null"), NullEngine("null2")]) as elsewhere,
        pytest.raises(BundleError, match=r"recorded with another bundle than the server at .* has .*: serve the one"),
    ):
        run(latents, elsewhere, bundle)


def test_flags_that_make_no_sense_are_refused(latents: Path, server: Server, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--loop is for videos"):
        run(latents, server, bundle, pace=Pace(loop=True))
    with pytest.raises(ConfigError, match="recordings export"):
        run(latents, server, bundle, output=OutputSettings(save=tmp_path / "a.mp4"))
    with pytest.raises(ConfigError, match="exists already"):
        run(latents, server, bundle, output=OutputSettings(record=latents))
    encoder = EncoderSettings(bundle=Path(bundle.where), layers=3, sticky="off")
    with pytest.raises(ConfigError, match=r"leave --layers, --sticky, --fps out"):
        run(latents, server, bundle, encoder=encoder, stream=StreamSettings(fps=5.0))


def test_the_log_says_what_the_session_knew(latents: Path, server: Server, bundle: Bundle, tmp_path: Path) -> None:
    """As that of a live run does."""
    log = OutputSettings(headless=True, log=tmp_path / "log.jsonl")
    run(latents, server, bundle, lossless=True, pace=Pace(realtime=False), output=log)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(lines) == FRAMES
    assert all(line["bits_per_pixel"] > 0 and line["credits"] >= 0 for line in lines)
