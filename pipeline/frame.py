"""A captured frame: pixels with a number and the time at which they were captured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = tuple[NDArray[np.uint8], float | None]
"""What sources give: RGB pixels (height, width, 3), uint8, and the time within the source in seconds (None: live)."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a source.

    `number` counts captured frames from 0 without gaps; `captured_at` is monotonic seconds on this machine;
    `pixels` is RGB, uint8, shape (height, width, 3), C-contiguous; `media_time` is the presentation time in
    seconds within the source (files and recordings), or None for live sources.
    """

    number: int
    captured_at: float
    pixels: NDArray[np.uint8]
    media_time: float | None = None

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])
