"""Frames in parts stay within their limit, whatever their parts and parity say."""

from __future__ import annotations

import pytest

from pipeline.errors import RemoteProtocolError
from pipeline.wire.assembly import FrameAssembly
from pipeline.wire.messages import FramePart, LimitError
from pipeline.wire.parity import LENGTH_BYTES, PART_BYTES_MAX, parity_of


def part(number: int, data: bytes, *, parts: int, parity: int = 0) -> FramePart:
    return FramePart(7, number, parts, 0, 400_000, data, parity=parity)


def assembly(*, parts: int, parity: int = 0, size_max: int) -> FrameAssembly:
    return FrameAssembly(parts, 0.0, None, parity, size_max)


def test_a_frame_of_just_the_limit_is_whole() -> None:
    """With a part that parity stands for."""
    pieces = [b"x" * 60, b"y" * 40]
    frame = assembly(parts=2, parity=1, size_max=100)
    assert not frame.add(part(1, pieces[1], parts=2, parity=1))
    assert frame.add(part(2, parity_of(pieces, 1)[0], parts=2, parity=1))
    assert frame.prefix() == b"".join(pieces)


def test_parts_of_more_than_the_limit_are_refused() -> None:
    """By their sum."""
    frame = assembly(parts=3, size_max=100)
    frame.add(part(0, b"x" * 60, parts=3))
    frame.add(part(0, b"x" * 60, parts=3))  # doubled: counts once
    with pytest.raises(LimitError, match="frame 7 has 101 bytes in parts, limit 100"):
        frame.add(part(1, b"y" * 41, parts=3))


def test_parts_that_come_back_count_too() -> None:
    """A small part and the parity of large ones would else make a frame of any size."""
    pieces = [b"x", b"y" * 60, b"z" * 60]
    codes = parity_of(pieces, 2)
    frame = assembly(parts=3, parity=2, size_max=100)
    frame.add(part(0, pieces[0], parts=3, parity=2))
    frame.add(part(3, codes[0], parts=3, parity=2))
    with pytest.raises(LimitError, match="frame 7 has 121 bytes in parts, limit 100"):
        frame.add(part(4, codes[1], parts=3, parity=2))


def test_parity_of_a_part_beyond_the_limit_is_refused() -> None:
    """It stands for nothing that would be welcome."""
    frame = assembly(parts=2, parity=1, size_max=100)
    frame.add(part(0, b"x", parts=2, parity=1))
    with pytest.raises(LimitError, match="frame 7 has 101 bytes in parts, limit 100"):
        frame.add(part(2, b"z" * (LENGTH_BYTES + 101), parts=2, parity=1))


def test_parts_too_long_for_their_length_field_are_refused() -> None:
    """Where there is parity."""
    size = LENGTH_BYTES + PART_BYTES_MAX + 1
    with pytest.raises(RemoteProtocolError, match=f"a part of {size} bytes has parity"):
        assembly(parts=2, parity=1, size_max=10 * size).add(part(0, bytes(size), parts=2, parity=1))
