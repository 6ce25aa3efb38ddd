"""Bytes at equal KL: each of our best settings against what a rival takes for the same.

All are means over the clips, each with the same weight. A rival is taken at its best: of its qualities, those that no
other beats in both; between them log bytes over log KL, and outside of them nothing is guessed. A rival's curve can end
on either side: `fewest`, its cheapest quality is nearer to the backbone than we are, so it takes that or less; `none`,
no quality that was tried comes so near. The interval of the ratio, rival over ours, draws clips with replacement.

Axes: C clips, D draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
FEWEST, NONE = "fewest", "none"

Floats = NDArray[np.float64]
Point = dict[str, Any]
Way = tuple[str, str, int | None]
"""(codec, setting, lag)."""


def at_equal_kl(points: Iterable[Point], *, ours: str, rivals: Sequence[str], draws: int = DRAWS) -> list[Point]:
    """Our best settings at each lag; for each rival its bytes (None where its curve ends: `_bound`), and the ratio.

    `points`: of each clip.
    """
    ways = _ways(points)
    clips = max((len(sizes) for sizes, _kls in ways.values()), default=0)
    picks_DC = np.random.default_rng(0).integers(clips, size=(draws, clips)) if clips > 1 else None
    rows = []
    for way in _best(ways, ours):
        row: Point = {"setting": way[1], "lag": way[2]}
        row |= {"bytes_mean": round(ways[way][0].mean(), 1), "kl": round(ways[way][1].mean(), 5)}
        for rival in rivals:
            curve = [pair for (codec, _, _), pair in ways.items() if codec == rival]
            row |= _compared(rival, curve, ways[way], picks_DC)
        rows.append(row)
    return rows


def _ways(points: Iterable[Point]) -> dict[Way, tuple[Floats, Floats]]:
    """Way → (bytes [C], KL [C]); clips in one order."""
    found: dict[Way, list[tuple[str, float, float]]] = {}
    for point in points:
        way = (point["codec"], point["setting"], point["lag"])
        found.setdefault(way, []).append((point["clip"], point["bytes_mean"], point["kl"]))
    columns = {way: list(zip(*sorted(rows), strict=True)) for way, rows in found.items()}
    return {way: (np.array(sizes), np.array(kls)) for way, (_clips, sizes, kls) in columns.items()}


def _best(ways: dict[Way, tuple[Floats, Floats]], codec: str) -> list[Way]:
    """At each lag, the ways that are better than all with fewer bytes."""
    chosen: list[Way] = []
    for lag in sorted({lag for name, _, lag in ways if name == codec and lag is not None}):
        own = sorted((w for w in ways if w[0] == codec and w[2] == lag), key=lambda w: ways[w][0].mean())
        nearest = np.inf
        for way in own:
            if ways[way][1].mean() < nearest:
                nearest = ways[way][1].mean()
                chosen.append(way)
    return chosen


def _compared(
    rival: str, curve: Sequence[tuple[Floats, Floats]], own: tuple[Floats, Floats], picks_DC: NDArray[np.int64] | None
) -> Point:
    if not curve:
        return {rival: None, f"{rival}_bound": NONE, f"{rival}_ratio": None, f"{rival}_ratio_ci95": None}
    sizes_QC, kls_QC = (np.stack(column) for column in zip(*curve, strict=True))
    size, bound = bytes_at(sizes_QC.mean(axis=1), kls_QC.mean(axis=1), own[1].mean())
    ratio = None if bound else round(size / own[0].mean(), 2)
    interval = None
    if picks_DC is not None and not bound:
        ratios = []
        for pick_C in picks_DC:
            sizes_Q, kls_Q, sizes, kl = (array[..., pick_C].mean(axis=-1) for array in (sizes_QC, kls_QC, *own))
            drawn, end = bytes_at(sizes_Q, kls_Q, float(kl))
            ratios.append(np.inf if end == NONE else drawn / sizes)
        low, high = np.percentile(ratios, [2.5, 97.5], method="nearest")
        interval = [round(float(low), 2), None if np.isinf(high) else round(float(high), 2)]
    return {
        rival: None if bound == NONE else round(size, 1), f"{rival}_bound": bound, f"{rival}_ratio": ratio,
        f"{rival}_ratio_ci95": interval,
    }  # fmt: skip


def bytes_at(sizes_Q: Floats, kls_Q: Floats, kl: float) -> tuple[float, str]:
    """(bytes of a codec of these qualities at a KL, where its curve ends before that: FEWEST or NONE, else "")."""
    best: list[tuple[float, float]] = []
    for size, quality_kl in sorted(zip(sizes_Q.tolist(), kls_Q.tolist(), strict=True)):
        if not best or quality_kl < best[-1][1]:
            best.append((size, quality_kl))
    if kl > best[0][1]:
        return best[0][0], FEWEST
    if kl < best[-1][1]:
        return best[-1][0], NONE
    sizes, kls = (np.log(np.maximum(column, 1e-9)) for column in zip(*best[::-1], strict=True))
    return float(np.exp(np.interp(np.log(max(kl, 1e-9)), kls, sizes))), ""
