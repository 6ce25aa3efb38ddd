"""The plot of benchmarks.networks: for each network, what a viewer sees against the age of what is seen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

_COLOURS = {"ours": "tab:blue", "x264": "tab:red", "jpeg": "tab:orange", "webp": "tab:green"}


def draw(figures: dict[str, Any], file: Path) -> None:
    """Rows of bars: frames answered in time, age p95, wrong answers that are seen, rate; a group for each network. What
    a stream without answers would show is left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = figures["rows"]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    streams = list(dict.fromkeys(row["stream"] for row in rows))
    panels = (
        ("in_time", "frames answered in time, %", 100.0),
        ("age_p95_ms", "age of the newest result, p95, ms", None),
        ("seen_points", "what is seen now is not the backbone's, %", None),
        ("kbps", "sent, kbit/s", None),
    )
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(max(8, 1.3 * len(networks) + 3), 11), sharex=True)
    width = 0.86 / len(streams)
    for axis, (key, label, top) in zip(axes, panels, strict=True):
        for place, stream in enumerate(streams):
            values = {row["network"]: row[key] for row in rows if row["stream"] == stream}
            heights = [math.nan if values.get(network) is None else values[network] for network in networks]
            kind, _, setting = stream.partition(", ")
            steered = setting == "rate control"
            axis.bar(
                [number + (place - len(streams) / 2 + 0.5) * width for number in range(len(networks))], heights, width,
                color=_COLOURS.get(kind, "grey"), alpha=1.0 if steered else 0.25 + 0.15 * (place % 3),
                edgecolor="black" if steered else "none", linewidth=0.6, label=stream,
            )  # fmt: skip
        axis.set_ylabel(label, fontsize=9)
        axis.grid(axis="y", alpha=0.3)
        if top is not None:
            axis.set_ylim(0, top)
    axes[-1].set_xticks(range(len(networks)), networks)
    axes[0].legend(fontsize=7, ncol=5, loc="lower center", bbox_to_anchor=(0.5, 1.02))
    figure.suptitle(f"{figures['clip']}, {figures['seconds']:g} s each, {figures['backbone']}", y=0.995, fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
