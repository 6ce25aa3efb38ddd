"""The fewest bytes at which a codec loses no more than so many points: read off its curve of bytes and loss.

Losses are noisy, so a curve is first made to fall: what a setting loses counts as at most what any smaller one loses.
Between settings, loss is linear over log bytes; beyond them nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

LOSSES = (0.4, 1.0, 2.0, 5.0)
"""Points of top-1 that are asked about."""


def bytes_at(curve: Iterable[tuple[float, float]], loss: float) -> float | None:
    """Bytes where a curve of (bytes, loss in points) comes down to ``loss``; None if it never does.

    A curve that begins below gives its fewest bytes: that many are enough.
    """
    ordered = sorted(curve)
    falling = list(zip((size for size, _ in ordered), accumulate((lost for _, lost in ordered), min), strict=True))
    if falling and falling[0][1] <= loss:
        return falling[0][0]
    for (small, above), (large, below) in pairwise(falling):
        if below <= loss:
            part = (above - loss) / (above - below)
            return math.exp(math.log(small) + part * (math.log(large) - math.log(small)))
    return None


def reach(points: Sequence[Mapping[str, Any]], losses: Sequence[float] = LOSSES) -> list[dict[str, Any]]:
    """Each codec's ``bytes_at`` every loss, rounded, in the order of the codecs; nothing without labels."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        if point["loss_points"] is not None:
            curves.setdefault(point["codec"], []).append((point["bytes_mean"], point["loss_points"]))
    rows = []
    for codec, curve in curves.items():
        for loss in losses:
            size = bytes_at(curve, loss)
            rows.append({"codec": codec, "loss_points": loss, "bytes": None if size is None else round(size)})
    return rows
