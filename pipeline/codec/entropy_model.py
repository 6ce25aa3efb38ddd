"""The entropy model: integer tables that both ends hold, `edge/tables.msgpack` (docs/protocol.md, "Tables file").

Probabilities are floats only once, when the tables are made (`table_making`). After that everything is integers, so an
edge and a server cannot disagree about a symbol. A table belongs to (operating point, set, channel, context); equal
tables are stored once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from pipeline.codec.contexts import CONTEXTS_MAX, SetName
from pipeline.codec.places import PLACE_CONTEXTS
from pipeline.codec.table_making import (
    SYMBOLS_PER_TABLE_MAX,
    ChannelPmf,
    IntArray,
    TablePool,
    number_tables,
    place_freqs,
    skip_freqs,
)
from pipeline.codec.tables_file import FORMAT, FORMAT_PLACES, SetFile, TablesFile, pack, read_file, unpack
from pipeline.errors import BundleError
from pipeline.limits import LATENT_CHANNELS_MAX, SYMBOL_MAGNITUDE_MAX

PRECISION_DEFAULT: Final = 12
PRECISION_MIN: Final = 12
PRECISION_MAX: Final = 16
OPERATING_POINTS_MAX: Final = 32
DECODE_TABLE_BYTES_MAX: Final = 67_108_864
"""Largest sum of the decoder's lookup tables (2^precision bytes a table), in bytes."""


@dataclass(frozen=True, eq=False)
class TableSet:
    """Which table codes what, for frames without (`intra`) or with (`inter`) a reference."""

    contexts: IntArray
    """int32 [C]: contexts of each channel."""
    index: IntArray
    """uint32 [points, Σ contexts]: number of the table."""
    skip: IntArray
    """uint16 [points, C]: freq of "the channel is its prediction"; 0: the channel has no such flag."""
    places: IntArray | None = None
    """uint16 [points, 16]: freq of "the place is refreshed" in each context (`pipeline.codec.places`); None: no map."""


@dataclass(frozen=True, eq=False)
class EntropyModel:
    """Integer tables of a codec. Immutable; always sound (`__post_init__` raises BundleError otherwise)."""

    precision: int
    points: int
    channels: int
    fill: IntArray
    """int16 [C]: symbol of a channel whose layer is missing."""
    low: IntArray
    """int16 [T]: first symbol of each table."""
    size: IntArray
    """int32 [T]: slots of each table, escape (the last one) included."""
    freq: IntArray
    """uint16 [Σ size]."""
    intra: TableSet
    inter: TableSet | None = None

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_tables(self)
        _check_set(self, "intra", self.intra)
        if self.inter is not None:
            _check_set(self, "inter", self.inter)

    @classmethod
    def from_probabilities(
        cls,
        intra: Sequence[Sequence[ChannelPmf]],
        *,
        inter: Sequence[Sequence[ChannelPmf]] | None = None,
        fill: ArrayLike | None = None,
        skip_intra: ArrayLike | None = None,
        skip_inter: ArrayLike | None = None,
        places: ArrayLike | None = None,
        precision: int = PRECISION_DEFAULT,
    ) -> EntropyModel:
        """Make integer tables from `[point][channel]` probabilities.

        Each table sums to 2^precision, each slot has at least 1, symbols too rare for a slot move to escape. `fill` is
        [C] (default 0); `skip_…` [points, C] the probability that a channel equals its prediction (default: no skip
        flags), `places` [points, 16] that a place is refreshed (default: no map of places). The same input gives the
        same tables. Raises BundleError if shapes or values do not fit.
        """
        if not PRECISION_MIN <= precision <= PRECISION_MAX:
            raise BundleError(f"precision is {precision}, expected {PRECISION_MIN} to {PRECISION_MAX}")
        if not intra or not intra[0]:
            raise BundleError("no probabilities: give at least one operating point with one channel")
        channels = len(intra[0])
        pool = TablePool(precision)

        def made_set(
            name: SetName, pmfs: Sequence[Sequence[ChannelPmf]], skip: ArrayLike | None, shares: ArrayLike | None
        ) -> TableSet:
            contexts, index = number_tables(pmfs, channels, len(intra), pool, name)
            return TableSet(
                contexts=contexts,
                index=index,
                skip=skip_freqs(skip, len(intra), channels, precision, name),
                places=None if shares is None else place_freqs(shares, len(intra), precision),
            )

        intra_set = made_set("intra", intra, skip_intra, None)
        inter_set = None if inter is None else made_set("inter", inter, skip_inter, places)
        return cls(
            precision=precision,
            points=len(intra),
            channels=channels,
            fill=np.zeros(channels, np.int16) if fill is None else np.asarray(fill).astype(np.int16),
            low=np.array(pool.lows, dtype=np.int16),
            size=np.array([len(freqs) for freqs in pool.freqs], dtype=np.int32),
            freq=np.concatenate(pool.freqs).astype(np.uint16),
            intra=intra_set,
            inter=inter_set,
        )

    def table_set(self, name: SetName) -> TableSet | None:
        return self.intra if name == "intra" else self.inter

    def table(self, point: int, set_name: SetName, channel: int, context: int = 0) -> tuple[int, IntArray]:
        """(first symbol, freqs with escape last) of one table, for looking at."""
        tables = self.table_set(set_name)
        if tables is None:
            raise BundleError(f"the tables have no {set_name} set")
        number = int(tables.index[point, int(tables.contexts[:channel].sum()) + context])
        first = int(self.size[:number].sum())
        return int(self.low[number]), self.freq[first : first + int(self.size[number])]

    def to_bytes(self) -> bytes:
        """Pack as the tables file."""
        return msgspec.msgpack.encode(
            TablesFile(
                format=FORMAT if self.inter is None or self.inter.places is None else FORMAT_PLACES,
                precision=self.precision,
                points=self.points,
                channels=self.channels,
                fill=pack(self.fill, "<i2"),
                low=pack(self.low, "<i2"),
                size=pack(self.size, "<u2"),
                freq=pack(self.freq, "<u2"),
                intra=_pack_set(self.intra),
                inter=None if self.inter is None else _pack_set(self.inter),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> EntropyModel:
        """Unpack and validate a tables file. Raises BundleError on anything that is off."""
        file = read_file(data)
        if not 1 <= file.points <= OPERATING_POINTS_MAX or not 1 <= file.channels <= LATENT_CHANNELS_MAX:
            raise BundleError(
                f"tables file has {file.points} operating points and {file.channels} channels, "
                f"limits {OPERATING_POINTS_MAX} and {LATENT_CHANNELS_MAX}"
            )
        return cls(
            precision=file.precision,
            points=file.points,
            channels=file.channels,
            fill=unpack(file.fill, "<i2", np.int16, "fill"),
            low=unpack(file.low, "<i2", np.int16, "low"),
            size=unpack(file.size, "<u2", np.int32, "size"),
            freq=unpack(file.freq, "<u2", np.uint16, "freq"),
            intra=_unpack_set(file.intra, file.points, "intra"),
            inter=None if file.inter is None else _unpack_set(file.inter, file.points, "inter"),
        )


def _check_numbers(model: EntropyModel) -> None:
    if not PRECISION_MIN <= model.precision <= PRECISION_MAX:
        raise BundleError(f"tables have precision {model.precision}, expected {PRECISION_MIN} to {PRECISION_MAX}")
    if not 1 <= model.points <= OPERATING_POINTS_MAX:
        raise BundleError(f"tables have {model.points} operating points, expected 1 to {OPERATING_POINTS_MAX}")
    if not 1 <= model.channels <= LATENT_CHANNELS_MAX:
        raise BundleError(f"tables have {model.channels} channels, expected 1 to {LATENT_CHANNELS_MAX}")
    if model.fill.shape != (model.channels,) or (np.abs(model.fill.astype(np.int32)) > SYMBOL_MAGNITUDE_MAX).any():
        raise BundleError(
            f"tables have {model.fill.size} fill symbols for {model.channels} channels, or one is too large"
        )


def _check_tables(model: EntropyModel) -> None:
    tables = model.low.size
    if tables == 0 or model.size.shape != model.low.shape or tables << model.precision > DECODE_TABLE_BYTES_MAX:
        limit = DECODE_TABLE_BYTES_MAX >> model.precision
        raise BundleError(
            f"{tables} tables with {model.size.size} sizes, expected as many, 1 to {limit}: use fewer contexts"
        )
    if (model.size < 2).any() or (model.size > SYMBOLS_PER_TABLE_MAX + 1).any():
        raise BundleError(
            f"a table has {model.size.min()} or {model.size.max()} slots, expected 2 to {SYMBOLS_PER_TABLE_MAX + 1}"
        )
    low = model.low.astype(np.int64)
    if (low < -SYMBOL_MAGNITUDE_MAX).any() or (low + model.size - 2 > SYMBOL_MAGNITUDE_MAX).any():
        raise BundleError(f"a table holds symbols beyond ±{SYMBOL_MAGNITUDE_MAX}")
    if int(model.size.sum()) != model.freq.size:
        raise BundleError(f"tables have {model.freq.size} freqs, their sizes say {int(model.size.sum())}")
    firsts = np.concatenate([[0], np.cumsum(model.size)[:-1]])
    sums = np.add.reduceat(model.freq.astype(np.int64), firsts)
    if (model.freq == 0).any() or (sums != 1 << model.precision).any():
        raise BundleError(
            f"a table has an empty slot or does not sum to {1 << model.precision}: fetch the bundle again"
        )


def _check_set(model: EntropyModel, name: str, tables: TableSet) -> None:
    if (
        tables.contexts.shape != (model.channels,)
        or (tables.contexts < 1).any()
        or (tables.contexts > CONTEXTS_MAX).any()
    ):
        raise BundleError(
            f"{name} tables: contexts of {tables.contexts.size} channels, "
            f"expected {model.channels}, each of 1 to {CONTEXTS_MAX}"
        )
    shape = (model.points, int(tables.contexts.sum()))
    if tables.index.shape != shape:
        raise BundleError(f"{name} tables: index has shape {tables.index.shape}, expected {shape}")
    if (tables.index >= model.low.size).any():
        raise BundleError(f"{name} tables: index names table {tables.index.max()}, there are {model.low.size}")
    if (
        tables.skip.shape != (model.points, model.channels)
        or (tables.skip.astype(np.int64) >= 1 << model.precision).any()
    ):
        raise BundleError(
            f"{name} tables: skip freqs of shape {tables.skip.shape} up to {tables.skip.max(initial=0)} do not fit"
        )
    if tables.places is not None:
        _check_places(model, name, tables.places)


def _check_places(model: EntropyModel, name: str, places: IntArray) -> None:
    if name == "intra" or places.shape != (model.points, PLACE_CONTEXTS):
        raise BundleError(
            f"{name} tables: freqs of places have shape {places.shape}, "
            f"expected ({model.points}, {PLACE_CONTEXTS}) in the inter set only"
        )
    if (places < 1).any() or (places.astype(np.int64) >= 1 << model.precision).any():
        raise BundleError(
            f"{name} tables: a freq of places is {places.min()} or {places.max()}: fetch the bundle again"
        )


def _pack_set(tables: TableSet) -> SetFile:
    return SetFile(
        contexts=pack(tables.contexts, "<u2"),
        index=pack(tables.index, "<u4"),
        skip=pack(tables.skip, "<u2"),
        places=b"" if tables.places is None else pack(tables.places, "<u2"),
    )


def _unpack_set(file: SetFile, points: int, name: str) -> TableSet:
    index = unpack(file.index, "<u4", np.uint32, f"{name} index")
    skip = unpack(file.skip, "<u2", np.uint16, f"{name} skip")
    places = unpack(file.places, "<u2", np.uint16, f"{name} places") if file.places else None
    if index.size % points or skip.size % points or (places is not None and places.size % points):
        raise BundleError(
            f"tables file: {name} index, skip or places has no whole row for each of {points} operating points"
        )
    return TableSet(
        contexts=unpack(file.contexts, "<u2", np.int32, f"{name} contexts"),
        index=index.reshape(points, -1),
        skip=skip.reshape(points, -1),
        places=None if places is None else places.reshape(points, -1),
    )
