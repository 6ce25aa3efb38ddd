"""Pictures of unmodified clients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_server.pictures import decode_picture
from pipeline import limits
from pipeline.errors import InputError
from tests.streaming import jpeg


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (3, 500), (64, 48)])
def test_any_size(form: str, size: tuple[int, int]) -> None:
    """RGB pixels of the picture's own size, whatever it is."""
    assert decode_picture(jpeg(*size, form=form), side=224).shape == (size[1], size[0], 3)


def test_grey_and_cmyk_become_rgb() -> None:
    """Whatever the file holds, three colours come out."""
    assert (decode_picture(jpeg(mode="L"), side=224) == 128).all()
    assert decode_picture(jpeg(form="WEBP", mode="RGBA"), side=224).shape == (48, 64, 3)


def test_large_pictures_are_decoded_at_a_reduced_size() -> None:
    """Most of a 12-megapixel JPEG is thrown away by the resize: it is not decoded in the first place."""
    pixels = decode_picture(jpeg(1600, 1200), side=100)
    assert pixels.shape == (300, 400, 3)
    assert np.abs(pixels.astype(int) - (200, 30, 30)).max() <= 4


def test_other_files() -> None:
    """Only JPEG and WebP: a decoder that nobody needs is a door that nobody watches."""
    with pytest.raises(InputError, match="no picture that can be read"):
        decode_picture(jpeg(form="PNG"), side=224)


def test_size_limit() -> None:
    """The header's size is checked before anything is unpacked."""
    data = bytearray(jpeg(8, 8))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = (65_000).to_bytes(2, "big") * 2
    with pytest.raises(InputError, match=f"limit {limits.IMAGE_PIXELS_MAX} pixels"):
        decode_picture(bytes(data), side=224)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"RIFF\x10\x00\x00\x00WEBPVP8 "]))
def test_any_bytes(data: bytes, start: bytes) -> None:
    """Pixels or InputError, nothing else."""
    try:
        pixels = decode_picture(start + data, side=224)
    except InputError:
        return
    assert pixels.dtype == np.uint8
