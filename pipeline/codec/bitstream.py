"""The header of a bitstream: what stands before the layers' bytes. Normative: docs/protocol.md, "Bitstream"."""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from typing import Final

from pipeline.errors import BitstreamError
from pipeline.limits import LATENT_SIDE_MAX, LAYERS_MAX, PAYLOAD_BYTES_MAX

VERSION: Final = 1
FIRST_BYTE: Final = 0xF0 | VERSION
NUMBER_MAX: Final = 2**53
"""Largest reference frame and epoch (integers that every language holds exactly)."""
HEADER_BYTES_MAX: Final = 80
"""Upper bound of a header: 5 + 17 for a reference + 3 for each of 16 layers + 2, rounded up."""
LAYERS_BYTES_MAX: Final = PAYLOAD_BYTES_MAX - HEADER_BYTES_MAX
_REFERENCE_FLAG: Final = 0x10


@dataclass(frozen=True)
class HeaderReference:
    """The earlier frame that a frame is coded against."""

    epoch: int
    frame: int
    layers: int
    """Layers of it that both ends hold; beyond them it counts as fill."""


@dataclass(frozen=True)
class Header:
    operating_point: int
    height: int
    width: int
    lengths: tuple[int, ...]
    """16-bit words of each layer sent."""
    reference: HeaderReference | None = None


def pack_header(header: Header) -> bytes:
    """The header's bytes, check included."""
    flags = len(header.lengths) - 1
    data = bytearray((FIRST_BYTE, header.operating_point, flags, header.height - 1, header.width - 1))
    if header.reference is not None:
        data[2] |= _REFERENCE_FLAG
        _append_varint(data, header.reference.epoch)
        _append_varint(data, header.reference.frame)
        data.append(header.reference.layers)
    for words in header.lengths:
        _append_varint(data, words)
    data += binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "little")
    return bytes(data)


def parse_header(data: bytes | memoryview) -> tuple[Header, int]:
    """(header, bytes that it takes). Raises BitstreamError if it is cut, damaged or of another version."""
    size = len(data)
    if size > PAYLOAD_BYTES_MAX:
        raise BitstreamError(f"bitstream is {size} bytes, limit {PAYLOAD_BYTES_MAX}")
    if size < 8:
        raise BitstreamError(f"bitstream is {size} bytes, at least 8 expected: it was cut")
    if data[0] != FIRST_BYTE:
        if data[0] >> 4 == FIRST_BYTE >> 4:
            raise BitstreamError(
                f"bitstream has version {data[0] & 15}, this reads {VERSION}: use the same FrankenStream"
            )
        raise BitstreamError(
            f"bitstream starts with 0x{data[0]:02X}, expected 0x{FIRST_BYTE:02X}: it is not one or is damaged"
        )
    flags, place, reference = data[2], 5, None
    try:
        if flags & _REFERENCE_FLAG:
            epoch, place = _take_varint(data, place)
            frame, place = _take_varint(data, place)
            reference = HeaderReference(epoch, frame, data[place])
            place += 1
        lengths = []
        for _ in range((flags & 15) + 1):
            words, place = _take_varint(data, place)
            lengths.append(words)
        check = data[place] | data[place + 1] << 8
    except IndexError:
        raise BitstreamError(f"header of a bitstream of {size} bytes is cut") from None
    if check != binascii.crc_hqx(data[:place], 0xFFFF):
        raise BitstreamError(f"header check of a bitstream of {size} bytes does not match: it is damaged")
    if flags >> 5:
        raise BitstreamError(f"bitstream has flags 0x{flags:02X}, bits 5 to 7 must be 0: use the same FrankenStream")
    return Header(data[1], data[3] + 1, data[4] + 1, tuple(lengths), reference), place + 2


def header_bytes(layers: int, reference: HeaderReference | None = None) -> int:
    """Size of a header with layers of up to 254 bytes: for estimates."""
    if reference is None:
        return 7 + layers
    return 8 + layers + _varint_bytes(reference.epoch) + _varint_bytes(reference.frame)


def _varint_bytes(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


def _append_varint(data: bytearray, value: int) -> None:
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)


def _take_varint(data: bytes | memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 56, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if (byte == 0 and shift) or value > NUMBER_MAX:
                break
            return value, place
    raise BitstreamError("header of a bitstream has a number that is too long: it is damaged")


assert LAYERS_MAX <= 16  # they fit their fields
assert LATENT_SIDE_MAX <= 256
