"""How many bytes a frame takes, and what they cost in accuracy: our codec against JPEG, WebP, AVIF and PNG.

    python -m benchmarks.rate_accuracy --data 'GLOB' [--bundle NAME] --json FILE --plot FILE

Every figure is a comparison with the unmodified backbone on the same pictures, whose answers are computed once: top-1
and top-5, points of top-1 lost (paired bootstrap interval), agreement (Wilson interval) and KL in nats. Data without
labels, and videos, give agreement and KL only.

Same for all: each codec gets the same 8-bit square (evaluation crop) and is judged by what a server makes of its bytes.
Bytes are those of real files or bitstreams, headers included, the wire's own header not. A picture codec at a smaller
side is kept only where that beats its full side at equal bytes (by KL, the least noisy figure); what was dropped is
listed. Every frame stands alone, of videos too. Our encoder runs in fp32 unless --precision int8 is given.

Beware of photographs that are JPEGs of about the evaluated size: their crop keeps the old 8x8 grid, and a JPEG of the
quality that they had already changes next to nothing (nips2017-1000: q90 comes out better than q95).

Axes: N pictures, B batch, C H W the latent, S side of the encoder's input, K classes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.evaluation_pictures import read_pictures
from benchmarks.judge import Float32, Judge, find_head, versions
from benchmarks.picture_codecs import DEFAULT_CODECS, QUALITIES, PictureCodec, picture_codecs
from benchmarks.rate_plot import OURS, check_plotting, draw
from benchmarks.rate_reach import reach
from benchmarks.report import report
from pipeline.bundle import Bundle
from pipeline.codec import LatentCodec, dequantise, quantise
from pipeline.datasets import SPLITS
from pipeline.datasets.halves import HALVES
from pipeline.runtime.encoder import PRECISIONS, FrameEncoder, preprocess_spec
from pipeline.runtime.engines import choose_engine
from tasks.catalogue import load_catalogue


def main() -> int:
    """Read, measure, print a table, write JSON and plot."""
    return report(_parse(), run=run, show=show, draw=draw)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="GLOB", help="tar shards, folders, pictures or videos")
    parser.add_argument("--bundle", type=Path, help="bundle folder or .zip; the default one if not given")
    parser.add_argument("--backbone", default="", help="tag or alias; the bundle's default if not given")
    parser.add_argument("--task", default="imagenet1k", help="whose head answers; the labels are of this task")
    parser.add_argument("--codecs", default=",".join(DEFAULT_CODECS), help=f"some of {', '.join(QUALITIES)}; '': none")
    parser.add_argument("--half", choices=HALVES, default="all", help="by the hash of the file name")
    parser.add_argument("--split", choices=tuple(SPLITS), default="test", help="of data with split folders")
    parser.add_argument("--limit", type=_positive, help="this many pictures, evenly spread")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of our encoder")
    parser.add_argument("--device", default="auto", help="of the backbone: auto, cpu, cuda")
    parser.add_argument("--threads", type=int, default=0, help="threads of the backbone; 0: all cores")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this file (.png, .svg, .pdf)")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} pictures, expected at least 1")
    return number


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All figures, ready for JSON. Raises FrankenError before anything long has begun, where it can."""
    if options.plot:
        check_plotting(options.plot)
    bundle = Bundle.open(options.bundle)
    spec = preprocess_spec(bundle.edge_spec).evaluation()
    names = [name for name in options.codecs.split(",") if name]
    rivals, left_out = picture_codecs(names, spec.size)
    classes = load_catalogue(options.task).keys
    engine = choose_engine(
        bundle, options.backbone, backend="onnx", device=options.device, threads=options.threads, progress=console.print
    ).engine
    head = find_head(bundle, engine, options.task)
    encoder = FrameEncoder(bundle, provider="cpu", precision=options.precision)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        reading = progress.add_task("reading pictures", total=None)
        pictures = read_pictures(
            options.data, spec, classes=classes, half=options.half, limit=options.limit, split=options.split,
            on_picture=lambda done, total: progress.update(reading, completed=done, total=total),
        )  # fmt: skip
        progress.remove_task(reading)
        points = measure(bundle, encoder, Judge(engine, head, pictures, progress), rivals)
    kept, dropped = drop_useless_sides(points)
    return {
        "bundle": bundle.manifest.name,
        "bundle_id": bundle.bundle_id,
        "codec_id": bundle.codec_id,
        "backbone": engine.backbone,
        "task": options.task,
        "encoder": f"{encoder.analysis} {encoder.precision}",
        "data": options.data,
        "half": options.half,
        "images": len(pictures),
        "points": [point.figures for point in kept],
        "reach": reach([point.figures for point in kept]),
        "left_out": left_out + [f"{point.codec} {point.setting}: no better than its full side" for point in dropped],
        "notes": list(pictures.notes),
        "versions": versions(),
    }


@dataclass(frozen=True)
class Point:
    """A codec at one setting; `full_side` is false where a smaller picture was sent."""

    figures: dict[str, Any]
    full_side: bool = True

    @property
    def codec(self) -> str:
        return str(self.figures["codec"])

    @property
    def setting(self) -> str:
        return str(self.figures["setting"])


# --- Measuring ----------------------------------------------------------------------------------------------------


def measure(bundle: Bundle, encoder: FrameEncoder, judge: Judge, rivals: Sequence[PictureCodec]) -> list[Point]:
    """The bundle's operating points, then the rivals at all their settings."""
    rows = [Point(row) for row in measure_bundle(bundle.latent_codec(), encoder, judge)]
    return rows + [Point(measure_rival(rival, judge), rival.full_size) for rival in rivals]


def measure_bundle(codec: LatentCodec, encoder: FrameEncoder, judge: Judge) -> list[dict[str, Any]]:
    """Every operating point by way of real bitstreams; pictures are analysed once for all of them."""
    points = codec.spec.operating_points
    logits: list[list[Float32]] = [[] for _ in points]
    payload_bytes: list[list[int]] = [[] for _ in points]
    tell = judge.progress(f"{OURS} {', '.join(point.name for point in points)}")
    for part in judge.parts():
        latents = [encoder.analyse(image[None]) for image in judge.images(part)]
        for index, point in enumerate(points):
            bitstreams = [codec.encode(quantise(latent_CHW, point), index) for latent_CHW in latents]
            received = np.stack([dequantise(codec.decode(data).symbols, point) for data in bitstreams])
            logits[index].append(judge.answer_latents(received))
            payload_bytes[index] += [len(data) for data in bitstreams]
        tell(len(latents))
    return [
        judge.figures(OURS, point.name, np.concatenate(logits[index]), payload_bytes[index])
        for index, point in enumerate(points)
    ]


def measure_rival(rival: PictureCodec, judge: Judge) -> dict[str, Any]:
    """A picture codec at one setting: files, and the unmodified backbone on what they hold."""
    answers: list[Float32] = []
    payload_bytes: list[int] = []
    tell = judge.progress(f"{rival.name} {rival.setting}")
    for part in judge.parts():
        files = [rival.compress(square) for square in judge.pictures.squares_NSS3[part]]
        images = np.concatenate([rival.expand(data) for data in files])
        unchanged = np.array_equal(images, judge.images(part))
        answers.append(judge.direct_NK[part] if unchanged else judge.answer_images(images))
        payload_bytes += [len(data) for data in files]
        tell(len(files))
    return judge.figures(rival.name, rival.setting, np.concatenate(answers), payload_bytes)


def drop_useless_sides(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """(kept, dropped): smaller sides stay where their KL lies below that of the full side at equal bytes.

    Between its settings the full side is interpolated, log KL over log bytes; below its fewest bytes nothing compares.
    """
    kept: list[Point] = []
    dropped: list[Point] = []
    for point in points:
        full = sorted(
            (p.figures["bytes_mean"], p.figures["kl"]) for p in points if p.codec == point.codec and p.full_side
        )
        useless = not point.full_side and bool(full) and _is_above(point, full)
        (dropped if useless else kept).append(point)
    return kept, dropped


def _is_above(point: Point, full: Sequence[tuple[float, float]]) -> bool:
    sizes, divergences = (np.log(np.maximum(column, 1e-9)) for column in zip(*full, strict=True))
    size, kl = (float(np.log(max(point.figures[key], 1e-9))) for key in ("bytes_mean", "kl"))
    return size >= sizes[0] and kl >= float(np.interp(size, sizes, divergences))


# --- Showing ------------------------------------------------------------------------------------------------------


def show(console: Console, figures: dict[str, Any]) -> None:
    """The table, and what was left out."""
    points = figures["points"]
    title = f"{figures['bundle']}, {figures['encoder']}, {figures['backbone']}, {figures['images']} pictures"
    labelled = points[0]["top1"] is not None
    if labelled:
        top1, top5 = (points[0][f"top{k}_direct"] for k in (1, 5))
        title += f"\nunmodified backbone: top-1 {top1:.1f} %, top-5 {top5:.1f} %"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("codec", no_wrap=True)
    table.add_column("setting", no_wrap=True)
    for heading in ("bytes", *(("top-1", "top-5", "lost", "95 %") if labelled else ()), "agree", "KL"):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in points:
        cells = [f"{point['bytes_mean']:,.0f}", f"{point['agreement']:.1f}", f"{point['kl']:.3f}"]
        if labelled:
            low, high = point["loss_ci95"]
            accuracies = [f"{point[key]:.1f}" for key in ("top1", "top5", "loss_points")]
            cells[1:1] = [*accuracies, f"{low:.1f}…{high:.1f}"]
        table.add_row(point["codec"], point["setting"], *cells)
    console.print(table)
    if figures["reach"]:
        console.print(_reach_table(figures["reach"]))
    for line in (*figures["left_out"], *figures["notes"][:5]):
        console.print(line, style="dim", markup=False)
    if len(figures["notes"]) > 5:
        console.print(f"… and {len(figures['notes']) - 5} more pictures that were skipped", style="dim")


def _reach_table(rows: Sequence[dict[str, Any]]) -> Table:
    losses = list(dict.fromkeys(row["loss_points"] for row in rows))
    table = Table(title="bytes a frame at a loss of", title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("codec", no_wrap=True)
    for loss in losses:
        table.add_column(f"{loss:g} points", justify="right", no_wrap=True)
    for codec in dict.fromkeys(row["codec"] for row in rows):
        sizes = [row["bytes"] for row in rows if row["codec"] == codec]
        table.add_row(codec, *("not reached" if size is None else f"{size:,}" for size in sizes))
    return table


if __name__ == "__main__":
    sys.exit(main())
