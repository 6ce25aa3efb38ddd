"""From probabilities to integer tables: rounded, rare symbols left to escape, equal tables stored once.

Here alone probabilities are floats; `entropy_model` keeps what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.codec.places import PLACE_CONTEXTS
from pipeline.errors import BundleError
from pipeline.limits import SYMBOL_MAGNITUDE_MAX

SYMBOLS_PER_TABLE_MAX: Final = 255

IntArray = NDArray[Any]


@dataclass(frozen=True, eq=False)
class ChannelPmf:
    """Probabilities or counts of one channel's symbols, the input of `EntropyModel.from_probabilities`.

    `weights` is float64 [n] or [contexts, n] for the symbols `low … low + n − 1`; any scale. `escape` is the weight of
    all other symbols, a number or [contexts].
    """

    low: int
    weights: ArrayLike
    escape: ArrayLike = 0.0


class TablePool:
    """Distinct tables, in order of first use."""

    def __init__(self, precision: int) -> None:
        self.precision = precision
        self.lows: list[int] = []
        self.freqs: list[NDArray[np.int64]] = []
        self._numbers: dict[tuple[int, bytes], int] = {}

    def add(self, low: int, weights: NDArray[np.float64], escape: float) -> int:
        low, weights, escape = _trim(low, weights, escape, self.precision)
        freqs = integer_freqs(np.append(weights, escape), self.precision)
        key = (low, freqs.tobytes())
        number = self._numbers.setdefault(key, len(self.lows))
        if number == len(self.lows):
            self.lows.append(low)
            self.freqs.append(freqs)
        return number


def number_tables(
    pmfs: Sequence[Sequence[ChannelPmf]], channels: int, points: int, pool: TablePool, name: str
) -> tuple[IntArray, IntArray]:
    """(contexts, index) of a set, as TableSet has them, of `[point][channel]` probabilities; its tables join `pool`."""
    if len(pmfs) != points or any(len(row) != channels for row in pmfs):
        raise BundleError(f"{name} probabilities are not for {points} operating points of {channels} channels each")
    contexts = np.array([np.atleast_2d(np.asarray(pmf.weights)).shape[0] for pmf in pmfs[0]], dtype=np.int32)
    index = np.zeros((points, int(contexts.sum())), dtype=np.uint32)
    for point, row in enumerate(pmfs):
        index[point] = [
            pool.add(pmf.low, weights, escape)
            for channel, pmf in enumerate(row)
            for weights, escape in _context_rows(pmf, int(contexts[channel]), f"{name} point {point} channel {channel}")
        ]
    return contexts, index


def skip_freqs(skip: ArrayLike | None, points: int, channels: int, precision: int, name: str) -> IntArray:
    """uint16 [points, channels] from probabilities, as TableSet.skip has them; None: no flag anywhere."""
    if skip is None:
        return np.zeros((points, channels), dtype=np.uint16)
    probability = np.asarray(skip, dtype=np.float64)
    if probability.shape != (points, channels) or not ((probability >= 0) & (probability <= 1)).all():
        raise BundleError(
            f"{name} skip probabilities have shape {probability.shape}: give [points, channels], each 0 to 1"
        )
    total = 1 << precision
    freqs = np.clip(np.rint(probability * total), 1, total - 1)
    return np.where(probability > 0, freqs, 0).astype(np.uint16)


def place_freqs(places: ArrayLike, points: int, precision: int) -> IntArray:
    """uint16 [points, 16] from probabilities, as TableSet.places has them."""
    probability = np.asarray(places, dtype=np.float64)
    if probability.shape != (points, PLACE_CONTEXTS) or not ((probability >= 0) & (probability <= 1)).all():
        raise BundleError(f"probabilities of places have shape {probability.shape}: give [points, 16], each 0 to 1")
    total = 1 << precision
    return np.clip(np.rint(probability * total), 1, total - 1).astype(np.uint16)


def integer_freqs(weights: NDArray[np.float64], precision: int) -> NDArray[np.int64]:
    """Round weights (float64 [n], escape included, sum > 0) to freqs ≥ 1 that sum to 2^precision.

    What rounding leaves over goes, unit by unit, to the slot that gains most, or comes from the one that loses least.
    """
    total = 1 << precision
    share = weights / weights.sum()
    freqs: NDArray[np.int64] = np.maximum(1, np.rint(share * total)).astype(np.int64)
    missing = total - int(freqs.sum())
    for _ in range(abs(missing)):
        if missing > 0:
            freqs[np.argmax(share / (freqs + 0.5))] += 1
        else:
            loss = np.where(freqs > 1, share / (freqs - 0.5), np.inf)
            freqs[np.argmin(loss)] -= 1
    return freqs


def _trim(
    low: int, weights: NDArray[np.float64], escape: float, precision: int
) -> tuple[int, NDArray[np.float64], float]:
    """Cut tails that are not worth a slot, and what is beyond the table's size or the symbols' range, into escape."""
    total = float(weights.sum()) + escape
    if not total > 0.0:
        weights, total = np.ones_like(weights), float(weights.size)
    symbols = np.arange(low, low + weights.size)
    worth = np.flatnonzero((weights / total * (1 << precision) >= 0.5) & (np.abs(symbols) <= SYMBOL_MAGNITUDE_MAX))
    if worth.size == 0:
        nearest = int(np.clip(0, low, low + weights.size - 1)) - low
        worth = np.array([nearest])
    first, end = int(worth[0]), int(worth[-1]) + 1
    if end - first > SYMBOLS_PER_TABLE_MAX:
        mass = np.concatenate([[0.0], np.cumsum(weights)])
        starts = np.arange(first, end - SYMBOLS_PER_TABLE_MAX + 1)
        first = int(starts[np.argmax(mass[starts + SYMBOLS_PER_TABLE_MAX] - mass[starts])])
        end = first + SYMBOLS_PER_TABLE_MAX
    kept = weights[first:end]
    return low + first, kept, max(0.0, total - float(kept.sum()))


def _context_rows(pmf: ChannelPmf, contexts: int, where: str) -> list[tuple[NDArray[np.float64], float]]:
    weights = np.atleast_2d(np.asarray(pmf.weights, dtype=np.float64))
    escape = np.broadcast_to(np.asarray(pmf.escape, dtype=np.float64), (weights.shape[0],))
    if weights.ndim != 2 or weights.shape[0] != contexts or weights.shape[1] == 0:
        raise BundleError(f"probabilities of {where} have shape {weights.shape}, expected ({contexts}, at least 1)")
    if not (np.isfinite(weights).all() and np.isfinite(escape).all() and (weights >= 0).all() and (escape >= 0).all()):
        raise BundleError(f"probabilities of {where} are negative or not finite: count them again")
    return list(zip(weights, escape.tolist(), strict=True))
