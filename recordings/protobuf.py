"""The little of Protocol Buffers that recordings need: flat messages of varints, bytes and text, and their descriptors.

Foxglove opens Protobuf topics by the schema that lies in the file, a FileDescriptorSet. Two fixed messages do not need
the protobuf package on every camera; the tests compare what is written here with it.
(protobuf.dev/programming-guides/encoding)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

VARINT, LENGTH = 0, 2
"""The wire types used here."""

INT64, UINT64, STRING, MESSAGE, BYTES = 3, 4, 9, 11, 12
"""Field types of descriptor.proto."""

_INT32 = 5
_OPTIONAL = 1
_VARINT_BYTES_MAX = 10


class Field(NamedTuple):
    """A field of a message, as a schema says it. `type_name` is the full name of a MESSAGE field's type, with a dot."""

    name: str
    number: int
    type: int
    type_name: str = ""


def varint(value: int) -> bytes:
    """Unsigned LEB128; a negative number as 64-bit two's complement, as int64 fields want it."""
    value &= (1 << 64) - 1
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    return bytes(data)


def number_field(number: int, value: int) -> bytes:
    """A varint field; nothing for 0, which is what an absent field means."""
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def bytes_field(number: int, value: bytes | str) -> bytes:
    """A bytes, string or message field; nothing if it is empty."""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | LENGTH) + varint(len(data)) + data if data else b""


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of every field, in order. Raises ValueError if the bytes are no such message."""
    place = 0
    while place < len(data):
        key, place = _take_varint(data, place)
        match key & 7:
            case 0:
                value, place = _take_varint(data, place)
                yield key >> 3, value
            case 2:
                size, place = _take_varint(data, place)
                if place + size > len(data):
                    raise ValueError(f"field of {size} bytes in a message of {len(data)}: it is cut")
                yield key >> 3, data[place : place + size]
                place += size
            case other:
                raise ValueError(f"field of wire type {other}, expected {VARINT} or {LENGTH}")


def file_descriptor(name: str, package: str, message: str, of: Sequence[Field], imports: Sequence[str] = ()) -> bytes:
    """A FileDescriptorProto with one message."""
    described = b"".join(bytes_field(2, _field_descriptor(field)) for field in of)
    return (
        bytes_field(1, name)
        + bytes_field(2, package)
        + b"".join(bytes_field(3, path) for path in imports)
        + bytes_field(4, bytes_field(1, message) + described)
        + bytes_field(12, "proto3")
    )


def descriptor_set(*files: bytes) -> bytes:
    """A FileDescriptorSet: what an MCAP schema of encoding `protobuf` holds. Imported files come before importing."""
    return b"".join(bytes_field(1, file) for file in files)


def timestamp(time_ns: int) -> bytes:
    """google.protobuf.Timestamp of nanoseconds since 1970."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return number_field(1, seconds) + number_field(2, nanos)


def _field_descriptor(field: Field) -> bytes:
    return (
        bytes_field(1, field.name)
        + number_field(3, field.number)
        + number_field(4, _OPTIONAL)
        + number_field(5, field.type)
        + bytes_field(6, field.type_name)
    )


def _take_varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
        if place >= len(data):
            raise ValueError(f"number at the end of a message of {len(data)} bytes: it is cut")
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("number of more than 10 bytes: the message is damaged")


TIMESTAMP_FILE = "google/protobuf/timestamp.proto"
TIMESTAMP = file_descriptor(
    TIMESTAMP_FILE, "google.protobuf", "Timestamp", (Field("seconds", 1, INT64), Field("nanos", 2, _INT32))
)
