"""The codec of latents: symbols of one frame to bytes and back (docs/protocol.md, "Bitstream").

Encoding and decoding are pure and keep nothing between calls, so one LatentCodec serves any number of threads. What a
frame may refer to is passed in: `reference` when encoding, `references` when decoding.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.codec.bitstream import Header, HeaderReference, header_bytes, pack_header, parse_header
from pipeline.codec.coding_plan import SlotTables, make_plan
from pipeline.codec.contexts import Contexts, SetName
from pipeline.codec.entropy_model import EntropyModel
from pipeline.codec.native_coder import INSTALL_HINT, LIBRARY, NativeCoder
from pipeline.codec.python_coder import PythonCoder
from pipeline.codec.quantisation import OperatingPoint, Symbols
from pipeline.errors import BitstreamError, BundleError, ConfigError, EngineError
from pipeline.limits import LATENT_CHANNELS_MAX, LATENT_SIDE_MAX, LATENT_SYMBOLS_MAX, LAYERS_MAX

STATE_BITS: Final = 24
"""What a layer's start state, check and end state cost on average, in bits."""


class LatentShape(NamedTuple):
    """``channels`` planes at 1/``stride`` of the image's sides."""

    channels: int
    stride: int


@dataclass(frozen=True)
class LatentSpec:
    """What edge and server agree on about the latent, from the bundle's `edge/spec.toml`.

    Raises BundleError if it is unsound.
    """

    channels: int
    stride: int
    """Image pixels per symbol, each way."""
    layers: tuple[int, ...]
    """Channels of each layer, in order of importance."""
    operating_points: tuple[OperatingPoint, ...]
    contexts: Contexts = field(default_factory=Contexts)

    def __post_init__(self) -> None:
        if not 1 <= self.channels <= LATENT_CHANNELS_MAX or self.stride < 1:
            raise BundleError(
                f"latent has {self.channels} channels at stride {self.stride}, "
                f"expected 1 to {LATENT_CHANNELS_MAX} and at least 1"
            )
        if not 1 <= len(self.layers) <= LAYERS_MAX or min(self.layers) < 1 or sum(self.layers) != self.channels:
            raise BundleError(
                f"layers are {list(self.layers)}: expected 1 to {LAYERS_MAX} of them, {self.channels} channels in all"
            )
        if not self.operating_points:
            raise BundleError("there is no operating point, expected at least one")
        for point in self.operating_points:
            if point.channels != self.channels:
                raise BundleError(
                    f"operating point {point.name!r} has {point.channels} channels, the latent {self.channels}"
                )
        self.contexts.check(self.layers)


class ReferenceId(NamedTuple):
    """Names an earlier frame of a session."""

    epoch: int
    frame: int


@dataclass(frozen=True, eq=False)
class Reference:
    """An earlier frame's symbols, as both ends hold them."""

    epoch: int
    frame: int
    layers: int
    """Layers of it that both ends hold, at least 1."""
    symbols: Symbols
    """int16 [C, H, W]."""

    @property
    def id(self) -> ReferenceId:
        return ReferenceId(self.epoch, self.frame)


@dataclass(frozen=True, eq=False)
class DecodedLatent:
    """A decoded frame."""

    symbols: Symbols
    """int16 [C, H, W]; `fill` in channels of missing layers."""
    operating_point: int
    layers: int
    """Layers that the bitstream announced."""
    decoded_layers: int
    """Layers that decoded, a prefix; at least 1."""
    reference: ReferenceId | None = None

    def as_reference(self, *, epoch: int, frame: int, layers: int | None = None) -> Reference:
        """This frame as a reference for later ones; `layers` when the other end holds fewer."""
        held = self.decoded_layers if layers is None else min(layers, self.decoded_layers)
        return Reference(epoch=epoch, frame=frame, layers=held, symbols=self.symbols)


class LatentCodec:
    """Encodes and decodes frames of one bundle. `coder` says which coder is in use: "c" or "python"."""

    def __init__(self, spec: LatentSpec, model: EntropyModel, *, coder: str = "auto") -> None:
        """`coder`: auto, c or python. Raises BundleError if tables and spec do not fit, EngineError if C is missing."""
        if (model.channels, model.points) != (spec.channels, len(spec.operating_points)):
            raise BundleError(
                f"tables are for {model.channels} channels and {model.points} operating points, "
                f"the spec has {spec.channels} and {len(spec.operating_points)}: they are of different bundles"
            )
        self.spec = spec
        self.model = model
        self._coder: Any = choose_coder(coder)
        self.coder: str = self._coder.name
        slots = SlotTables(model)
        names: Sequence[SetName] = ("intra",) if spec.contexts.inter is None else ("intra", "inter")
        self._plans = {
            (point, name): self._coder.prepare(make_plan(model, slots, spec.contexts, spec.layers, point, name))
            for point in range(model.points)
            for name in names
        }

    @property
    def takes_references(self) -> bool:
        """Whether frames can be coded against earlier ones."""
        return self.spec.contexts.inter is not None

    @property
    def fill(self) -> Symbols:
        """int16 [C]."""
        return self.model.fill

    def held_symbols(self, reference: Reference) -> Symbols:
        """The channels of a reference that both ends hold, int16 [c, H, W]: those of its layers."""
        return reference.symbols[: sum(self.spec.layers[: reference.layers])]

    def encode(
        self, symbols: Symbols, operating_point: int, *, layers: int | None = None, reference: Reference | None = None
    ) -> bytes:
        """Bitstream of a frame: int16 [C, H, W] to bytes.

        `layers` sends only the first ones. Raises BitstreamError if the symbols, the operating point or the reference
        do not fit, or if it takes more than PAYLOAD_BYTES_MAX.
        """
        sent = len(self.spec.layers) if layers is None else layers
        if not 1 <= sent <= len(self.spec.layers):
            raise BitstreamError(f"{sent} layers asked for, the codec has 1 to {len(self.spec.layers)}")
        symbols = self._checked(symbols)
        plan, held = self._plan(operating_point, symbols, reference)
        lengths, payload = self._coder.encode(plan, symbols, held, sent)
        _, height, width = symbols.shape
        named = None if reference is None else HeaderReference(reference.epoch, reference.frame, reference.layers)
        bitstream: bytes = pack_header(Header(operating_point, height, width, tuple(lengths), named)) + payload
        return bitstream

    def decode(
        self,
        bitstream: bytes | memoryview,
        *,
        references: Mapping[ReferenceId, Reference] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> DecodedLatent:
        """Symbols of a bitstream, as many layers as are good.

        `references` are the frames that it may be coded against, `grid` the only (height, width) that is welcome.
        Raises BitstreamError if the bytes are damaged, cut before the end of layer 0, hostile, for another codec, or
        refer to an unknown frame.
        """
        header, start = parse_header(bitstream)
        self._check_header(header, len(bitstream) - start, grid)
        reference = self._find_reference(header, references)
        symbols = np.empty((self.spec.channels, header.height, header.width), dtype=np.int16)
        plan, held = self._plan(header.operating_point, symbols, reference)
        good = self._coder.decode(plan, memoryview(bitstream)[start:], header.lengths, held, symbols)
        if good == 0:
            raise BitstreamError(f"layer 0 of a bitstream of {len(bitstream)} bytes is damaged or cut: nothing decodes")
        return DecodedLatent(
            symbols=symbols,
            operating_point=header.operating_point,
            layers=len(header.lengths),
            decoded_layers=good,
            reference=None if reference is None else reference.id,
        )

    def estimate_layers(
        self, symbols: Symbols, operating_point: int, *, reference: Reference | None = None
    ) -> list[float]:
        """Bits of each layer's symbols from the tables, without coding; int16 [C, H, W]."""
        symbols = self._checked(symbols)
        plan, held = self._plan(operating_point, symbols, reference)
        bits: list[float] = self._coder.estimate(plan, symbols, held, len(self.spec.layers))
        return bits

    def estimate_bits(
        self, symbols: Symbols, operating_point: int, *, layers: int | None = None, reference: Reference | None = None
    ) -> float:
        """About how many bits `encode` would take, header included."""
        each = self.estimate_layers(symbols, operating_point, reference=reference)[:layers]
        named = None if reference is None else HeaderReference(reference.epoch, reference.frame, reference.layers)
        return 8 * header_bytes(len(each), named) + sum(bits + STATE_BITS for bits in each if bits)

    def _checked(self, symbols: Symbols) -> Symbols:
        if symbols.dtype != np.int16 or symbols.ndim != 3 or symbols.shape[0] != self.spec.channels:
            raise BitstreamError(
                f"symbols are {symbols.dtype} of shape {symbols.shape}, "
                f"expected int16 ({self.spec.channels}, height, width)"
            )
        self._check_grid(symbols.shape[1], symbols.shape[2])
        return np.ascontiguousarray(symbols)

    def _check_grid(self, height: int, width: int) -> None:
        if not (1 <= height <= LATENT_SIDE_MAX and 1 <= width <= LATENT_SIDE_MAX):
            raise BitstreamError(f"latent grid is {height}x{width}, limit {LATENT_SIDE_MAX} each way")
        if self.spec.channels * height * width > LATENT_SYMBOLS_MAX:
            raise BitstreamError(
                f"latent of {self.spec.channels}x{height}x{width} symbols is over the limit {LATENT_SYMBOLS_MAX}"
            )

    def _check_header(self, header: Header, payload_bytes: int, grid: tuple[int, int] | None) -> None:
        self._check_grid(header.height, header.width)
        if grid is not None and (header.height, header.width) != grid:
            raise BitstreamError(f"latent grid is {header.height}x{header.width}, this end takes {grid[0]}x{grid[1]}")
        if header.operating_point >= len(self.spec.operating_points):
            raise BitstreamError(
                f"operating point {header.operating_point}, the codec has {len(self.spec.operating_points)}: "
                "use the same bundle"
            )
        if len(header.lengths) > len(self.spec.layers):
            raise BitstreamError(
                f"{len(header.lengths)} layers, the codec has {len(self.spec.layers)}: use the same bundle"
            )
        announced = 2 * sum(header.lengths)
        if payload_bytes > announced:
            raise BitstreamError(f"bitstream has {payload_bytes - announced} bytes after its last layer: it is damaged")

    def _find_reference(self, header: Header, references: Mapping[ReferenceId, Reference] | None) -> Reference | None:
        named = header.reference
        if named is None:
            return None
        if not 1 <= named.layers <= len(self.spec.layers):
            raise BitstreamError(
                f"reference has {named.layers} layers, the codec has {len(self.spec.layers)}: use the same bundle"
            )
        found = (references or {}).get(ReferenceId(named.epoch, named.frame))
        if found is None:
            raise BitstreamError(
                f"reference frame {named.frame} of epoch {named.epoch} is not held: send a frame that stands alone"
            )
        if named.layers > found.layers:
            raise BitstreamError(
                f"reference frame {named.frame} is named with {named.layers} layers, {found.layers} are held: "
                "send a frame that stands alone"
            )
        return Reference(epoch=found.epoch, frame=found.frame, layers=named.layers, symbols=found.symbols)

    def _plan(self, operating_point: int, symbols: Symbols, reference: Reference | None) -> tuple[Any, Symbols | None]:
        """(plan, reference symbols with fill beyond its layers)."""
        name: SetName = "intra" if reference is None else "inter"
        plan = self._plans.get((operating_point, name))
        if plan is None and 0 <= operating_point < len(self.spec.operating_points):
            raise BitstreamError("the frame has a reference, the bundle no inter tables: send frames that stand alone")
        if plan is None:
            raise BitstreamError(
                f"operating point {operating_point}, the codec has 0 to {len(self.spec.operating_points) - 1}"
            )
        return plan, None if reference is None else self._held(reference, symbols)

    def _held(self, reference: Reference, symbols: Symbols) -> Symbols:
        if reference.symbols.shape != symbols.shape or reference.symbols.dtype != np.int16:
            raise BitstreamError(
                f"reference is {reference.symbols.dtype} of shape {reference.symbols.shape}, "
                f"the frame int16 of {symbols.shape}"
            )
        if reference.layers >= len(self.spec.layers):
            return np.ascontiguousarray(reference.symbols)
        first = sum(self.spec.layers[: reference.layers])
        held = reference.symbols.copy()
        held[first:] = self.fill[first:, None, None]
        return held


def choose_coder(choice: str) -> NativeCoder | PythonCoder:
    """The coder asked for, auto, c or python; auto is C, or Python with one warning a process."""
    if choice == "python":
        return PythonCoder()
    if choice not in ("auto", "c"):
        raise ConfigError(f"coder is {choice!r}: expected auto, c or python")
    try:
        return _native_coder()
    except EngineError as error:
        if choice == "c":
            raise EngineError(f"{error}: {INSTALL_HINT}") from None
        _warn_once(str(error))
        return PythonCoder()


def coder_in_use() -> str:
    """What "auto" takes here: "c" or "python". Does not warn."""
    try:
        return _native_coder().name
    except EngineError:
        return PythonCoder.name


@lru_cache(maxsize=1)
def _native_coder() -> NativeCoder:
    return NativeCoder(LIBRARY)


@lru_cache(maxsize=1)
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"the slow Python range coder is in use ({reason}): {INSTALL_HINT}",
        RuntimeWarning,
        stacklevel=4,
    )
