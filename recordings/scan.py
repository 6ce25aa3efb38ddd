"""Reads the records of an MCAP file that may be cut off, overwritten or still growing: whatever is whole comes out.

The mcap package reads good files; it gives up at the first bad byte, and with its index it yields nothing of a file
that has none. Here a damaged piece is said (`Damage`) and stepped over: the next chunk whose check is right goes on.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import lz4.frame  # type: ignore[import-untyped]
import zstandard
from mcap import records as mcap_records
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.writer import MCAP0_MAGIC

MAGIC: Final = MCAP0_MAGIC
HEAD_BYTES: Final = 9
"""Opcode and length of a record."""
CHUNK_BYTES_MAX: Final = 33_554_432
"""Chunks that are larger, as they lie in the file or unpacked, are left out: ours have 0.3 MB, those of others 4 MB."""
SEARCH_SIZES_MAX: Final = 8
"""What the search for chunks after damage may read again, in sizes of the file: crafted heads would cost hours."""
_OWN_OPCODES = Opcode.DATA_END
_PRIVATE_OPCODES = 0x80
_CHUNK_FIXED_BYTES = 8 + 8 + 8 + 4 + 4
_COMPRESSION_CHARS_MAX = 16
_CHUNK_HEAD = re.compile(rb"\x06.{4}\x00{4}", re.DOTALL)
"""Opcode and length of a chunk of CHUNK_BYTES_MAX at most."""
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

    Where lengths lead nowhere, one of them was wrong, and nobody knows which. So the search for the next chunk begins
    at `sure`, which may lie before `place`. This ends: what is found begins at `sure` or later and is a chunk, whose
    end is `sure` from then on, so each jump raises it. How much is read again by all jumps is limited (`_Search`).
    """
    place = len(MAGIC)
    sure = place  # end of the last chunk whose check was right: up to here the lengths led us well
    search = _Search(data)
    data_ended = False
    while place < len(data):
        opcode, end = _head(data, place)
        if opcode == Opcode.FOOTER and end <= len(data):
            yield End()
            return
        if not _plausible(opcode, end, len(data)):
            onward = search.onward(sure, place)
            if onward is None:
                yield from _cut_off(data, place, opcode, data_ended, search.given_up)
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
    return is_opcode(opcode) and end <= size


def is_opcode(opcode: int) -> bool:
    """Whether a record may be of this kind: MCAP's own, or those that it leaves to others (0x80 on)."""
    return 1 <= opcode <= _OWN_OPCODES or opcode >= _PRIVATE_OPCODES


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
    end = place + HEAD_BYTES + len(content)
    if len(content) > CHUNK_BYTES_MAX:
        yield Damage(place, end, f"a chunk is left out: it has {len(content):,} bytes, limit {CHUNK_BYTES_MAX:,}")
        return
    chunk = mcap_records.Chunk.read(_stream(content))
    try:
        inside = _unpacked(chunk)
    except Exception as error:  # zstandard and lz4 have no common base
        yield Damage(place, end, f"a chunk is damaged: {error}")
        return
    yield from _inside(memoryview(inside))


def _unpacked(chunk: mcap_records.Chunk) -> bytes:
    """The records of a chunk. Raises ValueError, and what the libraries raise.

    12 kB of zstd can say that they are 400 MB, so what is said is looked at before anything is unpacked.
    """
    data, size = chunk.data, chunk.uncompressed_size
    if chunk.compression == "zstd":
        size = max(size, zstandard.frame_content_size(data))
    if size > CHUNK_BYTES_MAX:
        raise ValueError(f"it unpacks to {size:,} bytes, limit {CHUNK_BYTES_MAX:,}")
    if chunk.compression == "zstd":
        data = zstandard.decompress(data, size)
    elif chunk.compression == "lz4":
        unpacking = lz4.frame.LZ4FrameDecompressor()
        data = unpacking.decompress(data, max_length=max(size, 1))
        if not unpacking.eof:
            raise ValueError(f"it does not end after the {size:,} bytes that it says")
    if chunk.uncompressed_crc not in (0, zlib.crc32(data)):
        raise ValueError("its check does not match")
    return data


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


def _cut_off(data: memoryview, place: int, opcode: int, data_ended: bool, given_up: bool) -> Iterator[Found]:
    """Nothing whole comes from `place` on: the messages of a chunk that breaks off, and a line about the rest."""
    whole = 0
    if opcode == Opcode.CHUNK:
        for record in _cut_chunk(data[place + HEAD_BYTES :]):
            whole += isinstance(record, MessageRecord)
            yield record
    if given_up:
        what = "the rest is not searched: too many chunks begin in it that are none"
    elif data_ended:
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


class _Search:
    """Finds where to go on after damage, and reads SEARCH_SIZES_MAX times the file for that at most."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._left_bytes = SEARCH_SIZES_MAX * len(data)

    @property
    def given_up(self) -> bool:
        return self._left_bytes < 0

    def onward(self, start: int, place: int) -> int | None:
        """The next chunk from `start` on whose check is right; what lies between it and `place` is read again."""
        while not self.given_up and (head := _CHUNK_HEAD.search(self._data, start)):
            found = head.start()
            claim = _claim(self._data, found)
            if claim is not None:
                self._left_bytes -= len(claim.inside)
                if claim.right:
                    self._left_bytes -= max(0, place - found)
                    return found
            start = found + 1
        return None


class _Claim(NamedTuple):
    """What says of itself that it is a chunk, with lengths that fit. `crc` None: it is compressed, see `_chunk`."""

    inside: memoryview
    crc: int | None

    @property
    def right(self) -> bool:
        return self.crc is None or (len(self.inside) > 0 and zlib.crc32(self.inside) == self.crc)


def _claim(data: memoryview, place: int) -> _Claim | None:
    opcode, end = _head(data, place)
    length = end - place - HEAD_BYTES
    if opcode != Opcode.CHUNK or end > len(data) or not _CHUNK_FIXED_BYTES + 8 <= length <= CHUNK_BYTES_MAX:
        return None
    content = data[place + HEAD_BYTES : end]
    crc, name_bytes = struct.unpack_from("<II", content, _CHUNK_FIXED_BYTES - 8)
    if name_bytes > _COMPRESSION_CHARS_MAX or length < _CHUNK_FIXED_BYTES + name_bytes + 8:
        return None
    (size,) = struct.unpack_from("<Q", content, _CHUNK_FIXED_BYTES + name_bytes)
    inside = content[_CHUNK_FIXED_BYTES + name_bytes + 8 :]
    if size != len(inside):
        return None
    return _Claim(inside, None if name_bytes else crc)


def _is_chunk(data: memoryview, place: int) -> bool:
    claim = _claim(data, place)
    return claim is not None and claim.right


def _message(content: memoryview) -> MessageRecord:
    channel_id, sequence, log_ns, publish_ns = struct.unpack_from("<HIQQ", content)
    return MessageRecord(channel_id, sequence, log_ns, publish_ns, bytes(content[22:]))


def _stream(content: memoryview) -> ReadDataStream:
    return ReadDataStream(io.BytesIO(content))
