"""Coding plans: all that one (operating point, set) needs, worked out once from the entropy model and the contexts.

Both coders work from the same plan: the Python one reads the arrays, the C one gets their addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.contexts import Contexts, SetName, Term, context_count
from pipeline.codec.entropy_model import EntropyModel
from pipeline.codec.kept_property import kept_property
from pipeline.errors import BundleError

ENCODE_SLOT: Final = np.dtype(
    [("reciprocal", "u8"), ("x_max", "u4"), ("complement", "u4"), ("bias", "u4"), ("unused", "u4")]
)
TABLE_REF: Final = np.dtype([("low", "i4"), ("count", "i4"), ("first", "u4"), ("table", "u4")])
PythonTable = tuple[bytes, list[int], list[int], int, int]
"""(slot of each value, starts, freqs, low, count)."""


class SlotTables:
    """Every slot of every table of a model, flat: the symbols' tables, then those of flags, two slots each: no, yes.

    Flags say that a channel is its prediction (skip tables), then that a place is refreshed (tables of places).
    """

    def __init__(self, model: EntropyModel) -> None:
        self.precision = model.precision
        self.tables = int(model.low.size)
        self.low = model.low.astype(np.int32)
        self.count = (model.size - 1).astype(np.int32)
        sizes = model.size.astype(np.int64)
        self.first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.uint32)
        freq = model.freq.astype(np.int64)
        start = np.cumsum(freq) - freq
        start -= np.repeat(start[self.first], sizes)
        self._symbol_slots = int(freq.size)
        self._sizes = sizes
        shares: list[int] = []  # freq of "yes" of each flag
        self.skip_slot: dict[SetName, NDArray[np.int32]] = {"intra": self._flag_slots(model.intra.skip, shares)}
        """[points, C]: first slot of each channel's skip table, −1: none."""
        self.place_slots: NDArray[np.int32] | None = None
        """First slot of the 16 tables of places of each operating point."""
        if model.inter is not None:
            self.skip_slot["inter"] = self._flag_slots(model.inter.skip, shares)
            if model.inter.places is not None:
                self.place_slots = self._flag_slots(model.inter.places, shares)[:, 0]
        yes = np.array(shares, np.int64)
        no = (1 << model.precision) - yes
        flag_freqs = np.stack([no, yes], axis=1)
        flag_starts = np.stack([np.zeros_like(no), no], axis=1)
        self.freq = np.concatenate([freq, flag_freqs.reshape(-1)])
        self.start = np.concatenate([start, flag_starts.reshape(-1)])

    def _flag_slots(self, yes: NDArray[Any], shares: list[int]) -> NDArray[np.int32]:
        """First slot of the table of each flag, by its freq of "yes", which joins `shares`; 0: no flag, so slot −1."""
        flagged = yes > 0
        flags_before = len(shares) + np.cumsum(flagged).reshape(yes.shape) - flagged
        shares += yes[flagged].tolist()
        return np.where(flagged, self._symbol_slots + 2 * flags_before, -1).astype(np.int32)

    @kept_property
    def encode_slots(self) -> NDArray[Any]:
        """For division by multiplication: ceil(2^64 / freq) is exact for states below 2^32. freq 1 has no such
        64-bit reciprocal; 2^64 − 1 gives x − 1, which its bias puts right."""
        slots = np.zeros(self.freq.size, dtype=ENCODE_SLOT)
        freq = self.freq.astype(np.uint64)
        all_ones = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
        ones = freq == 1
        slots["reciprocal"] = np.where(ones, all_ones, all_ones // freq + np.uint64(~ones))
        slots["x_max"] = freq << np.uint64(32 - self.precision)
        total = 1 << self.precision
        slots["complement"] = total - self.freq
        slots["bias"] = self.start + np.where(ones, total - 1, 0)
        return slots

    @kept_property
    def decode_slots(self) -> NDArray[np.uint32]:
        """freq << 16 | start."""
        return np.asarray(self.freq << 16 | self.start, dtype=np.uint32)

    @kept_property
    def costs(self) -> NDArray[np.uint32]:
        """Bits of each slot, in 1/65536."""
        return np.asarray(np.rint(65_536 * (self.precision - np.log2(self.freq))), dtype=np.uint32)

    @kept_property
    def slot_of(self) -> NDArray[np.uint8]:
        """Slot number for each value of 2^precision, uint8 [tables, 2^precision]. Only decoders need it."""
        numbers = np.arange(self._symbol_slots) - np.repeat(self.first.astype(np.int64), self._sizes)
        return np.repeat(numbers.astype(np.uint8), self.freq[: self._symbol_slots]).reshape(self.tables, -1)


@dataclass(frozen=True, eq=False)
class CodingPlan:
    """One (operating point, set)."""

    slots: SlotTables
    layer_first: NDArray[np.int32]
    """[K + 1]: first channel of each layer."""
    terms: tuple[tuple[Term, ...], ...]
    """Terms of each layer."""
    context_first: NDArray[np.int32]
    """[C]: first row of `tables` of each channel."""
    tables: NDArray[Any]
    """TABLE_REF [Σ contexts]."""
    skip_slot: NDArray[np.int32]
    """[C]: first slot of the channel's skip table, −1: none."""
    fill: NDArray[np.int16]
    place_slot: int = -1
    """First slot of the tables of places, context after context, two slots each; −1: frames have no map of places."""
    _python_tables: dict[int, PythonTable] = field(default_factory=dict, repr=False)

    @property
    def layers(self) -> int:
        return int(self.layer_first.size) - 1

    @property
    def channels(self) -> int:
        return int(self.fill.size)

    def channel_range(self, layer: int) -> range:
        return range(int(self.layer_first[layer]), int(self.layer_first[layer + 1]))

    def python_table(self, number: int) -> PythonTable:
        """A row of `tables` as Python values, kept: numpy scalars are slow."""
        table = self._python_tables.get(number)
        if table is None:
            ref = self.tables[number]
            first, count = int(ref["first"]), int(ref["count"])
            span = slice(first, first + count + 1)
            slot_of = self.slots.slot_of[int(ref["table"])].tobytes()
            table = (slot_of, self.slots.start[span].tolist(), self.slots.freq[span].tolist(), int(ref["low"]), count)
            self._python_tables[number] = table
        return table


def make_plan(
    model: EntropyModel, slots: SlotTables, contexts: Contexts, layers: Sequence[int], point: int, name: SetName
) -> CodingPlan:
    """Plan of one (operating point, set). Raises BundleError if the tables lack the contexts that are declared."""
    tables = model.table_set(name)
    if tables is None:
        raise BundleError(f"contexts declare an {name} set, the tables have none")
    terms = tuple(contexts.terms(name, layer) for layer in range(len(layers)))
    declared = np.repeat([context_count(layer_terms) for layer_terms in terms], layers)
    wrong = np.flatnonzero(declared != tables.contexts)
    if wrong.size:
        channel = int(wrong[0])
        raise BundleError(
            f"{name} tables have {tables.contexts[channel]} contexts for channel {channel}, "
            f"the declared terms make {declared[channel]}: count the tables again"
        )
    has_places = name == "inter" and contexts.places
    if has_places != (tables.places is not None):
        raise BundleError(
            f"contexts declare {'a' if has_places else 'no'} map of places, the {name} tables have "
            f"{'none' if has_places else 'one'}: count the tables again"
        )
    numbers = tables.index[point]
    refs = np.zeros(numbers.size, dtype=TABLE_REF)
    refs["low"], refs["count"] = slots.low[numbers], slots.count[numbers]
    refs["first"], refs["table"] = slots.first[numbers], numbers
    ends = np.cumsum(tables.contexts)
    return CodingPlan(
        slots=slots,
        layer_first=np.concatenate([[0], np.cumsum(layers)]).astype(np.int32),
        terms=terms,
        context_first=(ends - tables.contexts).astype(np.int32),
        tables=refs,
        skip_slot=np.ascontiguousarray(slots.skip_slot[name][point]),
        fill=np.ascontiguousarray(model.fill, dtype=np.int16),
        place_slot=int(slots.place_slots[point]) if has_places and slots.place_slots is not None else -1,
    )
