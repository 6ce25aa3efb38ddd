"""`frankenstream recordings` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from rich.console import Console

from frankenstream.annotated_video import write_video
from frankenstream.cli import run
from frankenstream.cli.recordings import parse_time, sparkline
from frankenstream.recording_play import play
from pipeline.clock import VirtualClock
from pipeline.errors import ConfigError, InputError
from recordings.reader import Recording
from recordings.recorder import Made, Recorder
from recordings.thumbnails import ThumbnailEncoder
from recordings.topics import THUMBNAIL, Facts, Thumbnail
from tests.bundles import random_bundle
from tests.recordings.made import FPS, chain, put_frame, record, reference_codec


@pytest.fixture(scope="module")
def payloads() -> list[bytes]:
    return chain(reference_codec(), 8)[0]


@pytest.fixture
def drive(tmp_path: Path, payloads: list[bytes]) -> Path:
    return record(tmp_path / "drive.mcap", payloads, dropped=[3])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(random_bundle(tmp_path_factory.mktemp("b") / "bundle").where)


def test_info(drive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recordings", "info", str(drive)]) == 0
    said = capsys.readouterr().out
    assert "8 frames = answered 7 + lost 1" in said
    assert "zebra" in said
    assert "/bitstream" in said
    assert run(["recordings", "info", str(drive), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] == {"lost": 1}


def test_recover_says_what_is_lost(drive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drive.write_bytes(drive.read_bytes()[:6_600])
    assert run(["recordings", "info", str(drive)]) == 0
    assert f"frankenstream recordings recover {drive}" in capsys.readouterr().out.replace("\n", " ")
    assert run(["recordings", "recover", str(drive)]) == 0
    assert "lost: the file is cut off" in capsys.readouterr().out
    assert run(["recordings", "info", str(drive.with_suffix(".recovered.mcap"))]) == 0
    assert "cut off" not in capsys.readouterr().out
    assert run(["recordings", "recover", str(drive)]) == 2, "it is there already"


def test_cut_and_its_errors(drive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundle that made it is wanted only where frames refer to what lies before the cut."""
    assert run(["recordings", "cut", str(drive), "--to", "0:00.45"]) == 0
    assert "drive.cut.mcap: 5 frames" in capsys.readouterr().out
    assert run(["recordings", "cut", str(drive), "--from", "0.35", "-o", str(drive.parent / "b.mcap")]) == 5
    assert "name the bundle that it was recorded with" in capsys.readouterr().err
    assert run(["recordings", "cut", str(drive), "--from", "9"]) == 3
    assert run(["recordings", "cut", str(drive), "--from", "3", "--to", "2"]) == 2
    assert run(["recordings", "cut", str(drive), "--from", "soon"]) == 2


def test_export_by_name_and_by_format(drive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recordings", "export", str(drive)]) == 0
    assert run(["recordings", "export", str(drive), "-o", str(drive.with_name("x.jsonl"))]) == 0
    assert "8 frames" in capsys.readouterr().out
    assert run(["recordings", "export", str(drive), "--format", "jsonl", "-o", str(drive.with_name("x.txt"))]) == 0
    assert drive.with_name("x.txt").read_bytes() == drive.with_name("x.jsonl").read_bytes()
    assert drive.with_suffix(".csv").exists()
    assert run(["recordings", "export", str(drive), "--format", "xls"]) == 2
    assert ".csv, .parquet, .jsonl, .mp4" in capsys.readouterr().err
    assert run(["recordings", "export", str(drive), "-o", "a.csv", "--video", "b.mp4"]) == 2


def test_what_is_no_recording_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mcap").write_bytes(b"no recording at all")
    for command in (["recordings", "info"], ["recordings", "play"], ["replay"]):
        assert run([*command, str(tmp_path / "a.mcap")]) == 3
        assert "is no MCAP file" in capsys.readouterr().err


def test_flags_for_recordings_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", "tour", "--verify"]) == 2
    assert run(["replay", str(tmp_path / "a.mcap"), "--jpeg", "90"]) == 2
    capsys.readouterr()


def test_play_keeps_the_pace(drive: Path) -> None:
    """At twice the speed it waits half the time; rates are those of then."""
    clock = VirtualClock()
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        clock.advance(seconds)
        return False

    summary = play(Recording(drive), console=Console(quiet=True), speed=2.0, headless=True, clock=clock, wait=wait)
    assert sum(waited) == pytest.approx(0.35)
    assert (summary.captured, summary.answered, summary.dropped) == (8, 7, {"lost": 1})
    assert summary.tasks["animals"].label == "zebra"
    assert summary.duration_s == pytest.approx(0.7)
    assert summary.backbone == "null"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1:30", 90), ("0:01:30.5", 90.5), ("0", 0)])
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


def test_sparkline() -> None:
    assert sparkline([0.0, 4.0, 8.0]) == " ▄█"
    assert sparkline([]) == ""


# --- Annotated video ------------------------------------------------------------------------------------------


def with_thumbnails(path: Path, payloads: list[bytes]) -> Path:
    recorder = Recorder(thread=False)
    track = recorder.record(path, Facts())
    encoder = ThumbnailEncoder()
    for number, payload in enumerate(payloads):
        picture = Thumbnail(
            captured_ns=recorder.time_ns(number / FPS), frame=number,
            jpeg=encoder.encode(np.full((96, 128, 3), 30 * number, np.uint8)),
        )  # fmt: skip
        track.put(THUMBNAIL, number / FPS, lambda p=picture: Made(p.encode()), cost=1)  # type: ignore[misc]
        put_frame(recorder, track, number, payload)
    recorder.close()
    return path


def test_labels_are_drawn_onto_thumbnails(tmp_path: Path, payloads: list[bytes], bundle: Path) -> None:
    """As many pictures as thumbnails, at their times."""
    recording = Recording(with_thumbnails(tmp_path / "a.mcap", payloads))
    assert write_video(recording, tmp_path / "a.mp4", video=None, bundle=bundle) == 8
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert [time for time, _ in frames] == pytest.approx([number / FPS for number in range(8)], abs=0.002)
    assert frames[0][1].shape == (96, 128, 3)
    assert frames[4][1][:20].max() > 150 > frames[4][1][60, 64].max(), "text above, the picture below"


def test_labels_are_drawn_onto_the_video(drive: Path, tmp_path: Path, bundle: Path) -> None:
    """Every picture of the video, those of dropped frames included."""
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for _ in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((96, 128, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert write_video(Recording(drive), tmp_path / "a.mp4", video=clip, bundle=bundle) == 8


def test_a_video_needs_pictures(drive: Path, tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(InputError, match="no thumbnails: record with --record-thumbnails, or name the video"):
        write_video(Recording(drive), tmp_path / "a.mp4", video=None, bundle=bundle)
    assert not (tmp_path / "a.mp4").exists()
    (tmp_path / "a.mp4").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_video(Recording(drive), tmp_path / "a.mp4", video=None, bundle=bundle)
