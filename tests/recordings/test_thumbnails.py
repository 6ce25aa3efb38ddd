"""Small JPEGs of any picture."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputError
from recordings.thumbnails import SIDE_MAX, ThumbnailEncoder, decode_thumbnail


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(720, 1280, (180, 320)), (1280, 720, (320, 180)), (48, 64, (48, 64)), (1, 1, (2, 2)), (333, 1001, (106, 320))],
)
def test_size(height: int, width: int, expected: tuple[int, int]) -> None:
    """At most SIDE_MAX, even, in the picture's proportions."""
    pixels = np.full((height, width, 3), (200, 100, 50), np.uint8)
    decoded = decode_thumbnail(ThumbnailEncoder().encode(pixels))
    assert decoded.shape == (*expected, 3)
    assert max(decoded.shape) <= SIDE_MAX
    assert np.abs(decoded.mean((0, 1)) - (200, 100, 50)).max() < 6


def test_one_encoder_takes_pictures_of_all_sizes() -> None:
    encoder = ThumbnailEncoder()
    for side in (100, 50, 100):
        assert decode_thumbnail(encoder.encode(np.zeros((side, side, 3), np.uint8))).shape == (side, side, 3)


def test_damaged_thumbnails() -> None:
    with pytest.raises(InputError, match="does not decode"):
        decode_thumbnail(b"no picture")
