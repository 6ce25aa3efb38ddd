"""The figures of `benchmarks.rate_accuracy` as a picture: bytes a frame (log) against points of top-1 lost.

    python -m benchmarks.rate_plot FIGURES.json [MORE.json ...] PLOT.png [--axis kl]

draws finished figures again; those of several bundles in one picture, where they are of the same pictures and backbone.
Data without labels are drawn as KL. Needs matplotlib (dependency group `dev`).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, FrankenError

SUFFIXES = (".png", ".svg", ".pdf")
AXES = ("loss_points", "kl")
OURS = "frankenstream"
"""The codec's name in the points of a bundle."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6B6B6B", "#E69F00")
"""Okabe and Ito's, told apart by everyone; ours first."""
MARKERS = "osD^vP"
_LOSS_TICKS = (-1, 0, 0.5, 1, 2, 5, 10, 20, 50, 100)
_KL_TICKS = (0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_BYTE_TICKS = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, nargs="+", help="what benchmarks.rate_accuracy wrote with --json")
    parser.add_argument("plot", type=Path, help="a .png, .svg or .pdf")
    parser.add_argument(
        "--axis", choices=AXES, default=AXES[0], help="points of top-1, or KL to the unmodified backbone"
    )
    options = parser.parse_args()
    try:
        check_plotting(options.plot)
        draw(merged([json.loads(file.read_text("utf-8")) for file in options.figures]), options.plot, options.axis)
    except (FrankenError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return error.exit_code if isinstance(error, FrankenError) else 3
    return 0


def check_plotting(file: Path) -> None:
    """Raise ConfigError if `file` cannot be drawn: better before the measurement than after it."""
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"plot is {file.name!r}, expected a name that ends with {', '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("drawing needs matplotlib, which is not installed: pip install matplotlib, or omit --plot")


def merged(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of several bundles as those of one: each bundle's line has the name of its encoder, picture codecs
    are the first one's. Raises ConfigError if they are not of the same pictures and backbone.
    """
    first, *others = several
    if not others:
        return first
    for other in others:
        for key in ("backbone", "task", "data", "half", "images"):
            if other[key] != first[key]:
                raise ConfigError(f"{key} is {first[key]} and {other[key]}: only figures of the same compare")
    names = [figures["encoder"].removesuffix(" fp32") for figures in several]
    if len(set(names)) < len(names):
        names = [
            f"{name}, {figures['bundle']} {figures['codec_id'][:6]}"
            for name, figures in zip(names, several, strict=True)
        ]
    ours = [
        point | {"codec": name}
        for figures, name in zip(several, names, strict=True)
        for point in figures["points"]
        if point["codec"] == OURS
    ]
    return first | {"points": ours + [point for point in first["points"] if point["codec"] != OURS], "ours": names}


def draw(figures: dict[str, Any], file: Path, axis: str = AXES[0]) -> None:
    """Write the picture. `check_plotting` has been asked before."""
    figure = make_figure(figures, axis)
    figure.savefig(file, dpi=160)
    importlib.import_module("matplotlib.pyplot").close(figure)


def make_figure(figures: dict[str, Any], axis: str = AXES[0]) -> Any:
    """matplotlib's figure: one line a codec, labelled where it is far from the others; our operating points by name."""
    importlib.import_module("matplotlib").use("Agg")
    figure, axes = importlib.import_module("matplotlib.pyplot").subplots(figsize=(9, 5.6), layout="constrained")
    key = "kl" if any(point["loss_points"] is None for point in figures["points"]) else axis
    lines = _lines(figures["points"])
    ours = figures.get("ours", [OURS])
    if len(lines) > len(COLOURS):
        raise ConfigError(f"{len(lines)} lines, a plot takes {len(COLOURS)}: leave some --codecs or figures out")
    for (codec, points), colour, marker in zip(lines.items(), COLOURS, MARKERS, strict=False):
        (_our_line if codec in ours else _line)(axes, points, key, colour=colour, marker=marker)
    _axes(axes, figures, key, ours)
    figure.canvas.draw()  # names are placed by where things have come to lie
    _label(axes, lines, key, ours)
    return figure


def _lines(points: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Codec → its points in order of bytes."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for point in sorted(points, key=lambda point: point["bytes_mean"]):
        lines.setdefault(point["codec"], []).append(point)
    order = list(dict.fromkeys(point["codec"] for point in points))
    return {codec: lines[codec] for codec in order}


def _line(axes: Any, points: Sequence[dict[str, Any]], key: str, *, colour: str, marker: str) -> None:
    """A rival: a line through its best points, the others faint."""
    best = _best(points, key)
    x, y = _values(best, key)
    axes.plot(x, y, color=colour, linewidth=1.6, marker=marker, markersize=4.5, zorder=3)
    axes.plot(*_values([p for p in points if p not in best], key), marker, color=colour, markersize=3, alpha=0.35)
    for point, at_x, at_y in zip(best, x, y, strict=True):
        if ", " not in point["setting"]:  # smaller sides would crowd the rest
            axes.annotate(
                point["setting"], (at_x, at_y), textcoords="offset points", xytext=(4, 3), color=colour, fontsize=6.5
            )


def _our_line(axes: Any, points: Sequence[dict[str, Any]], key: str, *, colour: str, marker: str) -> None:
    """All operating points by name, with their intervals."""
    x, y = _values(points, key)
    axes.plot(x, y, color=colour, linewidth=2.6, marker=marker, markersize=8, zorder=5)
    if key == "loss_points":
        low, high = np.array([point["loss_ci95"] for point in points]).T
        reach = np.maximum([y - low, high - y], 0)  # rounded, an interval may end a hundredth before its mean
        axes.errorbar(x, y, yerr=reach, fmt="none", ecolor=colour, elinewidth=1.4, capsize=3, alpha=0.6, zorder=4)
    for number, (point, at_x, at_y) in enumerate(zip(points, x, y, strict=True), start=1):
        last = number == len(points)  # to its right, as the others come close to it
        axes.annotate(
            point["setting"], (at_x, at_y), textcoords="offset points", xytext=(8 if last else -7, -3),
            ha="left" if last else "right", va="top", color=colour, fontsize=9.5, zorder=6, path_effects=_halo(3),
        )  # fmt: skip


def _best(points: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Those of a codec's points, in order of bytes, that are better than all with fewer bytes."""
    best: list[dict[str, Any]] = []
    for point in points:
        if not best or point[key] < best[-1][key]:
            best.append(point)
    return best


def _values(points: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    return np.array([point["bytes_mean"] for point in points]), np.array([point[key] for point in points], float)


def _axes(axes: Any, figures: dict[str, Any], key: str, ours: Sequence[str]) -> None:
    """Scales, ticks in words, and a title that says what was measured on what."""
    axes.set_xscale("log")
    axes.set_xticks(_BYTE_TICKS, [f"{tick / 1000:g} kB" for tick in _BYTE_TICKS])
    x = np.array([point["bytes_mean"] for point in figures["points"]])
    axes.set_xlim(0.72 * x.min(), 1.5 * x.max())
    axes.set_xlabel("bytes a frame, mean of real files and bitstreams (log scale)")
    first = figures["points"][0]
    subtitle = f"{figures['backbone']}, {figures['images']} pictures"
    if key == "loss_points":
        axes.set_yscale("symlog", linthresh=1, linscale=0.6)
        axes.set_yticks(_LOSS_TICKS, [f"{tick:g}" for tick in _LOSS_TICKS])
        bars = [point["loss_ci95"][0] for point in figures["points"] if point["codec"] in ours]
        lowest = max(-2.0, min(-0.4, *bars, *(1.2 * point["loss_points"] for point in figures["points"])))
        axes.set_ylim(lowest, 1.9 * max(2.0, *(point["loss_points"] for point in figures["points"])))
        axes.axhline(0, color="black", linewidth=0.9)
        axes.set_ylabel("points of top-1 lost (bars: 95 % interval)")
        subtitle += f"; 0 is the unmodified backbone ({first['top1_direct']:.1f} % top-1 here)"
    else:
        axes.set_yscale("symlog", linthresh=0.005, linscale=0.4)
        axes.set_yticks(_KL_TICKS, [f"{tick:g}" for tick in _KL_TICKS])
        axes.set_ylim(-0.001, 1.9 * max(0.1, *(point["kl"] for point in figures["points"])))
        axes.set_ylabel("KL to the unmodified backbone's answers, nats")
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    title = f"What a frame's bytes cost in accuracy: lower left is better\n{subtitle}"
    axes.set_title(title, loc="left", fontsize=11)


def _label(axes: Any, lines: dict[str, list[dict[str, Any]]], key: str, ours: Sequence[str]) -> None:
    """A rival's name above that point of its line which is farthest from all other points and names; ours at its left
    end.
    """
    best = {codec: _best(points, key) for codec, points in lines.items()}
    places = {codec: axes.transData.transform(np.column_stack(_values(points, key))) for codec, points in best.items()}
    named: list[np.ndarray] = []
    for codec, colour in zip(lines, COLOURS, strict=False):
        taken = [place for other, some in places.items() if other != codec for place in some] + named
        chosen = 0
        if taken and ours != [codec]:
            distances = np.linalg.norm(places[codec][:, None] - np.array(taken)[None], axis=2).min(axis=1)
            chosen = int(distances.argmax())
        named.append(places[codec][chosen])
        point = best[codec][chosen]
        left = ours == [codec]  # one alone stands free there; several would reach over the axis
        axes.annotate(
            codec, (point["bytes_mean"], point[key]), textcoords="offset points", xytext=(-9 if left else 10, 12),
            ha="right" if left else "left", color=colour, fontsize=12, fontweight="bold", zorder=7,
            path_effects=_halo(3),
        )  # fmt: skip


def _halo(width: float) -> list[Any]:
    """Keeps text readable where a line passes behind it."""
    return [importlib.import_module("matplotlib.patheffects").withStroke(linewidth=width, foreground="white")]


if __name__ == "__main__":
    sys.exit(main())
