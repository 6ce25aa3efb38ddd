"""Refreshed places: a map, at the start of layer 0 of a frame with a reference, of where anything differs from it.

In most streams most places of the grid stay as they are in *all* channels. One flag a place says so once, and only the
symbols of the other places are coded (docs/protocol.md, "Order of symbols"). The flag's table is picked by four flags
that came before: left, above, above right, above left.

A place counts as refreshed if a symbol there, of any layer that is sent, is not its prediction. Whether there is a map
is data of the bundle: `[[contexts]] set = "places"`, and freqs in the tables' inter set.

Axes: C channels, H W the latent's grid.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.quantisation import Symbols

PLACE_CONTEXTS: Final = 16

Places = NDArray[np.bool_]
"""bool [H, W]: True where something is refreshed."""


def refreshed_places(symbols_CHW: Symbols, reference_CHW: Symbols) -> Places:
    """Where any of the channels given, of both, differ."""
    refreshed_HW: Places = (symbols_CHW != reference_CHW).any(axis=0)
    return refreshed_HW


def place_contexts(refreshed_HW: Places) -> NDArray[np.intp]:
    """Context of each flag, 0 to 15: left + 2 · above + 4 · above right + 8 · above left; outside of the grid 0."""
    padded = np.pad(refreshed_HW, 1).astype(np.intp)
    left, above = padded[1:-1, :-2], padded[:-2, 1:-1]
    above_right, above_left = padded[:-2, 2:], padded[:-2, :-2]
    return np.asarray(left + 2 * above + 4 * above_right + 8 * above_left, dtype=np.intp)


def count_places(refreshed_HW: Places) -> NDArray[np.float64]:
    """How often each flag was seen in each context, float64 [16, 2]."""
    flags = 2 * place_contexts(refreshed_HW) + refreshed_HW
    return np.bincount(flags.reshape(-1), minlength=2 * PLACE_CONTEXTS).reshape(PLACE_CONTEXTS, 2).astype(np.float64)


def place_shares(counts_X2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability that a place is refreshed, float64 [..., 16], from such counts: never quite 0 or 1."""
    share: NDArray[np.float64] = (counts_X2[..., 1] + 0.25) / (counts_X2.sum(axis=-1) + 1.0)
    return share
