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
from pipeline.codec import LatentCodec, OperatingPoint, quantise
from pipeline.codec.quantisation import Symbols
from pipeline.errors import ConfigError
from pipeline.frame import Frame
from pipeline.preprocess import Preprocessor, PreprocessSpec
from pipeline.runtime.encoder import FrameEncoder
from pipeline.wire.messages import Welcome
from pipeline.wire.stage_marks import StageMarks

Kind = Literal["bitstream", "jpeg"]

STANDS_ALONE_ABOVE = 1.15
"""A frame that comes out this much larger than the last one is tried without its reference too: the scene changed."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A frame ready to be offered to the session."""

    payload: bytes
    marks: StageMarks


class PayloadEncoder(Protocol):
    """Turns frames into payloads. One thread at a time."""

    kind: Kind
    input_pixels: int
    """Pixels of the picture that the payload stands for."""

    def encode(self, frame: Frame, taken_at: float) -> Encoded:
        """Encode `frame`, which left the capture stage at `taken_at`. Raises FrankenError."""
        ...

    def opened(self, welcome: Welcome) -> None:
        """A session was welcomed in which later frames may refer to earlier ones. From any thread."""
        ...

    def ended(self, record: FrameRecord) -> None:
        """A frame has ended. From any thread."""
        ...

    def describe(self) -> str: ...


class LatentPayload:
    """Bitstreams: preprocess, analysis, quantisation and entropy coding.

    `operating_point` is an index into `points`; it and `layers` (how many are sent, None: all) may be changed while
    running.
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
        clock: Clock = monotonic,
    ) -> None:
        self.operating_point = operating_point
        self.layers = layers
        self.input_pixels = encoder.spec.size**2
        self._encoder = encoder
        self._codec = codec
        self._points = points
        self._clock = clock
        self._references = ReferenceShelf()
        self._last_bytes = 0

    def encode(self, frame: Frame, taken_at: float) -> Encoded:
        """Raises InputError, EngineError."""
        image = self._encoder.preprocess(frame.pixels)
        preprocessed = self._clock()
        latent = self._encoder.analyse(image)
        analysed = self._clock()
        index = self.operating_point
        symbols = quantise(latent, self._points[index])
        payload = self._code(symbols, index)
        self._references.sent(frame.number, symbols)
        return Encoded(payload, StageMarks(frame.captured_at, taken_at, preprocessed, analysed, self._clock()))

    def opened(self, welcome: Welcome) -> None:
        window = welcome.reference_window if self._codec.takes_references else 0
        self._references.open(window=window, epoch=welcome.reference_epoch)

    def ended(self, record: FrameRecord) -> None:
        if record.answered:
            self._references.acknowledged(record.frame, record.decoded_layers)
        else:
            self._references.dropped(record.frame, record.state)

    def _code(self, symbols: Symbols, index: int) -> bytes:
        """Against the newest reference, or alone where that is shorter."""
        reference = self._references.newest()
        payload = self._codec.encode(symbols, index, layers=self.layers, reference=reference)
        if reference is not None and len(payload) > STANDS_ALONE_ABOVE * self._last_bytes:
            payload = min(payload, self._codec.encode(symbols, index, layers=self.layers), key=len)
        self._last_bytes = len(payload)
        return payload

    def describe(self) -> str:
        return self._encoder.describe()


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
