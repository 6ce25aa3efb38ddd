"""JPEG, WebP, AVIF and PNG as rivals of our codec: a square of pixels in, a file's bytes, and what a server sees.

At few bytes a frame a picture codec does better on a smaller picture that the server enlarges again, so each lossy one
is tried at smaller sides too. JPEG is written as an edge sends it (simplejpeg, 4:2:0), WebP with method 4, AVIF with
speed 8. `jpeg-optimised` is the same JPEG, progressive and with Huffman tables of its own (Pillow): slower, smaller.

Axes: S side of the encoder's input.
"""

from __future__ import annotations

import functools
import importlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_node.payload import to_pixels
from pipeline.datasets import decode_image
from pipeline.errors import ConfigError
from pipeline.preprocess import Preprocessor, PreprocessSpec

Pixels = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Compress = Callable[[Pixels, int], bytes]
"""(picture, quality) → file."""

_FULL, _SMALL, _HALF = 1.0, 5 / 7, 1 / 2
"""Sides that are tried, as shares of S: 224, 160, 112."""
_JPEG_QUALITIES = {_FULL: (5, 10, 20, 30, 50, 75, 90, 95), _SMALL: (10, 30, 60), _HALF: (20, 50, 80)}
QUALITIES: dict[str, dict[float, tuple[int, ...]]] = {
    "jpeg": _JPEG_QUALITIES,
    "jpeg-optimised": _JPEG_QUALITIES,
    "webp": {_FULL: (1, 10, 20, 35, 50, 75, 90, 95), _SMALL: (5, 25, 60), _HALF: (20, 50, 80)},
    "avif": {_FULL: (1, 10, 25, 40, 55, 70, 85), _SMALL: (5, 25, 50), _HALF: (20, 45, 70)},
    "png": {_FULL: (100,)},
}
"""Codec → share of the side → qualities; in the order in which they are measured and drawn."""
DEFAULT_CODECS = ("jpeg", "webp", "avif", "png")


@dataclass(frozen=True)
class PictureCodec:
    """A picture codec at one setting: `side` pixels are sent, `size` are looked at. One thread at a time."""

    name: str
    quality: int
    side: int
    size: int
    encode: Compress

    @property
    def setting(self) -> str:
        if self.name == "png":
            return "lossless"
        return f"q{self.quality}" if self.full_size else f"q{self.quality}, {self.side} px"

    @property
    def full_size(self) -> bool:
        return self.side == self.size

    def compress(self, square_SS3: Pixels) -> bytes:
        """The file that would be sent of a uint8 [S, S, 3] square."""
        sent = square_SS3 if self.full_size else to_pixels(_resizer(self.side)(square_SS3))
        return self.encode(np.ascontiguousarray(sent), self.quality)

    def expand(self, data: bytes) -> Float32:
        """What the server looks at: float32 [1, 3, S, S] in [0, 1]."""
        return _resizer(self.size)(decode_image(data, name=f"{self.name} {self.setting}"))


def picture_codecs(names: Iterable[str], size: int) -> tuple[list[PictureCodec], list[str]]:
    """(codecs at all their settings, what cannot run here and why) for squares of `size` pixels.

    Raises ConfigError for unknown names.
    """
    found: list[PictureCodec] = []
    left_out: list[str] = []
    for name in names:
        if name not in QUALITIES:
            raise ConfigError(f"codec is {name!r}, expected some of {', '.join(QUALITIES)}")
        encode = _ENCODERS[name]
        try:
            encode(np.zeros((8, 8, 3), np.uint8), 50)
        except Exception as error:  # a missing module, or a Pillow that was built without this format
            left_out.append(f"{name} does not run here ({type(error).__name__}: {error}): install another Pillow")
            continue
        found += [
            PictureCodec(name, quality, round(share * size), size, encode)
            for share, qualities in QUALITIES[name].items()
            for quality in qualities
        ]
    return found, left_out


def _simplejpeg(pixels: Pixels, quality: int) -> bytes:
    import simplejpeg

    data: bytes = simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420")
    return data


def _pillow(pixels: Pixels, quality: int, **options: Any) -> bytes:
    image: Any = importlib.import_module("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(pixels).save(buffer, quality=quality, **options)
    return buffer.getvalue()


_ENCODERS: dict[str, Compress] = {
    "jpeg": _simplejpeg,
    "jpeg-optimised": functools.partial(_pillow, format="JPEG", optimize=True, progressive=True),
    "webp": functools.partial(_pillow, format="WEBP", method=4),
    "avif": functools.partial(_pillow, format="AVIF", speed=8, max_threads=1),
    "png": functools.partial(_pillow, format="PNG", optimize=True),
}


@functools.cache
def _resizer(size: int) -> Preprocessor:
    """Whole square to `size` pixels, bicubic and antialiased; nothing but a scale where it has that size."""
    return Preprocessor(PreprocessSpec(size=size, filter="bicubic"))
