"""Encoded pictures to pixels: bounded before a pixel is decoded, one InputError line for whatever is wrong.

Which decoder: simplejpeg for JPEG, Pillow for the rest, PyAV where neither is installed (the light edge).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import limits
from pipeline.errors import InputError

Pixels = NDArray[np.uint8]
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""What Pillow may read. It knows some thirty more, and starts Ghostscript, which is a programming language, for EPS."""


def decode_image(
    data: bytes, *, name: str = "image", pixels_max: int = limits.IMAGE_PIXELS_MAX, upright: bool = False
) -> Pixels:
    """Encoded bytes → RGB uint8 (height, width, 3). Its size is checked before any pixel is decoded.

    Transparency is laid over white. `upright` turns photographs as their EXIF orientation says (Pillow only). Raises
    InputError.
    """
    if not data:
        raise InputError(f"{name} is empty: expected an image file")
    for decoder in (_decode_simplejpeg, _decode_pillow, _decode_av):
        if upright and decoder is _decode_simplejpeg:
            continue
        try:
            pixels = decoder(data, name, pixels_max, upright)
        except ImportError:
            continue
        except InputError:
            raise
        except Exception as error:  # decoders raise anything from ValueError to their own; to us it is one thing
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{name} does not decode: {reason}: fetch it again") from None
        if pixels is not None:
            return pixels
    raise InputError(f"{name} cannot be decoded: install Pillow (pip install pillow)")


def read_image(path: str | Path, *, upright: bool = True) -> Pixels:
    """The image file at `path` as RGB uint8 (height, width, 3). Raises InputError."""
    place = Path(path).expanduser()
    try:
        data = place.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read image {place}: {error.strerror or error}") from None
    return decode_image(data, name=str(place), upright=upright)


def _check_size(name: str, width: int, height: int, pixels_max: int) -> None:
    if width < 1 or height < 1 or width * height > pixels_max:
        raise InputError(f"{name} is {width}×{height}, limit {pixels_max} pixels: scale it down first")


def _decode_simplejpeg(data: bytes, name: str, pixels_max: int, upright: bool) -> Pixels | None:
    if data[:2] != b"\xff\xd8":
        return None
    import simplejpeg

    height, width, space, _sampling = simplejpeg.decode_jpeg_header(data)
    _check_size(name, width, height, pixels_max)
    if space not in ("YCbCr", "Gray", "RGB"):
        return None  # CMYK: Pillow knows how
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    return pixels


def _decode_pillow(data: bytes, name: str, pixels_max: int, upright: bool) -> Pixels | None:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(data), formats=_pillow_formats())
    except UnidentifiedImageError:
        raise InputError(f"{name} is no picture in a known format: expected a JPEG, PNG or WebP file") from None
    with opened as image:
        _check_size(name, image.width, image.height, pixels_max)
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            coloured = image.convert("RGBA")
            white = Image.new("RGBA", coloured.size, "white")
            return np.array(Image.alpha_composite(white, coloured).convert("RGB"))
        if image.mode.startswith(("I", "F")):
            return _from_wide_grey(np.asarray(image))
        return np.array(image.convert("RGB"))


def _pillow_formats() -> list[str]:
    """Those of `_FORMATS` that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _from_wide_grey(values: NDArray[Any]) -> Pixels:
    """16-bit or float grey → RGB: Pillow would clip it to white."""
    highest = 65535.0 if values.dtype.kind in "ui" else max(float(np.nanmax(values)), 1e-9)
    grey = np.clip(np.nan_to_num(values.astype(np.float64)) * (255.0 / highest), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _decode_av(data: bytes, name: str, pixels_max: int, upright: bool) -> Pixels | None:
    import av

    with av.open(io.BytesIO(data), mode="r") as container:
        if not container.streams.video:
            raise InputError(f"{name} holds no picture")
        size = container.streams.video[0].codec_context
        _check_size(name, size.width, size.height, pixels_max)
        for frame in container.decode(video=0):
            return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
    raise InputError(f"{name} holds no picture")
