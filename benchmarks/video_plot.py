"""The figures of `benchmarks.video` as a picture: bytes a frame against KL, both logarithmic, mean of all clips.

    python -m benchmarks.video_plot FIGURES.json PLOT.png

draws finished figures again. Needs matplotlib (dependency group `dev`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rate_plot import check_plotting
from pipeline.errors import FrankenError

Point = dict[str, Any]
OURS, RIVALS = "frankenstream", ("x264", "x265", "svt-av1", "jpeg", "webp")
_OUR_LINES = {
    1: ("#0072B2", "-", "ours, lag 1"),
    3: ("#56B4E9", "-", "ours, lag 3"),
    0: ("#004466", ":", "ours, alone"),
}
_RIVAL_LINES = dict(zip(RIVALS, ("#D55E00", "#E69F00", "#CC79A7", "#6B6B6B", "#009E73"), strict=True))
_BYTE_TICKS = (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_KL_TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
_COLUMNS_MAX = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, help="what benchmarks.video wrote with --json")
    parser.add_argument("plot", type=Path, help="a .png, .svg or .pdf")
    options = parser.parse_args()
    try:
        check_plotting(options.plot)
        draw(json.loads(options.figures.read_text("utf-8")), options.plot)
    except (FrankenError, OSError, ValueError, KeyError) as error:
        print(error, file=sys.stderr)
        return error.exit_code if isinstance(error, FrankenError) else 3
    return 0


def draw(figures: dict[str, Any], file: Path) -> None:
    """Write the picture. `check_plotting` has been asked before."""
    figure = make_figure(figures)
    figure.savefig(file, dpi=150)
    importlib.import_module("matplotlib.pyplot").close(figure)


def make_figure(figures: dict[str, Any]) -> Any:
    """matplotlib's figure: the mean in large, each clip in small below it."""
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    clips = list(figures["clips"])
    columns = min(_COLUMNS_MAX, len(clips))
    rows = -(-len(clips) // columns)
    figure = pyplot.figure(figsize=(10, 6.4 + 2.5 * rows), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[6.4, *[2.5] * rows])
    axes = figure.add_subplot(grid[0, :])
    _panel(axes, [point for point in figures["points"] if point["clip"] == "mean"], large=True)
    axes.set_title(_title(figures), loc="left", fontsize=11)
    for number, clip in enumerate(clips):
        small = figure.add_subplot(grid[1 + number // columns, number % columns])
        _panel(small, [point for point in figures["points"] if point["clip"] == clip], large=False)
        small.set_title(clip, fontsize=8, loc="left")
    return figure


def _title(figures: dict[str, Any]) -> str:
    frames = sum(clip["frames"] for clip in figures["clips"].values())
    return (
        "What a frame's bytes are worth in a video: lower left is better\n"
        f"{figures['backbone']}, {len(figures['clips'])} clips, {frames} frames; KL to its answers on the raw frames"
    )


def _panel(axes: Any, points: Sequence[Point], *, large: bool) -> None:
    for codec in RIVALS:
        own = [point for point in points if point["codec"] == codec]
        _line(axes, own, label=codec, colour=_RIVAL_LINES[codec], style="--" if codec in ("jpeg", "webp") else "-")
    for lag, (colour, style, label) in _OUR_LINES.items():
        own = [point for point in points if point["codec"] == OURS and point["lag"] == lag]
        best = _line(axes, own, label=label, colour=colour, style=style, width=2.6)
        for point in _apart(best) if large and lag == 1 else ():
            name = point["setting"].replace(", own sticky, chosen", ", as it streams").replace(", sticky", " θ")
            axes.annotate(
                name, (point["bytes_mean"], max(point["kl"], 1e-3)), color=colour,
                textcoords="offset points", xytext=(-5, -9), fontsize=8, ha="right",
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(
        _BYTE_TICKS, [f"{tick:,}" for tick in _BYTE_TICKS], fontsize=9 if large else 6, rotation=0 if large else 60
    )
    axes.set_yticks(_KL_TICKS, [f"{tick:g}" for tick in _KL_TICKS], fontsize=9 if large else 6)
    axes.minorticks_off()
    _limits(axes, points)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if large:
        axes.set_xlabel("bytes a frame (log scale)")
        axes.set_ylabel("KL, nats (log scale)")
        axes.legend(frameon=False, fontsize=9)


def _apart(points: Sequence[Point]) -> list[Point]:
    """Those that are far enough from the one before to be named."""
    named: list[Point] = []
    for point in points:
        if not named or point["bytes_mean"] > 1.25 * named[-1]["bytes_mean"]:
            named.append(point)
    return named


def _limits(axes: Any, points: Sequence[Point]) -> None:
    if points:
        sizes = np.array([point["bytes_mean"] for point in points])
        kls = np.maximum([point["kl"] for point in points], 1e-3)
        axes.set_xlim(0.7 * sizes.min(), 1.4 * sizes.max())
        axes.set_ylim(0.7 * kls.min(), 1.4 * kls.max())


def _line(
    axes: Any, points: Sequence[Point], *, label: str, colour: str, style: str, width: float = 1.5
) -> list[Point]:
    """A line through the points that are better than all with fewer bytes, the others faint; returns the former."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: point["bytes_mean"]):
        if not best or point["kl"] < best[-1]["kl"]:
            best.append(point)
    rest = [point for point in points if point not in best]
    if best:
        axes.plot(*_values(best), style, color=colour, linewidth=width, marker="o", markersize=2 + width, label=label)
    axes.plot(*_values(rest), "o", color=colour, markersize=3, alpha=0.35)
    return best


def _values(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    kls = np.maximum([point["kl"] for point in points], 1e-3) if points else np.empty(0)
    return np.array([point["bytes_mean"] for point in points]), np.asarray(kls)


if __name__ == "__main__":
    sys.exit(main())
