"""Parity parts: any that are missing come back, never others; and how many are worth their bytes."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RemoteProtocolError
from pipeline.limits import FRAME_PARITY_PARTS_MAX, FRAME_PARTS_MAX
from pipeline.wire.parity import LENGTH_BYTES, parity_of, parity_worth, restored, whole_share
from tests.golden.wire.make_vectors import PARITY_FILE

PARTS = [b"first", b"", b"the third one", b"4"]


def test_the_first_parity_part_is_the_xor() -> None:
    """Of (length, bytes, zeros) of every part."""
    expected = [0] * 15
    for part in PARTS:
        for place, byte in enumerate(len(part).to_bytes(2, "little") + part):
            expected[place] ^= byte
    assert [bytes(expected)] == parity_of(PARTS, 1)


def test_the_others_have_factors() -> None:
    """Part i counts 2^(k·i) times in GF(256), polynomial 0x11D: here 2^8 = 0x1D and 4^8 = 0x4C, by hand."""
    parts = [b""] * 8 + [b"\x01"]
    _, second, third = parity_of(parts, 3)
    assert (second, third) == (b"\x1d\x00\x1d", b"\x4c\x00\x4c")


@pytest.mark.parametrize("parity", range(1, FRAME_PARITY_PARTS_MAX + 1))
def test_whatever_is_missing_comes_back(parity: int) -> None:
    """Every pattern of losses of a frame of four parts: all parts, or None if too few messages are here."""
    codes = parity_of(PARTS, parity)
    for kept in itertools.product([False, True], repeat=len(PARTS) + parity):
        here = {number: part for number, part in enumerate(PARTS) if kept[number]}
        there = {number: code for number, code in enumerate(codes) if kept[len(PARTS) + number]}
        whole = PARTS if sum(kept) >= len(PARTS) or len(here) == len(PARTS) else None
        assert whole == restored(len(PARTS), here, there)


@given(st.data())
def test_frames_of_any_size_come_back(data: st.DataObject) -> None:
    """Up to the largest number of parts, of unequal length."""
    parts = data.draw(st.lists(st.binary(max_size=40), min_size=1, max_size=FRAME_PARTS_MAX))
    count = data.draw(st.integers(1, FRAME_PARITY_PARTS_MAX))
    missing = data.draw(st.sets(st.integers(0, len(parts) - 1), max_size=count))
    rows = data.draw(st.permutations(range(count)))[: len(missing)]
    codes = parity_of(parts, count)
    here = {number: part for number, part in enumerate(parts) if number not in missing}
    assert parts == restored(len(parts), here, {row: codes[row] for row in rows})


@pytest.mark.parametrize("vector", json.loads(PARITY_FILE.read_text()), ids=lambda vector: vector["name"])
def test_golden_vectors(vector: dict[str, Any]) -> None:
    """Those that the page's tests read too."""
    parts = [bytes.fromhex(part) for part in vector["parts"]]
    assert vector["parity"] == [code.hex() for code in parity_of(parts, 3)]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4), st.lists(st.binary(max_size=24), max_size=3))
def test_foreign_parity_is_an_error_or_bytes(parts: list[bytes], codes: list[bytes]) -> None:
    """A hostile edge gets its frame refused, or other bytes for it; never another exception."""
    here = dict(enumerate(parts[1:], 1))
    try:
        found = restored(len(parts), here, dict(enumerate(codes)))
    except RemoteProtocolError:
        return
    assert found is None or found[1:] == parts[1:]


def test_parity_of_other_parts_is_refused() -> None:
    """Lengths tell."""
    with pytest.raises(RemoteProtocolError, match="do not fit the parts"):
        restored(2, {0: b"longer than the parity"}, {0: b"short"})
    with pytest.raises(RemoteProtocolError, match="not that of its frame"):
        restored(1, {}, {0: b"\xff\xffab"})


def test_a_parity_part_is_hardly_longer_than_a_part() -> None:
    """By the length field."""
    assert {LENGTH_BYTES + 13} == {len(code) for code in parity_of(PARTS, 3)}


def test_shares_of_whole_frames() -> None:
    """By hand: four messages at 3 %, and one more that may be missing."""
    assert whole_share(4, 0, 0.03) == pytest.approx(0.97**4)
    assert whole_share(4, 1, 0.03) == pytest.approx(0.97**5 + 5 * 0.03 * 0.97**4)
    assert whole_share(1, 1, 0.1) == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("parts", "loss", "count"),
    [(4, 0.0, 0), (4, 0.002, 0), (1, 0.01, 0), (1, 0.03, 1), (4, 0.01, 1), (4, 0.03, 1), (4, 0.1, 2), (6, 0.1, 3)],
)
def test_parity_rises_with_the_loss(parts: int, loss: float, count: int) -> None:
    """None on a clean link; at 3 % one makes 99 % of the frames whole."""
    assert count == parity_worth(parts, loss)


def test_parity_costs_no_frames_on_a_full_link() -> None:
    """A link that takes just these frames would take fewer of them with parity; heavy loss pays even that."""
    assert [parity_worth(4, 0.03, room) for room in (math.inf, 1.3, 1.0, 0.5)] == [1, 1, 0, 0]
    assert parity_worth(7, 0.1, 0.6) == 2
    assert parity_worth(4, 0.9, count_max=0) == 0
