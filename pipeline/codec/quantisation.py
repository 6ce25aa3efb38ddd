"""From latents (float) to symbols (int16) and back, at an operating point.

An operating point is a rate choice: one gain and one offset a channel. A larger gain means finer steps, more bytes and
less loss. The offset is the channel's median in steps, so that symbols gather around 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import BundleError
from pipeline.limits import STICKY_THRESHOLD_MAX, SYMBOL_MAGNITUDE_MAX

Symbols = NDArray[np.int16]
"""int16, [..., C, H, W]."""
Latent = NDArray[np.float32]
"""float32, [..., C, H, W]."""


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A rate choice. `gain` and `offset` are float32 [C]; gains are positive; both are finite."""

    name: str
    gain: NDArray[np.float32]
    offset: NDArray[np.float32]
    sticky_threshold: float = 0.0
    """How far, in symbols, a latent may lie from its reference's symbol that is kept (`pipeline.codec.sticky`); the
    edge's choice alone. 0: always the nearest symbol."""
    refresh_threshold: float = 0.0
    """How far, in symbols, root mean square over all channels, a place may lie from its reference's symbols that are
    all kept. 0: each symbol is judged for itself only."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.sticky_threshold <= STICKY_THRESHOLD_MAX:
            raise BundleError(
                f"operating point {self.name!r} has a sticky threshold of {self.sticky_threshold}: "
                f"expected 0 (off) to {STICKY_THRESHOLD_MAX:g} symbols"
            )
        if not 0.0 <= self.refresh_threshold <= (STICKY_THRESHOLD_MAX if self.sticky_threshold else 0.0):
            raise BundleError(
                f"operating point {self.name!r} has a refresh threshold of {self.refresh_threshold}: expected 0 (off) "
                f"to {STICKY_THRESHOLD_MAX:g} symbols, and 0 without a sticky threshold"
            )
        gain = _per_channel(self.gain, f"gain of operating point {self.name!r}")
        offset = _per_channel(self.offset, f"offset of operating point {self.name!r}")
        if gain.shape != offset.shape:
            raise BundleError(
                f"operating point {self.name!r} has {gain.size} gains and {offset.size} offsets: give one a channel"
            )
        if not (gain > 0).all():
            raise BundleError(f"operating point {self.name!r} has a gain of {gain.min()}: gains must be positive")
        object.__setattr__(self, "gain", gain)
        object.__setattr__(self, "offset", offset)

    @property
    def channels(self) -> int:
        return int(self.gain.size)


def quantise(latent_CHW: Latent, point: OperatingPoint) -> Symbols:
    """Round to symbols: float32 [..., C, H, W] to int16 of the same shape, clipped to ±SYMBOL_MAGNITUDE_MAX.

    NaN becomes 0, so that a broken model costs quality and not a crash.
    """
    return nearest_symbols(in_symbols(latent_CHW, point))


def in_symbols(latent_CHW: Latent, point: OperatingPoint) -> Latent:
    """The latent measured in symbols, before rounding: latent · gain − offset, float32 of the same shape."""
    scaled = latent_CHW * point.gain[:, None, None]
    scaled -= point.offset[:, None, None]
    return scaled


def nearest_symbols(scaled_CHW: Latent) -> Symbols:
    """Round what `in_symbols` gives, which stays as it is. Clips, and makes NaN 0, as `quantise` does."""
    rounded = np.rint(scaled_CHW)
    np.clip(rounded, -SYMBOL_MAGNITUDE_MAX, SYMBOL_MAGNITUDE_MAX, out=rounded)
    if np.isnan(rounded.sum()):
        rounded = np.nan_to_num(rounded, nan=0.0)
    return rounded.astype(np.int16)


def dequantise(symbols_CHW: Symbols, point: OperatingPoint) -> Latent:
    """Back to a latent: int16 [..., C, H, W] to float32 of the same shape."""
    latent = symbols_CHW.astype(np.float32)
    latent += point.offset[:, None, None]
    latent /= point.gain[:, None, None]
    return latent


def _per_channel(values: ArrayLike, what: str) -> NDArray[np.float32]:
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.ndim != 1 or array.size == 0:
        raise BundleError(f"{what} has shape {array.shape}: give one number a channel")
    if not np.isfinite(array).all():
        raise BundleError(f"{what} is not finite: measure the operating point again")
    array.setflags(write=False)
    return array
