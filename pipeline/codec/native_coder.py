"""Layers in C: `_range_coder.c` through ctypes, a whole frame in one call with the GIL released."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.bitstream import LAYERS_BYTES_MAX
from pipeline.codec.coding_plan import CodingPlan
from pipeline.codec.kept_property import kept_property
from pipeline.codec.python_coder import check_range, too_many_bytes
from pipeline.codec.quantisation import Symbols
from pipeline.errors import EngineError

LIBRARY: Final = Path(__file__).with_name("_range_coder.so")
"""Where pipeline.codec.build puts it."""
INSTALL_HINT: Final = "sudo apt-get install gcc libc6-dev, then python -m pipeline.codec.build (or install again)"

_ABI: Final = 5
_BUFFER_FULL, _SYMBOL_TOO_LARGE = -1, -2
_KEPT_WORKSPACES: Final = 16
_KEPT_WORKSPACE_BYTES: Final = 4_194_304
_KINDS: Final = (
    "none", "reference", "reference_neighbourhood", "checkerboard", "layer", "changes", "previous",
)  # fmt: skip
_TERM: Final = np.dtype(
    [
        *((name, "i4") for name in ("kind", "clip", "step", "sources", "threshold_count")),
        ("thresholds", "i4", 8),
        ("unused", "i4", 3),
    ]
)


class _Plan(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("precision", "channels", "layers", "place_slot")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "layer_first", "term_first", "terms", "sources", "context_first", "tables", "skip_slot", "fill",
                "encode_slots", "decode_slots", "costs", "slot_of",
            )
        ),
    ]  # fmt: skip


class NativePlan:
    """A coding plan with its addresses in C's layout; keeps the arrays alive."""

    def __init__(self, plan: CodingPlan) -> None:
        self.plan = plan
        self._terms, self._term_first, self._sources = _terms_arrays(plan)
        self.workspace_bytes: dict[tuple[int, int], int] = {}
        self._encode_struct = self._struct(slot_of=None)
        self.for_encoding = ctypes.addressof(self._encode_struct)

    @property
    def for_decoding(self) -> int:
        """Address of the plan with the decoder's lookup tables, which an edge never makes."""
        return ctypes.addressof(self._decode_struct)

    @kept_property
    def _decode_struct(self) -> _Plan:
        return self._struct(slot_of=self.plan.slots.slot_of)

    def _struct(self, *, slot_of: NDArray[np.uint8] | None) -> _Plan:
        plan, slots = self.plan, self.plan.slots
        return _Plan(
            slots.precision,
            plan.channels,
            plan.layers,
            plan.place_slot,
            plan.layer_first.ctypes.data,
            self._term_first.ctypes.data,
            self._terms.ctypes.data,
            self._sources.ctypes.data,
            plan.context_first.ctypes.data,
            plan.tables.ctypes.data,
            plan.skip_slot.ctypes.data,
            plan.fill.ctypes.data,
            slots.encode_slots.ctypes.data,
            slots.decode_slots.ctypes.data,
            slots.costs.ctypes.data,
            None if slot_of is None else slot_of.ctypes.data,
        )


class _Workspace:
    """Scratch memory of one call; a payload comes to lie at its end."""

    def __init__(self, size: int) -> None:
        self._memory = np.empty(size, dtype=np.uint8)
        self.size = size
        self.address = _address(self._memory)

    def last(self, size: int) -> bytes:
        return self._memory[self.size - size :].tobytes()


class NativeCoder:
    """Same methods and results as PythonCoder. Raises EngineError if the library is not there or does not fit."""

    name: Final = "c"

    def __init__(self, library: Path) -> None:
        try:
            loaded = ctypes.CDLL(str(library))
            abi = int(loaded.fs_abi())
        except (OSError, AttributeError) as error:
            raise EngineError(f"C range coder does not load: {error}") from None
        if abi != _ABI:
            raise EngineError(f"C range coder has interface {abi}, expected {_ABI}")
        self._encode = _function(loaded.fs_encode, "piiipppqp")
        self._decode = _function(loaded.fs_decode, "piiipqppppq")
        self._estimate = _function(loaded.fs_estimate, "piiipppqp")
        self._workspace_bytes = _function(loaded.fs_workspace_bytes, "piiq")
        self._workspaces: deque[_Workspace] = deque(maxlen=_KEPT_WORKSPACES)

    def prepare(self, plan: CodingPlan) -> NativePlan:
        return NativePlan(plan)

    def encode(
        self, plan: NativePlan, symbols_CHW: Symbols, reference: Symbols | None, layers: int
    ) -> tuple[list[int], bytes]:
        """(words of each layer, their bytes in a row). Raises BitstreamError if symbols or bytes are too large."""
        _, height, width = symbols_CHW.shape
        lengths = (ctypes.c_int32 * layers)()
        space = self._take_workspace(plan, height, width)
        arrays = _address(symbols_CHW), _address(reference), space.address
        size = self._encode(plan.for_encoding, height, width, layers, *arrays, space.size, lengths)
        _raise_for(size, plan, symbols_CHW, layers)
        payload = space.last(size)
        self._give_back(space)
        return lengths[:], payload

    def decode(
        self,
        plan: NativePlan,
        payload: memoryview,
        lengths: Sequence[int],
        reference: Symbols | None,
        symbols_CHW: Symbols,
    ) -> int:
        """Decode into `symbols_CHW` (fill where layers are missing). Returns the number of good layers, a prefix."""
        _, height, width = symbols_CHW.shape
        layers, size = len(lengths), len(payload)
        words = (ctypes.c_int32 * layers)(*[min(length, 1 << 30) for length in lengths])
        start = _address(np.frombuffer(payload, dtype=np.uint8)) if size else None
        space = self._take_workspace(plan, height, width)
        arrays = _address(reference), _address(symbols_CHW), space.address
        good = self._decode(plan.for_decoding, height, width, layers, start, size, words, *arrays, space.size)
        _raise_for(good, plan, symbols_CHW, layers)
        self._give_back(space)
        return int(good)

    def estimate(self, plan: NativePlan, symbols_CHW: Symbols, reference: Symbols | None, layers: int) -> list[float]:
        """Bits of each layer, without the coder's state."""
        _, height, width = symbols_CHW.shape
        costs = (ctypes.c_uint64 * layers)()
        space = self._take_workspace(plan, height, width)
        arrays = _address(symbols_CHW), _address(reference), space.address
        result = self._estimate(plan.for_encoding, height, width, layers, *arrays, space.size, costs)
        _raise_for(result, plan, symbols_CHW, layers)
        self._give_back(space)
        return [cost / 65_536 for cost in costs]

    def _take_workspace(self, plan: NativePlan, height: int, width: int) -> _Workspace:
        """Memory for one call, kept between calls; the deque hands each to one thread at a time."""
        needed = plan.workspace_bytes.get((height, width))
        if needed is None:
            needed = int(self._workspace_bytes(plan.for_encoding, height, width, LAYERS_BYTES_MAX))
            plan.workspace_bytes[height, width] = needed
        try:
            space = self._workspaces.pop()
        except IndexError:
            return _Workspace(needed)
        return space if space.size == needed else _Workspace(needed)

    def _give_back(self, space: _Workspace) -> None:
        if space.size <= _KEPT_WORKSPACE_BYTES:
            self._workspaces.append(space)


def _function(function: Any, signature: str) -> Any:
    kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int, "q": ctypes.c_int64}
    function.argtypes = [kinds[letter] for letter in signature]
    function.restype = ctypes.c_int64
    return function


def _address(array: NDArray[Any] | None) -> int | None:
    return None if array is None else array.__array_interface__["data"][0]


def _raise_for(result: int, plan: NativePlan, symbols_CHW: Symbols, layers: int) -> None:
    if result >= 0:
        return
    if result == _SYMBOL_TOO_LARGE:
        check_range(symbols_CHW[: plan.plan.layer_first[layers]])
    if result == _BUFFER_FULL:
        raise too_many_bytes()
    raise AssertionError(f"range coder returned {result}")


def _terms_arrays(plan: CodingPlan) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]:
    """(terms, first term of each layer, sources of all terms), in C's layout."""
    rows: list[tuple[Any, ...]] = []
    sources: list[int] = []
    firsts = [0]
    for terms in plan.terms:
        step = 1
        for term in terms:
            thresholds = list(term.thresholds) + [0] * (8 - len(term.thresholds))
            kind = _KINDS.index(term.kind)
            rows.append((kind, term.clip, step, len(sources), len(term.thresholds), thresholds, [0] * 3))
            sources += term.sources
            step *= term.values
        firsts.append(len(rows))
    return np.array(rows, dtype=_TERM), np.array(firsts, dtype=np.int32), np.array([*sources, 0], dtype=np.int32)
