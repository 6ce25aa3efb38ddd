"""JPEG and WebP pictures of clients that send those instead of latents, size-limited before anything is unpacked."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from pipeline import limits
from pipeline.errors import InputError

_JPEG_MAGIC = b"\xff\xd8\xff"
_SCALED_SIDES = 4
"""A JPEG whose sides are this many times larger than what is needed is decoded at a reduced size."""


def decode_picture(data: bytes, *, side: int) -> NDArray[np.uint8]:
    """RGB pixels (H, W, 3) of a JPEG or WebP picture; `side` is what it will be scaled to. Raises InputError."""
    if not data:
        raise InputError("the picture is empty: send a JPEG or WebP file")
    try:
        if data.startswith(_JPEG_MAGIC):
            return _decode_jpeg(data, side)
        return _decode_other(data)
    except (ValueError, OSError, SyntaxError, EOFError, MemoryError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{len(data)} bytes are no picture that can be read: {line}") from None


def _decode_jpeg(data: bytes, side: int) -> NDArray[np.uint8]:
    import simplejpeg

    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    _check(width, height)
    smallest = 2 * side if min(height, width) >= _SCALED_SIDES * side else 0
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, colorspace="RGB", min_height=smallest, min_width=smallest, min_factor=2 if smallest else 1
    )
    return pixels


def _decode_other(data: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # our own limit is checked before the pixels are read
    with Image.open(io.BytesIO(data), formats=("WEBP", "JPEG")) as image:
        _check(*image.size)
        return np.asarray(image.convert("RGB"))


def _check(width: int, height: int) -> None:
    if width * height > limits.IMAGE_PIXELS_MAX:
        raise InputError(f"picture is {width}x{height}, limit {limits.IMAGE_PIXELS_MAX} pixels: send a smaller one")
