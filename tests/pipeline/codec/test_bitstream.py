"""The header."""

from __future__ import annotations

import pytest

from pipeline.codec.bitstream import (
    HEADER_BYTES_MAX,
    Header,
    HeaderReference,
    header_bytes,
    pack_header,
    parse_header,
)
from pipeline.errors import BitstreamError
from pipeline.limits import PAYLOAD_BYTES_MAX


def crc_ccitt_false(data: bytes) -> int:
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def test_bytes_are_those_of_the_protocol_page():
    data = pack_header(Header(2, 28, 30, (5, 300)))
    assert data[:-2].hex() == "f102011b1d05ac02"
    assert crc_ccitt_false(data[:-2]) == int.from_bytes(data[-2:], "little")
    assert crc_ccitt_false(b"123456789") == 0x29B1  # the catalogued check value


def test_a_reference_follows_the_grid():
    data = pack_header(Header(0, 1, 1, (0,), HeaderReference(epoch=1, frame=200, layers=4)))
    assert data[:-2].hex() == "f1001000000" + "1c8010400"


def test_headers_are_small():
    eight = Header(0, 28, 28, (100,) * 8)
    assert 15 == len(pack_header(eight)) == header_bytes(8)
    reference = HeaderReference(3, 100_000, 8)
    assert 20 == len(pack_header(Header(0, 28, 28, (100,) * 8, reference))) == header_bytes(8, reference)


def test_the_largest_header_is_within_its_bound():
    largest = Header(255, 256, 256, (131_072,) * 16, HeaderReference(2**53, 2**53, 255))
    assert len(pack_header(largest)) <= HEADER_BYTES_MAX


def with_check(body: bytes) -> bytes:
    return body + crc_ccitt_false(body).to_bytes(2, "little") + bytes(4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (bytes(PAYLOAD_BYTES_MAX + 1), f"limit {PAYLOAD_BYTES_MAX}"),
        (b"\xf3" + bytes(20), "version 3"),
        (b"\x89PNG" + bytes(20), "starts with 0x89"),
        (b"\xf1\0\x0f\0\0\0\0\0", "is cut"),
        (b"\xf1\0\0\0\0\0\0\0\0", "does not match"),
        (with_check(b"\xf1\0\x20\0\0\1"), "flags 0x20"),
        (with_check(b"\xf1\0\0\0\0\x80\0"), "too long"),
        (with_check(b"\xf1\0\0\0\0" + b"\xff" * 9), "too long"),
        (with_check(b"\xf1\0\0\0\0" + b"\xff" * 7 + b"\x7f"), "too long"),
    ],
)
def test_bad_headers_are_refused_in_one_line(data, words):
    with pytest.raises(BitstreamError, match=words) as caught:
        parse_header(data)
    assert "\n" not in str(caught.value)
