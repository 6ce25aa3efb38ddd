"""What is sent of a frame: its bitstream, or a JPEG for the unmodified backbone. Both are timed stage by stage."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_node.records import FrameRecord
from edge_node.references import ReferenceShelf
from pipeline.clock import Clock, monotonic
from pipeline.codec import LatentCodec, OperatingPoint, Reference, quantise, quantise_sticky
from pipeline.codec.quantisation import Latent, Symbols
from pipeline.errors import ConfigError
from pipeline.frame import Frame
from pipeline.preprocess import Preprocessor, PreprocessSpec
from pipeline.rate_control import EncodeChoice
from pipeline.runtime.encoder import FrameEncoder
from pipeline.wire.messages import Welcome
from pipeline.wire.stage_marks import StageMarks

Kind = Literal["bitstream", "jpeg"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A frame ready to be offered to the session."""

    payload: bytes
    marks: StageMarks
    reference: int | None = None
    """Number of the frame that it is coded against; None: it stands alone."""
    alone_bytes: int = 0
    """About what it would take standing alone; 0: not known."""
    changed_share: float = 1.0
    """Share of its symbols that differ from the reference's."""


class PayloadEncoder(Protocol):
    """Turns frames into payloads. One thread at a time."""

    kind: Kind
    input_pixels: int
    """Pixels of the picture that the payload stands for."""

    def encode(self, frame: Frame, taken_at: float) -> Encoded:
        """Encode `frame`, which left the capture stage at `taken_at`. Raises FrankenError."""
        ...

    def choose(self, choice: EncodeChoice) -> None:
        """How the next frames are to be encoded. On the encoding thread."""
        ...

    def opened(self, welcome: Welcome) -> None:
        """A session was welcomed in which later frames may refer to earlier ones. From any thread."""
        ...

    def ended(self, record: FrameRecord) -> None:
        """A frame has ended. From any thread."""
        ...

    def describe(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """One way of coding a frame. `layers` None: all; `reference` None: it stands alone."""

    symbols: Symbols
    operating_point: int
    layers: int | None
    reference: Reference | None
    alone_bytes: int = 0
    """About what the frame would take without a reference."""


class LatentPayload:
    """Bitstreams: preprocess, analysis, quantisation and entropy coding, against a frame that the server has.

    These may be changed while running: `operating_point`, an index into `points`; `layers`, how many are sent (None:
    all); `sticky_threshold`, how far in symbols a latent may lie from its reference's symbol that is kept (None: as the
    operating point says, 0: off).
    """

    kind: Kind = "bitstream"

    def __init__(
        self,
        encoder: FrameEncoder,
        codec: LatentCodec,
        points: tuple[OperatingPoint, ...],
        *,
        operating_point: int,
        layers: int | None = None,
        sticky_threshold: float | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.operating_point = operating_point
        self.layers = layers
        self.sticky_threshold = sticky_threshold
        self.input_pixels = encoder.spec.size**2
        self._encoder = encoder
        self._codec = codec
        self._points = points
        self._clock = clock
        self._references = ReferenceShelf()

    def encode(self, frame: Frame, taken_at: float) -> Encoded:
        """Raises InputError, EngineError."""
        image = self._encoder.preprocess(frame.pixels)
        preprocessed = self._clock()
        latent = self._encoder.analyse(image)
        analysed = self._clock()
        choice = self._choose(latent, self.operating_point, self.layers)
        payload = self._codec.encode(
            choice.symbols, choice.operating_point, layers=choice.layers, reference=choice.reference
        )
        self._references.sent(frame.number, choice.symbols)
        marks = StageMarks(frame.captured_at, taken_at, preprocessed, analysed, self._clock())
        if choice.reference is None:
            return Encoded(payload, marks, alone_bytes=len(payload))
        held = self._codec.held_symbols(choice.reference)
        return Encoded(payload, marks, choice.reference.frame, choice.alone_bytes, _changed_share(choice.symbols, held))

    def choose(self, choice: EncodeChoice) -> None:
        self.operating_point, self.layers = choice.operating_point, choice.layers
        if choice.theta is not None:
            self.sticky_threshold = choice.theta

    def opened(self, welcome: Welcome) -> None:
        window = welcome.reference_window if self._codec.takes_references else 0
        self._references.open(window=window, epoch=welcome.reference_epoch)

    def ended(self, record: FrameRecord) -> None:
        if record.answered:
            self._references.acknowledged(record.frame, record.decoded_layers)
        else:
            self._references.dropped(record.frame, record.state)

    def stand_alone(self) -> None:
        """The next frame refers to no earlier one: somebody who listens has missed one. From any thread."""
        self._references.forget()

    def _choose(self, latent: Latent, index: int, layers: int | None) -> Choice:
        """Against the newest reference, or alone where the tables say that this is shorter: the scene has changed.

        Alone, a frame has nothing to stick to: its symbols are the nearest ones.
        """
        alone = Choice(quantise(latent, self._points[index]), index, layers, None)
        reference = self._references.newest()
        if reference is None:
            return alone
        held = self._codec.held_symbols(reference)
        symbols = quantise_sticky(latent, self._points[index], held, threshold=self.sticky_threshold)
        alone_bits = self._bits(alone)
        referring = Choice(symbols, index, layers, reference, alone_bytes=round(alone_bits / 8))
        return referring if self._bits(referring) <= alone_bits else alone

    def _bits(self, choice: Choice) -> float:
        return self._codec.estimate_bits(
            choice.symbols, choice.operating_point, layers=choice.layers, reference=choice.reference
        )

    def describe(self) -> str:
        return self._encoder.describe()


def _changed_share(symbols: Symbols, held: Symbols) -> float:
    """Against a reference that was not whole everything counts as changed: its answer was a poorer one."""
    return float(np.mean(symbols != held)) if held.shape == symbols.shape else 1.0


class JpegPayload:
    """JPEGs of what the encoder would see, for comparison: the server runs the unmodified backbone on them.

    Needs simplejpeg or Pillow. Raises ConfigError where neither is installed.
    """

    kind: Kind = "jpeg"

    def __init__(self, spec: PreprocessSpec, *, quality: int = 90, clock: Clock = monotonic) -> None:
        self.input_pixels = spec.size**2
        self._quality = quality
        self._preprocessor = Preprocessor(spec)
        self._clock = clock
        self._compress = _jpeg_compressor()

    def encode(self, frame: Frame, taken_at: float) -> Encoded:
        """Raises InputError."""
        pixels = to_pixels(self._preprocessor(frame.pixels))
        preprocessed = self._clock()
        payload = self._compress(pixels, self._quality)
        return Encoded(payload, StageMarks(frame.captured_at, taken_at, preprocessed, preprocessed, self._clock()))

    def choose(self, choice: EncodeChoice) -> None:
        """Pictures have one quality."""

    def opened(self, welcome: Welcome) -> None:
        """Pictures stand alone."""

    def ended(self, record: FrameRecord) -> None:
        """Pictures stand alone."""

    def describe(self) -> str:
        return f"JPEG quality {self._quality}, for the unmodified backbone"


def to_pixels(image_13SS: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Encoder input (1, 3, S, S) in [0, 1] back to a picture (S, S, 3), uint8."""
    pixels: NDArray[np.uint8] = np.ascontiguousarray(np.rint(image_13SS[0].transpose(1, 2, 0) * 255).astype(np.uint8))
    return pixels


def _jpeg_compressor() -> Any:
    """(pixels, quality) -> bytes."""
    if importlib.util.find_spec("simplejpeg") is not None:
        simplejpeg = importlib.import_module("simplejpeg")
        return lambda pixels, quality: simplejpeg.encode_jpeg(
            pixels, quality=quality, colorspace="RGB", colorsubsampling="420"
        )
    if importlib.util.find_spec("PIL") is not None:
        return _pillow_jpeg
    raise ConfigError("sending JPEGs needs simplejpeg or Pillow, neither is installed: pip install simplejpeg")


def _pillow_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    import io

    image: Any = importlib.import_module("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
