"""Where frames are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec.bitstream import Header, pack_header
from pipeline.limits import FRAME_PARTS_MAX
from pipeline.wire.cutting import cut, holds_a_layer, layer_ends, parts_of


def bitstream(*words: int) -> bytes:
    """Layers of so many 16-bit words, all zeros."""
    return pack_header(Header(0, 28, 28, words)) + bytes(2 * sum(words))


def check(payload: bytes, part_bytes: int, *, at_layers: bool) -> None:
    """In order, none empty, none too long, no more of them than it takes."""
    pieces = cut(payload, part_bytes, at_layers=at_layers)
    assert payload == b"".join(pieces)
    assert min(map(len, pieces)) > 0
    assert len(pieces) == parts_of(len(payload), part_bytes) <= FRAME_PARTS_MAX
    assert max(map(len, pieces)) <= max(part_bytes, -(-len(payload) // FRAME_PARTS_MAX))


@given(st.binary(min_size=1, max_size=500), st.integers(1, 200), st.booleans())
def test_pieces_are_the_frame(payload: bytes, part_bytes: int, at_layers: bool) -> None:
    """Whatever it is."""
    check(payload, part_bytes, at_layers=at_layers)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=8), st.integers(60, 700), st.booleans())
def test_bitstreams_take_no_more_parts_for_their_layers(words: list[int], part_bytes: int, at_layers: bool) -> None:
    """The same law for what has layers."""
    check(bitstream(*words), part_bytes, at_layers=at_layers)


def test_cuts_lie_at_ends_of_layers() -> None:
    """The furthest one that leaves the others enough room: layer 0 alone costs no part more."""
    payload = bitstream(400, 30, 500)  # 12 bytes of header; layers end at 812, 872 and 1872
    assert layer_ends(payload) == [812, 872, 1872]
    assert [len(piece) for piece in cut(payload, 1000, at_layers=True)] == [872, 1000]
    assert [len(piece) for piece in cut(payload, 1000, at_layers=False)] == [936, 936]


def test_a_layer_that_is_too_long_is_cut_evenly() -> None:
    """No end within reach."""
    assert [len(piece) for piece in cut(bitstream(1000), 1000, at_layers=True)] == [670, 670, 669]


def test_what_decodes() -> None:
    """A prefix with layer 0 in it; what is no bitstream is not judged here."""
    payload = bitstream(400, 30, 500)
    assert not holds_a_layer(payload[:811])
    assert holds_a_layer(payload[:812])
    assert holds_a_layer(b"\xff\xd8\xff")
