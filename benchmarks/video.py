"""What a frame of video costs, and what it is worth: our stream against video codecs and still pictures.

    python -m benchmarks.video --json FILE --plot FILE [--clips DIR ...] [--frames N] [--bundle NAME]

Every figure compares with the unmodified backbone on the raw frames: KL in nats, and agreement (same top-1) in percent.
Same for all: each codec gets the same 8-bit squares, cut as the edge does live, at the clip's own frame rate, and is
judged by what a server makes of its bytes. The first frames of a clip (WARM_UP_FRAMES) are encoded and not counted: a
stream pays for its start once. `mean` is the mean of the clips, each with the same weight.

Ours stands alone (lag 0), or refers to the frame 1 or 3 before (`lag`: how many frames late the server's answers are),
with each threshold of sticky symbols, at every operating point; with the operating point's own thresholds ("own
sticky") also with frame choice ("chosen": frames that hardly changed are not sent, an answer is repeated). Lag 1 is
what a fast network gives; video codecs always refer to the frame before, whatever the network, and need a key frame
where one is lost. Their presets take about as long as our edge (benchmarks.video_codecs). JPEG and WebP are stills.
Clips that the bundle's tables and thresholds were counted on flatter it: name others, or none for the bundled ones.

With --contexts: what each context brings, a table of bytes with tables counted on all other clips; nothing else.

Axes: N frames, B batch, C H W the latent, K classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks import video_contexts, video_plot
from benchmarks.evaluation_pictures import Pictures
from benchmarks.judge import BATCH, Judge, find_head, versions
from benchmarks.picture_codecs import PictureCodec, picture_codecs
from benchmarks.rate_plot import check_plotting
from benchmarks.report import report
from benchmarks.video_clips import Clip, find_clips, read_clips
from benchmarks.video_codecs import VIDEO_CODECS, VideoCodec, spread, video_codecs
from benchmarks.video_equal import FEWEST, NONE, at_equal_kl
from benchmarks.video_ours import NAME, Sent, Way, send, ways
from pipeline.bundle import Bundle
from pipeline.codec import LatentCodec, dequantise
from pipeline.errors import ConfigError
from pipeline.runtime.encoder import PRECISIONS, FrameEncoder, preprocess_spec
from pipeline.runtime.engines import choose_engine
from tasks.evaluate import agreement, divergence

WARM_UP_FRAMES = 3
"""As many as the longest lag: until then a frame has nothing to refer to."""
LAGS = (1, 3)
OWN = "own"
THRESHOLDS = (0.0, OWN, 0.8, 1.25)
FRAMES = 90
STILLS = {"jpeg": (10, 20, 30, 50, 75), "webp": (1, 10, 20, 35, 50, 75)}
"""Still picture codecs and their qualities, a part of those of benchmarks.rate_accuracy."""
CODECS = (*VIDEO_CODECS, *STILLS)
MEAN = "mean"

Float32 = NDArray[np.float32]
Point = dict[str, Any]
Say = Callable[[str], None]


def main() -> int:
    """Read, measure, print tables, write JSON and plot."""
    return report(_parse(), run=run, show=show, draw=_draw)


def _draw(figures: dict[str, Any], file: Path) -> None:
    if "points" in figures:  # not with --contexts
        video_plot.draw(figures, file)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, nargs="+", default=[], metavar="PLACE", help="videos or folders of them")
    parser.add_argument("--frames", type=int, default=FRAMES, help="of each clip, at most")
    parser.add_argument("--bundle", type=Path, help="bundle folder or .zip; the default one if not given")
    parser.add_argument("--backbone", default="", help="tag or alias; the bundle's default if not given")
    parser.add_argument("--task", default="imagenet1k", help="whose head answers")
    parser.add_argument("--codecs", default=",".join(CODECS), help=f"rivals, some of {', '.join(CODECS)}; '': none")
    parser.add_argument("--settings", type=int, help="this many qualities of each rival")
    parser.add_argument("--lags", default=",".join(map(str, LAGS)), help="frames between a frame and its reference")
    parser.add_argument(
        "--sticky", default=",".join(map(str, THRESHOLDS)), help="thresholds, 0: off, own: the bundle's"
    )
    parser.add_argument("--contexts", action="store_true", help="what each context brings, instead")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of our encoder")
    parser.add_argument("--threads", type=int, default=0, help="threads of the backbone; 0: all cores")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this file (.png, .svg, .pdf)")
    return parser.parse_args()


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All figures, ready for JSON. Raises FrankenError before anything long has begun, where it can."""
    if options.plot:
        check_plotting(options.plot)
    lags, thresholds = _numbers(options.lags, int, "lags"), _numbers(options.sticky, _threshold, "sticky")
    rivals, left_out = _rivals(options)
    bundle = Bundle.open(options.bundle)
    clips, notes = read_clips(find_clips(options.clips), preprocess_spec(bundle.edge_spec), frames=options.frames)
    encoder = FrameEncoder(bundle, provider="cpu", precision=options.precision)
    facts = {
        "bundle": bundle.manifest.name,
        "bundle_id": bundle.bundle_id,
        "codec_id": bundle.codec_id,
        "encoder": f"{encoder.analysis} {encoder.precision}",
        "clips": {clip.name: {"frames": len(clip), "fps": round(clip.fps, 3)} for clip in clips},
        "left_out": left_out + notes,
        "versions": versions() | {"av": metadata.version("av")},
    }
    latents = {clip.name: analyse(encoder, clip) for clip in clips}
    if options.contexts:
        fixed = [threshold for threshold in thresholds if threshold is not None]
        rows = video_contexts.ablation(bundle.latent_spec, latents, lags=lags, thresholds=fixed, say=console.print)
        return facts | {"contexts": rows}
    engine = choose_engine(
        bundle, options.backbone, backend="onnx", device="cpu", threads=options.threads, progress=console.print
    ).engine
    head = find_head(bundle, engine, options.task)
    codec, points = bundle.latent_codec(), []
    for clip in clips:
        console.print(f"{clip.name}: {len(clip)} frames at {clip.fps:.3g} fps", style="dim", highlight=False)
        measured = MeasuredClip(clip, Judge(engine, head, Pictures(clip.squares_NSS3, None)))
        names = [point.name for point in codec.spec.operating_points]
        points += [measured.ours(codec, latents[clip.name], way) for way in ways(names, lags, thresholds)]
        points += [measured.rival(rival) for rival in rivals]
    equal = at_equal_kl(points, ours=NAME, rivals=VIDEO_CODECS)
    points += means(points)
    return facts | {
        "backbone": engine.backbone,
        "task": options.task,
        "warm_up_frames": WARM_UP_FRAMES,
        "points": points,
        "at_equal_kl": equal,
    }


def _numbers(text: str, kind: Callable[[str], Any], what: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(f"--{what} is {text!r}, expected numbers with commas between them") from None


def _threshold(text: str) -> float | None:
    return None if text.strip() == OWN else float(text)


def _rivals(options: argparse.Namespace) -> tuple[list[VideoCodec | PictureCodec], list[str]]:
    names = [name for name in options.codecs.split(",") if name]
    unknown = [name for name in names if name not in CODECS]
    if unknown:
        raise ConfigError(f"codec is {unknown[0]!r}, expected some of {', '.join(CODECS)}")
    videos, without = video_codecs([name for name in names if name in VIDEO_CODECS], settings=options.settings)
    stills, more = picture_codecs([name for name in names if name in STILLS], 224)
    taken = {(name, quality) for name in STILLS for quality in spread(STILLS[name], options.settings)}
    return [*videos, *(c for c in stills if c.full_size and (c.name, c.quality) in taken)], without + more


def analyse(encoder: FrameEncoder, clip: Clip) -> list[Float32]:
    """Latents of a clip, float32 [C, H, W] each, from the same 8-bit squares that the rivals get."""
    planes = (np.ascontiguousarray(square.transpose(2, 0, 1)[None]) for square in clip.squares_NSS3)
    return [encoder.analyse(plane * np.float32(1 / 255)) for plane in planes]


# --- Measuring ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class MeasuredClip:
    """A clip with the unmodified backbone's answers to its raw frames."""

    clip: Clip
    judge: Judge

    def __post_init__(self) -> None:
        self._known: dict[tuple[int, bytes], Float32] = {}

    def ours(self, codec: LatentCodec, latents: Sequence[Float32], way: Way) -> Point:
        """One way of sending the clip through our codec."""
        sent = send(codec, latents, way)
        row = self._row(NAME, way.setting, way.lag, sent.payload_bytes, self._answers(codec, sent, way.point))
        kept = {"sticky": way.sticky, "referring": sent.referring, "chosen": way.chosen, "unsent": sent.unsent}
        return row | {"operating_point": way.name} | kept

    def rival(self, rival: VideoCodec | PictureCodec) -> Point:
        """A rival at one quality."""
        squares = self.clip.squares_NSS3
        if isinstance(rival, VideoCodec):
            payload_bytes, seen_NSS3 = rival.run(squares, self.clip.fps)
            images_N3SS = seen_NSS3.transpose(0, 3, 1, 2) * np.float32(1 / 255)
        else:
            files = [rival.compress(square) for square in squares]
            payload_bytes = [len(data) for data in files]
            images_N3SS = np.concatenate([rival.expand(data) for data in files])
        logits = [
            self.judge.answer_images(np.ascontiguousarray(images_N3SS[start : start + BATCH]))
            for start in range(0, len(images_N3SS), BATCH)
        ]
        return self._row(rival.name, rival.setting, None, payload_bytes, np.concatenate(logits))

    def _answers(self, codec: LatentCodec, sent: Sent, point: int) -> Float32:
        """Logits [N, K]; frames with the same symbols (another lag, no stickiness) are computed once."""
        keys = [(point, symbols.tobytes()) for symbols in sent.symbols_NCHW]
        new = [n for n, key in enumerate(keys) if key not in self._known]
        for start in range(0, len(new), BATCH):
            part = new[start : start + BATCH]
            latents = dequantise(sent.symbols_NCHW[part], codec.spec.operating_points[point])
            self._known |= zip((keys[n] for n in part), self.judge.answer_latents(latents), strict=True)
        return np.stack([self._known[key] for key in keys])

    def _row(
        self, codec: str, setting: str, lag: int | None, payload_bytes: Sequence[int], logits_NK: Float32
    ) -> Point:
        direct_NK, answers_NK = self.judge.direct_NK[WARM_UP_FRAMES:], logits_NK[WARM_UP_FRAMES:]
        bytes_mean = float(np.mean(payload_bytes[WARM_UP_FRAMES:]))
        return {
            "clip": self.clip.name,
            "codec": codec,
            "setting": setting,
            "lag": lag,
            "bytes_mean": round(bytes_mean, 1),
            "kbps": round(8e-3 * bytes_mean * self.clip.fps, 2),
            "kl": round(max(0.0, divergence(direct_NK, answers_NK)), 5),
            "agreement": round(agreement(direct_NK, answers_NK).value, 2),
        }


def means(points: Sequence[Point]) -> list[Point]:
    """The mean over clips of each codec, setting and lag."""
    rows: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        rows.setdefault((point["codec"], point["setting"], point["lag"]), []).append(point)
    figures = {"bytes_mean": 1, "kbps": 2, "kl": 5, "agreement": 2}
    return [
        {**same[0], "clip": MEAN}
        | {key: round(float(np.mean([p[key] for p in same])), digits) for key, digits in figures.items()}
        for same in rows.values()
    ]


# --- Showing ------------------------------------------------------------------------------------------------------


def show(console: Console, figures: dict[str, Any]) -> None:
    """Tables of the means, of equal KL, or of the contexts; and what was left out."""
    title = f"{figures['bundle']}, {figures['encoder']}, {len(figures['clips'])} clips"
    if "contexts" in figures:
        video_contexts.show(console, figures["contexts"], title)
    else:
        _show_points(console, figures, title)
        _show_equal_kl(console, figures["at_equal_kl"])
    for line in figures["left_out"]:
        console.print(line, style="dim", markup=False)


def _show_points(console: Console, figures: dict[str, Any], title: str) -> None:
    table = Table(title=f"{title}, {figures['backbone']}: mean", title_justify="left", box=SIMPLE_HEAD, padding=0)
    for heading in ("codec", "setting"):
        table.add_column(heading, no_wrap=True)
    for heading in ("lag", "bytes", "kbit/s", "KL", "agree"):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in figures["points"]:
        if point["clip"] == MEAN:
            table.add_row(
                point["codec"], point["setting"], "" if point["lag"] is None else str(point["lag"]),
                f"{point['bytes_mean']:,.0f}", f"{point['kbps']:,.0f}", f"{point['kl']:.3f}",
                f"{point['agreement']:.1f}",
            )  # fmt: skip
    console.print(table)


def _show_equal_kl(console: Console, rows: Sequence[Point]) -> None:
    table = Table(title="bytes at equal mean KL, and times ours", title_justify="left", box=SIMPLE_HEAD, padding=0)
    for heading in ("setting", "lag", "KL", "ours", *VIDEO_CODECS):
        table.add_column(heading, justify="left" if heading == "setting" else "right", no_wrap=True)
    for row in rows:
        rivals = [_rival_cell(row, name) for name in VIDEO_CODECS]
        name = row["setting"].replace(", own sticky, chosen", " as it streams").replace(", own sticky", " sticky")
        table.add_row(name, str(row["lag"]), f"{row['kl']:.3f}", f"{row['bytes_mean']:,.0f}", *rivals)
    console.print(table)
    console.print("≤: its cheapest quality is nearer than we are; –: none of its qualities comes so near", style="dim")


def _rival_cell(row: Point, name: str) -> str:
    if row[f"{name}_bound"] == NONE:
        return "–"
    if row[f"{name}_bound"] == FEWEST:
        return f"≤ {row[name]:,.0f}"
    return f"{row[name]:,.0f} {row[f'{name}_ratio']:.1f}×"


if __name__ == "__main__":
    sys.exit(main())
