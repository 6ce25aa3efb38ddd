"""A recording opened where it lies: any moment of it, without reading what comes before, also while it grows.

A file that was closed has an index at its end (mcap.dev/spec, "Summary Section"): which chunk holds which times. One
that is being written, or was cut off, has none; then the heads of its chunks are walked, which reads a few bytes for
each half second. Either way a chunk is read when it is asked for, with its check.

Nothing is mapped into memory: a file that somebody cuts off meanwhile is an error line, not the end of the process.
"""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mcap.opcode import Opcode

from pipeline.errors import InputError
from recordings.reader import RecordedMessage, decode_message, find_facts
from recordings.scan import CHUNK_BYTES_MAX, HEAD_BYTES, MAGIC, Damage, MessageRecord, chunk_records, is_opcode
from recordings.topics import SESSION, TOPICS, Facts, SessionStart

SUMMARY_BYTES_MAX: Final = 268_435_456
_FACTS_BYTES = 131_072
_LISTED_BYTES = 16_384
_FOOTER = struct.Struct("<BQQQI")
_NO_TIME = 0


@dataclass(frozen=True, slots=True, order=True)
class Chunk:
    """Messages of `start_ns` to `end_ns` (nanoseconds since 1970), in `length` bytes from `offset` on."""

    start_ns: int
    end_ns: int
    offset: int
    length: int


class IndexedRecording:
    """A recording on disk. Raises InputError: not there, none of ours, by a newer FrankenStream. To be closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = _open(path)
        try:
            self.chunks: list[Chunk] = []
            """By time."""
            self.damage = ""
            """What cannot be read, for people; empty: nothing."""
            self._walked = len(MAGIC)
            self.facts: Facts = _facts(self._descriptor, path.name, _FACTS_BYTES)
            self.indexed = self._read_index()
            if not self.indexed:
                self._walk()
            self._by_time()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def closed(self) -> bool:
        return self._descriptor < 0

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    @property
    def start_ns(self) -> int:
        """Of its first message; 0: it has none."""
        return self.chunks[0].start_ns if self.chunks else _NO_TIME

    @property
    def end_ns(self) -> int:
        return max((chunk.end_ns for chunk in self.chunks[-8:]), default=_NO_TIME)

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def refresh(self) -> None:
        """Take in what was written since it was opened."""
        if not self.indexed and self.size_bytes > self._walked:
            self.indexed = self._read_index()
            if not self.indexed:
                self._walk()
            self._by_time()

    def within(self, from_ns: int, to_ns: int) -> list[Chunk]:
        """Chunks that may hold messages of these times, in order."""
        # Chunks hardly overlap, so a look a little further back finds those that begin before and reach into it.
        first = max(0, bisect_left(self.chunks, from_ns, key=lambda chunk: chunk.start_ns) - 4)
        last = bisect_left(self.chunks, to_ns, key=lambda chunk: chunk.start_ns)
        return [chunk for chunk in self.chunks[first:last] if chunk.end_ns >= from_ns]

    def before(self, at_ns: int) -> Iterator[Chunk]:
        """Chunks that begin at or before `at_ns`, the latest first."""
        for place in range(bisect_left(self.chunks, at_ns + 1, key=lambda chunk: chunk.start_ns) - 1, -1, -1):
            yield self.chunks[place]

    def messages(self, chunk: Chunk) -> list[RecordedMessage]:
        """What is in a chunk; nothing, if it is damaged. Raises InputError if the file has gone."""
        try:
            record = os.pread(self._descriptor, chunk.length, chunk.offset)
        except OSError as error:
            raise InputError(f"{self.path.name} cannot be read: {error.strerror}") from None
        found = []
        for one in chunk_records(memoryview(record), chunk.offset):
            if isinstance(one, MessageRecord) and 0 < one.channel_id <= len(TOPICS):
                topic = TOPICS[one.channel_id - 1]
                found.append(RecordedMessage(topic, one.log_ns, one.publish_ns, one.sequence, one.data))
            elif isinstance(one, Damage):
                self.damage = str(one)
        return found

    def decode(self, message: RecordedMessage) -> Any:
        """The struct of a message, see Recording.decode."""
        return decode_message(message, self.path.name)

    def session(self) -> SessionStart | None:
        """The first one that is told, within the first chunks."""
        for chunk in self.chunks[:4]:
            for message in self.messages(chunk):
                if message.topic == SESSION:
                    start: SessionStart = self.decode(message)
                    return start
        return None

    # --- Where chunks are -------------------------------------------------------------------------------------

    def _by_time(self) -> None:
        self.chunks.sort()

    def _read_index(self) -> bool:
        """The chunks from the summary; False: there is none, or it does not read."""
        size = self.size_bytes
        place = size - len(MAGIC) - _FOOTER.size
        end = os.pread(self._descriptor, _FOOTER.size + len(MAGIC), place) if place > 0 else b""
        if len(end) != _FOOTER.size + len(MAGIC) or end[_FOOTER.size :] != MAGIC:
            return False
        opcode, _, summary, _, _ = _FOOTER.unpack_from(end)
        if opcode != Opcode.FOOTER or not 0 < summary <= place or place - summary > SUMMARY_BYTES_MAX:
            return False
        data = os.pread(self._descriptor, place - summary, summary)
        chunks, at = [], 0
        while at + HEAD_BYTES <= len(data):
            kind, length = struct.unpack_from("<BQ", data, at)
            if kind == Opcode.CHUNK_INDEX and at + HEAD_BYTES + 32 <= len(data):
                chunks.append(Chunk(*struct.unpack_from("<QQQQ", data, at + HEAD_BYTES)))
            at += HEAD_BYTES + length
        self.chunks = [chunk for chunk in chunks if self._takes(chunk, size)]
        self._walked = size
        return bool(self.chunks)

    def _walk(self) -> None:
        """Chunks from `_walked` on, by their heads, as far as they are whole."""
        size = self.size_bytes
        while self._walked + HEAD_BYTES <= size:
            head = os.pread(self._descriptor, HEAD_BYTES + 16, self._walked)
            if len(head) < HEAD_BYTES:
                return
            kind, length = struct.unpack_from("<BQ", head)
            end = self._walked + HEAD_BYTES + length
            unfinished = end > size
            if not is_opcode(kind) or (unfinished and length > CHUNK_BYTES_MAX):
                self.damage = (
                    f"damaged from byte {self._walked:,} on: `frankenstream recordings recover` reads what follows"
                )
                return
            if unfinished or kind in (Opcode.FOOTER, Opcode.DATA_END):
                return
            if kind == Opcode.CHUNK and len(head) == HEAD_BYTES + 16:
                start_ns, end_ns = struct.unpack_from("<QQ", head, HEAD_BYTES)
                chunk = Chunk(start_ns, end_ns, self._walked, HEAD_BYTES + length)
                if self._takes(chunk, size):
                    self.chunks.append(chunk)
            self._walked = end

    @staticmethod
    def _takes(chunk: Chunk, size: int) -> bool:
        """An empty chunk has no times; one beyond the file, or far too large, is none of ours."""
        whole = chunk.offset > 0 and chunk.offset + chunk.length <= size and chunk.length <= CHUNK_BYTES_MAX
        return whole and 0 < chunk.start_ns <= chunk.end_ns


def read_facts(path: Path) -> Facts:
    """What the recording at `path` says of itself, from its first bytes. Raises InputError as IndexedRecording does."""
    descriptor = _open(path)
    try:
        return _facts(descriptor, path.name, _LISTED_BYTES)
    finally:
        os.close(descriptor)


def _facts(descriptor: int, name: str, size: int) -> Facts:
    head = memoryview(os.pread(descriptor, size, 0))
    if bytes(head[: len(MAGIC)]) != MAGIC:
        raise InputError(f"{name} is no MCAP file: name a recording that `--record` made")
    return find_facts(head, name)


def _open(path: Path) -> int:
    try:
        # Not through links: a recording lies where it is looked for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(f"recording {path.name} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path.name} is no file")
    return descriptor
