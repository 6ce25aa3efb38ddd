"""Counts tables from data: symbols of many frames in, an entropy model out.

Each context of a channel gets its own counts, mixed with the channel's as a whole (`pooling`), so that a rare context
costs nothing (context dilution). A channel gets a skip flag where that saves bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.codec.contexts import Contexts, SetName, context_values, earlier_changes, has_changes
from pipeline.codec.entropy_model import PRECISION_DEFAULT, EntropyModel
from pipeline.codec.places import PLACE_CONTEXTS, count_places, place_shares, refreshed_places
from pipeline.codec.quantisation import Symbols
from pipeline.codec.table_making import ChannelPmf

COUNTED_MAGNITUDE: Final = 127
"""Symbols beyond this count as escapes."""
_UNSEEN: Final = 0.02
"""Weight of a symbol that was never seen, beside counts; falls by half a step further out."""
_UNSEEN_ESCAPE: Final = 0.05

Counts = NDArray[np.float64]
"""float64 [contexts, 2 · COUNTED_MAGNITUDE + 2]; the last one is escape."""


class TableCounter:
    """Counts symbols of one codec: `add` frames, then `model`."""

    def __init__(self, layers: Sequence[int], points: int, contexts: Contexts) -> None:
        contexts.check(layers)
        self._contexts = contexts
        self._layer_of = np.repeat(np.arange(len(layers)), layers)
        self._first = np.concatenate([[0], np.cumsum(layers)])
        self._points = points
        names: tuple[SetName, ...] = ("intra",) if contexts.inter is None else ("intra", "inter")
        self._sets = {name: [self._empty(name) for _ in range(points)] for name in names}
        self._places = np.zeros((points, PLACE_CONTEXTS, 2))

    def add(
        self, symbols_CHW: Symbols, point: int, *, reference: Symbols | None = None, fill: ArrayLike | None = None
    ) -> None:
        """Count a frame, int16 [C, H, W]; with a reference, into the inter set. `fill` [C]: what intra skips hold."""
        counted = self._sets["intra" if reference is None else "inter"][point]
        coded_HW = np.ones(symbols_CHW.shape[1:], np.bool_)
        if self._contexts.places and reference is not None:
            coded_HW = refreshed_places(symbols_CHW, reference)
            if not coded_HW.any():
                return  # such a frame has no steps at all
            self._places[point] += count_places(coded_HW)
        fills = np.zeros(len(self._layer_of), np.int16) if fill is None else np.asarray(fill, np.int16)
        for channel, channel_HW in enumerate(symbols_CHW):
            own_reference = None if reference is None else reference[channel]
            context = self._context(symbols_CHW, channel, reference, fills)
            predicted = fills[channel] if own_reference is None else own_reference
            same = bool((channel_HW == predicted).all())
            counted[channel].add(channel_HW[coded_HW], context[coded_HW], predicted=same)

    def include(self, other: TableCounter) -> None:
        """Add what another counter of the same codec has seen."""
        self._places += other._places
        for name, rows in self._sets.items():
            for own_row, other_row in zip(rows, other._sets[name], strict=True):
                for own, others in zip(own_row, other_row, strict=True):
                    own.include(others)

    def model(
        self,
        *,
        fill: ArrayLike | None = None,
        pooling: float = 50.0,
        skips: bool = True,
        precision: int = PRECISION_DEFAULT,
    ) -> EntropyModel:
        """Integer tables. `pooling` is how many symbols' worth of the whole channel each context starts with."""
        pmfs: dict[SetName, list[list[ChannelPmf]]] = {}
        shares: dict[SetName, list[list[float]]] = {}
        for name, rows in self._sets.items():
            made = [[channel.tables(pooling, skips=skips) for channel in row] for row in rows]
            pmfs[name] = [[pmf for pmf, _ in row] for row in made]
            shares[name] = [[share for _, share in row] for row in made]
        return EntropyModel.from_probabilities(
            pmfs["intra"],
            inter=pmfs.get("inter"),
            fill=fill,
            skip_intra=shares["intra"],
            skip_inter=shares.get("inter"),
            places=place_shares(self._places) if self._contexts.places else None,
            precision=precision,
        )

    def _empty(self, name: SetName) -> list[_ChannelCounts]:
        return [_ChannelCounts(self._contexts.count(name, int(layer))) for layer in self._layer_of]

    def _context(
        self, symbols_CHW: Symbols, channel: int, reference: Symbols | None, fills: NDArray[np.int16]
    ) -> NDArray[np.intp]:
        layer = int(self._layer_of[channel])
        terms = self._contexts.terms("intra" if reference is None else "inter", layer)
        in_layer = channel - int(self._first[layer])
        own_reference = None if reference is None else reference[channel]
        earlier = earlier_changes(symbols_CHW, channel, reference, fills) if has_changes(terms) else None
        return context_values(terms, in_layer, symbols_CHW[channel], symbols_CHW, own_reference, earlier)


class _ChannelCounts:
    """Counts of one (operating point, set, channel), apart for frames in which the channel was its prediction."""

    def __init__(self, contexts: int) -> None:
        self._shape = contexts, 2 * COUNTED_MAGNITUDE + 2
        self._coded = np.zeros(self._shape)
        self._predicted = np.zeros(self._shape)
        self._frames = 0
        self._predicted_frames = 0

    def add(self, symbols: Symbols, context: NDArray[np.intp], *, predicted: bool) -> None:
        """Symbols and contexts of the places that are coded, in any shape; `predicted`: the channel is its prediction
        everywhere."""
        bins = symbols.astype(np.int64) + COUNTED_MAGNITUDE
        bins = np.where((bins < 0) | (bins > 2 * COUNTED_MAGNITUDE), 2 * COUNTED_MAGNITUDE + 1, bins)
        flat = (context * self._shape[1] + bins).reshape(-1)
        counts = np.bincount(flat, minlength=self._shape[0] * self._shape[1]).reshape(self._shape)
        self._frames += 1
        if predicted:
            self._predicted += counts
            self._predicted_frames += 1
        else:
            self._coded += counts

    def include(self, other: _ChannelCounts) -> None:
        self._coded += other._coded
        self._predicted += other._predicted
        self._frames += other._frames
        self._predicted_frames += other._predicted_frames

    def tables(self, pooling: float, *, skips: bool) -> tuple[ChannelPmf, float]:
        """(probabilities, share of skips; 0: no flag), whichever costs fewer bits."""
        together = self._coded + self._predicted
        without_flag = _smoothed(together, pooling)
        share = self._predicted_frames / max(1, self._frames)
        if skips and share > 0:
            share = min(share, 1 - 0.5 / self._frames)
            with_flag = _smoothed(self._coded, pooling)
            flag_bits = -self._frames * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
            if _bits(self._coded, with_flag) + flag_bits < _bits(together, without_flag):
                return _pmf(with_flag), share
        return _pmf(without_flag), 0.0


def _smoothed(counts: Counts, pooling: float) -> Counts:
    """Probabilities of each context: its counts, `pooling` symbols of the channel's, a trace of the unseen."""
    distance = np.abs(np.arange(counts.shape[1] - 1) - COUNTED_MAGNITUDE)
    whole = counts.sum(axis=0)
    whole[:-1] += _UNSEEN * 0.5 ** np.minimum(distance, 40)
    whole[-1] += _UNSEEN_ESCAPE
    mixed = counts + pooling * whole / whole.sum()
    smoothed: Counts = mixed / mixed.sum(axis=1, keepdims=True)
    return smoothed


def _bits(counts: Counts, probabilities: Counts) -> float:
    return float(-(counts * np.log2(probabilities)).sum())


def _pmf(probabilities: Counts) -> ChannelPmf:
    return ChannelPmf(-COUNTED_MAGNITUDE, probabilities[:, :-1], probabilities[:, -1])
