"""Streams over simulated networks: ours under rate control, ours fixed, x264, JPEG and WebP, on the same link.

    python -m benchmarks.networks --json FILE --plot FILE [--clip FILE] [--seconds S] [--networks a,b] [--streams a,b]

Real codecs make the bytes, real sessions and rate control move them over the link model in virtual time, with the
stage times of this machine (measured first, one frame at a time), and the backbone judges what arrives. Every stream
has the same sessions, pacing and, if not fixed, the same rate control over a ladder of its own settings. A loss is of
packets of 1,200 bytes on the way up (answers are repeated, as over WebRTC): a message is lost with any of them, but
ours goes in parts of that size, with parity where parts get lost, and decodes up to the first gap.

Figures of a stream over a network:
    in_time      share of captured frames with an answer within the budget (500 ms), in percent; ours: repeated ones too
    age          of the newest result, looked at every 10 ms, p50 and p95 in ms
    loss_points  percent of the answered frames whose top-1 is not the unmodified backbone's on the raw frame
    seen_points  the same for what a viewer sees: at each capture the newest result there is, against the frame of now
    expected     mean of the expected loss that rate control stated (photographs, top-1 points); ours only
    kbps         all bytes that were sent up, in kbit/s
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import network_plot
from benchmarks.evaluation_pictures import Pictures
from benchmarks.judge import Judge, find_head
from benchmarks.machine import rounded
from benchmarks.network_coders import OurCoder, Seen, StillCoder, VideoCoder, median_s, x264_sizes
from benchmarks.picture_codecs import picture_codecs
from benchmarks.rate_plot import check_plotting
from benchmarks.report import report
from benchmarks.simulated_stream import FrameTrack, LossyUp, Run, stream
from benchmarks.video_clips import Clip, read_clips
from benchmarks.video_codecs import quiet
from pipeline.bundle import Bundle
from pipeline.codec import quantise
from pipeline.errors import ConfigError
from pipeline.limits import BUDGET_MS_DEFAULT, REPEAT_MS_DEFAULT
from pipeline.rate_control import EncodeChoice, RateControl
from pipeline.runtime.encoder import FrameEncoder, preprocess_spec
from pipeline.runtime.engines import choose_engine
from pipeline.transports.link_model import LinkModel
from recordings.samples import sample_path

PACKET_BYTES = 1_200
PART_BYTES = PACKET_BYTES - 32
"""Of the bitstream in a FramePart; the rest is the message's other fields."""
X264_CRFS = (24, 32, 40)
STILL_QUALITIES = {"jpeg": (10, 30, 75, 90), "webp": (1, 20, 50, 90)}
DRIVE_KBPS = ((2.0, 1_500.0), (4.0, 700.0), (5.5, 2_500.0), (7.0, 6_000.0), (8.0, 300.0), (9.0, 3_000.0))
"""A drive through LTE cells: (seconds, kbit/s). Ours, chosen to be hard; before it 6 Mbit/s."""

Float32 = NDArray[np.float32]


def networks() -> dict[str, LinkModel]:
    """The networks by name, in the order of the table."""
    lte = {"rate_kbps": 6_000.0, "delay_ms": 35.0, "jitter_ms": 10.0, "packet_bytes": PACKET_BYTES}
    found = {
        "lte": LinkModel(**lte, loss=0.001, seed=1),  # type: ignore[arg-type]
        "lte-drive": LinkModel(**lte, loss=0.001, seed=1, steps=DRIVE_KBPS),  # type: ignore[arg-type]
        "wifi": LinkModel(rate_kbps=54_000, delay_ms=2, jitter_ms=4, loss=0.002, packet_bytes=PACKET_BYTES, seed=1),
        "ble": LinkModel(
            rate_kbps=270, delay_ms=15, jitter_ms=8, loss=0.005, queue_ms=50, packet_bytes=PACKET_BYTES, seed=1
        ),
        "blackout": LinkModel(**lte, seed=1, steps=((4.0, 0.0), (6.0, 6_000.0))),  # type: ignore[arg-type]
    }
    for percent in (0, 1, 3, 5, 10):
        found[f"loss-{percent}"] = LinkModel(
            rate_kbps=2_000, delay_ms=20, jitter_ms=5, loss=percent / 100, packet_bytes=PACKET_BYTES, seed=percent + 1
        )
    return found


@dataclass(frozen=True)
class Contestant:
    """A codec and how it is steered. `fixed`: index into its ladder; None: rate control chooses."""

    name: str
    make: Callable[[], Any]
    fixed: int | None = None
    part_bytes: int = 0


def main() -> int:
    """Run, print a table, write JSON and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="a video; the bundled sample walk if not given")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each stream")
    parser.add_argument("--frames", type=int, default=300, help="of the clip at most; the stream repeats them")
    parser.add_argument("--networks", default="", help="some of the networks, comma separated; all if not given")
    parser.add_argument("--streams", default="", help="only streams that begin so, comma separated; all if not given")
    parser.add_argument("--bundle", type=Path, help="bundle folder or .zip; the default one if not given")
    parser.add_argument("--backbone", default="", help="tag or alias; the bundle's default if not given")
    parser.add_argument("--threads", type=int, default=1, help="of the backbone")
    parser.add_argument("--stages", type=Path, help="stage times from this file of an earlier run, not measured anew")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this file (.png, .svg, .pdf)")
    return report(parser.parse_args(), run=run, show=show, draw=network_plot.draw, written=rounded)


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All figures, ready for JSON."""
    if options.plot:
        check_plotting(options.plot)
    found = networks()
    chosen = [name for name in options.networks.split(",") if name] or list(found)
    if unknown := [name for name in chosen if name not in found]:
        raise ConfigError(f"network {unknown[0]!r} is unknown, expected some of {', '.join(found)}")
    bundle = Bundle.open(options.bundle)
    file = options.clip or Path(sample_path("walk"))
    (clip,), _ = read_clips([file], preprocess_spec(bundle.edge_spec), frames=options.frames)
    bench = Bench(bundle, clip, options.backbone, options.threads, console, _read_stages(options.stages))
    wanted = tuple(name for name in options.streams.split(",") if name)
    rows = []
    for network in chosen:
        for contestant in bench.contestants():
            if not wanted or contestant.name.startswith(wanted):
                rows.append(bench.measure(network, found[network], contestant, options.seconds))
                console.print(f"{network}: {contestant.name}", style="dim", highlight=False)
    return {
        "clip": clip.name, "frames": len(clip), "fps": clip.fps, "seconds": options.seconds,
        "bundle_id": bundle.bundle_id, "codec_id": bundle.codec_id, "backbone": bench.backbone,
        "stages_ms": {name: value * 1e3 for name, value in bench.times.items()},
        "rows": rows,
    }  # fmt: skip


def _read_stages(file: Path | None) -> dict[str, float] | None:
    """In seconds. Raises ConfigError."""
    if file is None:
        return None
    try:
        stages = json.loads(file.read_text(encoding="utf-8"))["stages_ms"]
        return {str(name): float(value) / 1e3 for name, value in stages.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"stages {str(file)!r} cannot be read ({error}): name the --json file of a run") from None


def _in_time(track: FrameTrack) -> bool:
    """Whether a frame's answer came within its budget; sessions wait for late ones a little longer."""
    return track.ended_at - track.captured_at <= BUDGET_MS_DEFAULT / 1e3


class Bench:
    """One clip with all that is computed once: latents, files, stage times, the unmodified backbone's answers."""

    def __init__(
        self, bundle: Bundle, clip: Clip, backbone: str, threads: int, console: Console, stages: dict[str, float] | None
    ) -> None:
        self._bundle, self._clip = bundle, clip
        encoder = FrameEncoder(bundle, provider="cpu", precision="fp32")
        engine = choose_engine(
            bundle, backbone, backend="onnx", device="cpu", threads=threads, progress=console.print
        ).engine
        self.backbone = engine.backbone
        self._judge = Judge(engine, find_head(bundle, engine, "imagenet1k"), Pictures(clip.squares_NSS3, None))
        self._latents = [encoder.analyse(encoder.preprocess(square)) for square in clip.squares_NSS3]
        size = clip.squares_NSS3.shape[1]
        stills, self.left_out = picture_codecs(STILL_QUALITIES, size)
        self._stills = {
            name: [codec for codec in stills if codec.name == name and codec.full_size and codec.quality in qualities]
            for name, qualities in STILL_QUALITIES.items()
        }
        self._files: dict[str, dict[tuple[int, int], bytes]] = {name: {} for name in self._stills}
        self._x264_sizes = x264_sizes(clip, clip.fps, X264_CRFS)
        self._answers: dict[Any, Float32] = {}
        self.times = stages or self._measure_stages(encoder)

    def contestants(self) -> list[Contestant]:
        """Fresh ones: encoders have a past."""
        fps = self._clip.fps
        ours = lambda: self._timed("ours", OurCoder(self._bundle, self._latents, fps, repeat_ms=REPEAT_MS_DEFAULT))  # noqa: E731
        names = [rung.name for rung in ours().ladder]
        found = [Contestant("ours, rate control", ours, None, PART_BYTES)]
        found += [Contestant(f"ours, {name}", ours, index, PART_BYTES) for index, name in enumerate(names)]
        video = lambda: self._timed("x264", VideoCoder(self._clip, fps, X264_CRFS, self._x264_sizes))  # noqa: E731
        found.append(Contestant("x264, rate control", video))
        found += [Contestant(f"x264, crf {crf}", video, index) for index, crf in enumerate(X264_CRFS)]
        for name, codecs in self._stills.items():
            found.append(Contestant(f"{name}, rate control", self._still(name, codecs)))
        return found

    def _still(self, name: str, codecs: Sequence[Any]) -> Callable[[], Any]:
        return lambda: self._timed(name, StillCoder(codecs, self._clip, self._files[name]))

    def measure(self, network: str, link: LinkModel, contestant: Contestant, seconds: float) -> dict[str, Any]:
        """One row."""
        coder = contestant.make()
        ladder = coder.ladder if contestant.fixed is None else coder.ladder[contestant.fixed : contestant.fixed + 1]
        control = RateControl(ladder, fps_max=self._clip.fps)
        with quiet():
            result = stream(
                coder, LossyUp(link), control=control, fps=self._clip.fps, seconds=seconds,
                part_bytes=contestant.part_bytes,
            )  # fmt: skip
        return {"network": network, "stream": contestant.name} | self._figures(result, coder, control)

    def _figures(self, result: Run, coder: Any, control: RateControl) -> dict[str, Any]:
        frames, clip_frames = result.frames, len(self._clip)
        direct = self._judge.direct_NK.argmax(axis=1)
        tops = {
            number: int(self._top(coder, track.of))
            for number, track in enumerate(frames)
            if track.state in ("answered", "unchanged")
        }
        wrong = [tops[number] != direct[number % clip_frames] for number in tops]
        ended = sorted((frames[number].ended_at, number) for number in tops)
        seen_wrong = []
        newest, at = -1, 0
        for number, track in enumerate(frames):
            while at < len(ended) and ended[at][0] <= track.captured_at:
                newest, at = max(newest, ended[at][1]), at + 1
            if newest >= 0:
                seen_wrong.append(tops[newest] != direct[number % clip_frames])
        ages = result.ages_ms(1.0)
        states = sorted({track.state for track in frames})
        losses = {rung.encode.operating_point: rung.loss_points for rung in control.ladder}
        answered = [track.choice for track in frames if track.state == "answered" and track.choice is not None]
        expected = [losses[choice.operating_point] for choice in answered]
        return {
            "in_time": 100 * sum(_in_time(frames[number]) for number in tops) / len(frames),
            "age_p50_ms": float(np.percentile(ages, 50)),
            "age_p95_ms": float(np.percentile(ages, 95)),
            "loss_points": 100 * float(np.mean(wrong)) if wrong else None,
            "seen_points": 100 * float(np.mean(seen_wrong)) if seen_wrong else None,
            "expected": float(np.mean(expected)) if expected and None not in expected else None,  # type: ignore[arg-type]
            "kbps": result.kbps,
            "switches": control.switches,
            "states": {state: result.count(state) for state in states},
        }

    # --- Judging ----------------------------------------------------------------------------------------------

    def _top(self, coder: Any, frame: int) -> int:
        what, data = coder.seen[frame]
        key = (what, data) if what == "file" else (what, data.tobytes())
        key = (type(coder).__name__, coder.ladder[0].name, *key)
        if key not in self._answers:
            self._answers[key] = np.array(self._answer(coder, (what, data)).argmax())
        return int(self._answers[key])

    def _answer(self, coder: Any, seen: Seen) -> Float32:
        what, data = seen
        if what == "latent":
            return self._judge.answer_latents(data[None])
        if what == "file":
            return self._judge.answer_images(coder.picture(data))
        pixels = np.ascontiguousarray(data.transpose(2, 0, 1)[None] * np.float32(1 / 255))
        return self._judge.answer_images(pixels)

    # --- Stage times ------------------------------------------------------------------------------------------

    def _timed(self, name: str, coder: Any) -> Any:
        coder.encode_s, coder.decode_s = self.times[f"{name}.encode"], self.times[f"{name}.decode"]
        coder.server_s = self.times["latent.engine" if name == "ours" else "picture.engine"]
        return coder

    def _measure_stages(self, encoder: FrameEncoder) -> dict[str, float]:
        square = self._clip.squares_NSS3[0]
        codec = self._bundle.latent_codec()
        point = codec.spec.operating_points[-1]
        last = len(codec.spec.operating_points) - 1
        bitstream = codec.encode(quantise(self._latents[0], point), last)
        image = encoder.preprocess(square)

        def our_encode() -> bytes:
            return codec.encode(quantise(encoder.analyse(encoder.preprocess(square)), point), last)

        times = {
            "ours.encode": median_s(our_encode),
            "ours.decode": median_s(lambda: codec.decode(bitstream)),
            "latent.engine": median_s(lambda: self._judge.answer_latents(self._latents[0][None])),
            "picture.engine": median_s(lambda: self._judge.answer_images(image)),
        }
        shrink = median_s(lambda: encoder.preprocess(square))
        for name, codecs in self._stills.items():
            codec_ = codecs[-1]
            file = codec_.compress(square)
            times[f"{name}.encode"] = shrink + median_s(lambda codec_=codec_: codec_.compress(square))
            times[f"{name}.decode"] = median_s(lambda codec_=codec_, file=file: codec_.expand(file))
        with quiet():
            frames = min(20, len(self._clip))
            video = VideoCoder(self._clip, self._clip.fps, [X264_CRFS[0]], [1.0])
            packets: list[Any] = []
            numbers = iter(range(frames))
            encode_s = median_s(lambda: packets.append(video.encode(next(numbers), EncodeChoice(0))), frames)
            arriving = iter(enumerate(packets))
            times["x264.encode"] = shrink + encode_s
            times["x264.decode"] = median_s(lambda: video.decode(*next(arriving)), frames)
        return times


def show(console: Console, figures: dict[str, Any]) -> None:
    """One table a network."""
    for network in dict.fromkeys(row["network"] for row in figures["rows"]):
        table = Table(title=network, box=SIMPLE_HEAD, padding=0, pad_edge=False)
        for column in ("stream", "in time", "p50 ms", "p95 ms", "loss", "seen", "stated", "kbit/s"):
            table.add_column(column, no_wrap=True, justify="left" if column == "stream" else "right", min_width=5)
        for row in figures["rows"]:
            if row["network"] == network:
                table.add_row(row["stream"], *(_cell(row[key]) for key in (
                    "in_time", "age_p50_ms", "age_p95_ms", "loss_points", "seen_points", "expected", "kbps",
                )))  # fmt: skip
        console.print(table)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
