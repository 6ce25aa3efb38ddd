"""Small JPEGs of captured frames, made with PyAV, which every edge has."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

SIDE_MAX: Final = 320
"""Longer side of a thumbnail, in pixels."""
_QSCALE = 6
"""MJPEG's quantiser, 2 (best) to 31: about JPEG quality 75."""


class ThumbnailEncoder:
    """Makes JPEGs of RGB pictures (H, W, 3), uint8, of whatever size they come. One thread."""

    def __init__(self, side_max: int = SIDE_MAX) -> None:
        self._side_max = side_max
        self._contexts: dict[tuple[int, int], Any] = {}
        self._scalers: dict[tuple[int, int], Any] = {}

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        import av

        height, width = pixels.shape[:2]
        scale = min(1.0, self._side_max / max(height, width))
        size = (_even(width * scale), _even(height * scale))
        # Leaving out rows is cheap, and what is left is still twice as fine as wanted.
        rows = max(1, max(height, width) // (2 * self._side_max))
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[::rows]), format="rgb24")
        frame = self._scaler(size).reformat(
            frame, width=size[0], height=size[1], format="yuvj420p", interpolation="AREA"
        )
        frame.pts = None
        return b"".join(bytes(packet) for packet in self._context(size).encode(frame))

    def _scaler(self, size: tuple[int, int]) -> Any:
        """Made once: its tables cost as much as a picture."""
        from av.video.reformatter import VideoReformatter

        return self._scalers.setdefault(size, VideoReformatter())

    def _context(self, size: tuple[int, int]) -> Any:
        import av

        context = self._contexts.get(size)
        if context is None:
            context = av.CodecContext.create("mjpeg", "w")
            context.width, context.height = size
            context.pix_fmt = "yuvj420p"
            context.time_base = Fraction(1, 1000)
            context.options = {"qmin": str(_QSCALE), "qmax": str(_QSCALE)}
            self._contexts[size] = context
        return context


def decode_thumbnail(jpeg: bytes) -> NDArray[np.uint8]:
    """RGB (H, W, 3), uint8. Raises InputError if it is damaged."""
    import av
    import av.error

    try:
        decoder: Any = av.CodecContext.create("mjpeg", "r")
        pixels: NDArray[np.uint8] = decoder.decode(av.Packet(jpeg))[0].to_ndarray(format="rgb24")
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise InputError(f"a thumbnail of {len(jpeg)} bytes does not decode: {error}") from None
    return pixels


def _even(side: float) -> int:
    return max(2, round(side / 2) * 2)
