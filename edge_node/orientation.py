"""Which way up a picture is, mirrored or not: from a frame's display matrix, or from the EXIF data of a picture file.

PyAV tells the angle of a frame, not whether it is mirrored; and it cannot list the side data of frames with EXIF data.
"""

from __future__ import annotations

import re
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Orientation(NamedTuple):
    """How stored pixels become upright: rows and columns exchanged first, then mirrored along x, along y."""

    exchanged: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) upright, contiguous; without a copy where it is already."""
        if self.exchanged:
            pixels = pixels.swapaxes(0, 1)
        return np.ascontiguousarray(pixels[:: -1 if self.mirrored_y else 1, :: -1 if self.mirrored_x else 1])


_BY_EXIF = {
    1: Orientation(),
    2: Orientation(mirrored_x=True),
    3: Orientation(mirrored_x=True, mirrored_y=True),
    4: Orientation(mirrored_y=True),
    5: Orientation(exchanged=True),
    6: Orientation(exchanged=True, mirrored_x=True),
    7: Orientation(exchanged=True, mirrored_x=True, mirrored_y=True),
    8: Orientation(exchanged=True, mirrored_y=True),
}
_BY_TURNS = (_BY_EXIF[1], _BY_EXIF[8], _BY_EXIF[3], _BY_EXIF[6])
"""By quarters of a turn, counter-clockwise."""
_EXIF_START = re.compile(rb"(?:Exif\0\0|eXIf|EXIF.{4}|\A)(?=II\*\0|MM\0\*)", re.DOTALL)
"""Before the TIFF header in JPEG and some WebP files, in PNG, in WebP, and in TIFF itself."""
_EXIF_ORIENTATION = 0x0112
_EXIF_SHORT = 3
_EXIF_ENTRY_BYTES = 12


def frame_orientation(frame: Any) -> Orientation:
    """From the display matrix that the container or codec gave, rounded to quarters of a turn.

    Ask once a stream: a frame whose side data were looked at refers to itself, and its pixels stay until the garbage
    collector comes by.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # it has side data of a kind that this PyAV does not know
        return _BY_TURNS[round(frame.rotation / 90) % 4]
    if matrix is None:
        return Orientation()
    # x' = a x + c y, y' = b x + d y (FFmpeg: libavutil/display.h)
    a, b, _, c, d = (int(value) for value in np.frombuffer(matrix, np.int32)[:5])
    if abs(b) > abs(a):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def exif_orientation(data: bytes) -> Orientation | None:
    """From the EXIF data in a JPEG, PNG, WebP or TIFF file; None: it has none. AVIF and HEIF turn by other means."""
    start = None if data[4:8] == b"ftyp" else _EXIF_START.search(data)
    if start is None:
        return None
    tiff = data[start.end() :]
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for place in range(directory + 2, directory + 2 + entries * _EXIF_ENTRY_BYTES, _EXIF_ENTRY_BYTES):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, place)
            if (tag, kind) == (_EXIF_ORIENTATION, _EXIF_SHORT):
                return _BY_EXIF.get(value)
    except struct.error:  # cut short
        pass
    return None
