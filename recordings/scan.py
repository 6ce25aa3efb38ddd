"""Reads the records of an MCAP file that may be cut off, overwritten or still growing: whatever is whole comes out.

The mcap package reads good files; it gives up at the first bad byte, and with its index it yields nothing of a file
that has none. Here a damaged piece is said (`Damage`) and stepped over: the next chunk whose check is right goes on.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mcap import records as mcap_records
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.stream_reader import get_chunk_data_stream
from mcap.writer import MCAP0_MAGIC

MAGIC: Final = MCAP0_MAGIC
HEAD_BYTES: Final = 9
"""Opcode and length of a record."""
_OWN_OPCODES = 0x0F
_CHUNK_FIXED_BYTES = 8 + 8 + 8 + 4 + 4
_COMPRESSION_CHARS_MAX = 16
_CHUNK_MARK = bytes([Opcode.CHUNK])
_PARSED: Final[dict[int, Any]] = {
    Opcode.SCHEMA: mcap_records.Schema,
    Opcode.CHANNEL: mcap_records.Channel,
    Opcode.METADATA: mcap_records.Metadata,
    Opcode.HEADER: mcap_records.Header,
}


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes `start` to `end` of the file that give nothing; `cut` if the file ends there."""

    start: int
    end: int
    what: str
    cut: bool = False

    def __str__(self) -> str:
        return f"{self.what} (bytes {self.start:,} to {self.end:,})" if self.end > self.start else self.what


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message, not decoded. Times are nanoseconds since 1970."""

    channel_id: int
    sequence: int
    log_ns: int
    publish_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The file was closed in good order: its footer was reached."""


Found = MessageRecord | Damage | End | Any
"""Any: mcap.records.{Header, Schema, Channel, Metadata}."""


_ERRORS = (struct.error, ValueError, McapError, OverflowError)


def scan(data: memoryview) -> Iterator[Found]:
    """Every record of interest in the order of the file, and what is damaged. `data` is all of it, with MAGIC.

    Of an uncompressed chunk that is cut off its whole messages come out.
    """
    place = len(MAGIC)
    sure = 0  # end of the last chunk whose check was right: up to here the lengths led us well
    data_ended = False
    while place < len(data):
        opcode, end = _head(data, place)
        if opcode == Opcode.FOOTER and end <= len(data):
            yield End()
            return
        if not _plausible(opcode, end, len(data)):
            onward = _next_chunk(data, sure or place + 1)
            if onward is None:
                yield from _cut_off(data, place, opcode, data_ended)
                return
            yield Damage(place, max(place, onward), "a piece of the file is damaged")
            place = onward
            continue
        try:
            yield from _record(data[place + HEAD_BYTES : end], opcode, place)
        except _ERRORS:
            yield Damage(place, end, f"a record of kind {opcode} does not read")
        data_ended |= opcode == Opcode.DATA_END
        if opcode == Opcode.CHUNK and _is_chunk(data, place):
            sure = end
        place = end
    what = "the file was not closed: what came after its last chunk never reached it"
    yield Damage(len(data), len(data), what, cut=True)


def chunk_records(data: memoryview, place: int) -> Iterator[Found]:
    """Records of one chunk, `data` being the whole of it and `place` where it lies in its file; Damage if it does not
    read."""
    opcode, end = _head(data, 0)
    if opcode != Opcode.CHUNK or end > len(data):
        yield Damage(place, place + len(data), "there is no chunk where one was said to be")
        return
    try:
        yield from _chunk(data[HEAD_BYTES:end], place)
    except _ERRORS:
        yield Damage(place, place + end, "a chunk does not read")


def _head(data: memoryview, place: int) -> tuple[int, int]:
    """(opcode, where the record ends); (0, beyond the file) if not even that is there."""
    if len(data) - place < HEAD_BYTES:
        return 0, len(data) + 1
    opcode, length = struct.unpack_from("<BQ", data, place)
    return opcode, place + HEAD_BYTES + length


def _plausible(opcode: int, end: int, size: int) -> bool:
    return (1 <= opcode <= _OWN_OPCODES or opcode >= 0x80) and end <= size


def _record(content: memoryview, opcode: int, place: int) -> Iterator[Found]:
    match opcode:
        case Opcode.MESSAGE:
            yield _message(content)
        case Opcode.CHUNK:
            yield from _chunk(content, place)
        case _ if opcode in _PARSED:
            yield _PARSED[opcode].read(_stream(content))
        case _:
            pass  # indexes, attachments, what others add: not needed here


def _chunk(content: memoryview, place: int) -> Iterator[Found]:
    chunk = mcap_records.Chunk.read(_stream(content))
    end = place + HEAD_BYTES + len(content)
    try:
        stream, _ = get_chunk_data_stream(chunk, validate_crc=True)
        inside = stream.read(chunk.uncompressed_size) if chunk.uncompressed_size else b""
    except Exception as error:  # zstandard and lz4 have no common base
        reason = "its check does not match" if "crc" in str(error) else str(error)
        yield Damage(place, end, f"a chunk is damaged: {reason}")
        return
    yield from _inside(memoryview(inside))


def _inside(data: memoryview) -> Iterator[Found]:
    """Records of a chunk, up to the last whole one."""
    place = 0
    while place < len(data):
        opcode, end = _head(data, place)
        if end > len(data):
            return
        content = data[place + HEAD_BYTES : end]
        if opcode == Opcode.MESSAGE:
            yield _message(content)
        elif opcode in _PARSED:
            yield _PARSED[opcode].read(_stream(content))
        place = end


def _cut_off(data: memoryview, place: int, opcode: int, data_ended: bool) -> Iterator[Found]:
    """Nothing whole comes from `place` on: the messages of a chunk that breaks off, and a line about the rest."""
    whole = 0
    if opcode == Opcode.CHUNK:
        for record in _cut_chunk(data[place + HEAD_BYTES :]):
            whole += isinstance(record, MessageRecord)
            yield record
    if data_ended:
        what = "the file is cut off within its index: no message is lost"
    elif whole:
        what = f"the file is cut off; of its last chunk {whole} messages are whole"
    else:
        what = "the file is cut off"
    yield Damage(place, len(data), what, cut=True)


def _cut_chunk(content: memoryview) -> Iterator[Found]:
    """The whole records of a chunk that is cut off, unless it is compressed."""
    if len(content) < _CHUNK_FIXED_BYTES + 8:
        return
    (name_bytes,) = struct.unpack_from("<I", content, _CHUNK_FIXED_BYTES - 4)
    if name_bytes == 0:
        try:
            yield from _inside(content[_CHUNK_FIXED_BYTES + 8 :])
        except _ERRORS:
            return


def _next_chunk(data: memoryview, start: int) -> int | None:
    """The next place from `start` on where a chunk begins whose check is right."""
    file: Any = data.obj  # bytes or mmap: memoryviews cannot search
    place = file.find(_CHUNK_MARK, start)
    while place >= 0:
        if _is_chunk(data, place):
            return int(place)
        place = file.find(_CHUNK_MARK, place + 1)
    return None


def _is_chunk(data: memoryview, place: int) -> bool:
    opcode, end = _head(data, place)
    if opcode != Opcode.CHUNK or end > len(data) or end - place < HEAD_BYTES + _CHUNK_FIXED_BYTES + 8:
        return False
    content = data[place + HEAD_BYTES : end]
    crc, name_bytes = struct.unpack_from("<II", content, _CHUNK_FIXED_BYTES - 8)
    if name_bytes > _COMPRESSION_CHARS_MAX or len(content) < _CHUNK_FIXED_BYTES + name_bytes + 8:
        return False
    (size,) = struct.unpack_from("<Q", content, _CHUNK_FIXED_BYTES + name_bytes)
    inside = content[_CHUNK_FIXED_BYTES + name_bytes + 8 :]
    if size != len(inside):
        return False
    return bool(name_bytes > 0 or (size > 0 and zlib.crc32(inside) == crc))


def _message(content: memoryview) -> MessageRecord:
    channel_id, sequence, log_ns, publish_ns = struct.unpack_from("<HIQQ", content)
    return MessageRecord(channel_id, sequence, log_ns, publish_ns, bytes(content[22:]))


def _stream(content: memoryview) -> ReadDataStream:
    return ReadDataStream(io.BytesIO(content))
