"""Writes one recording: an MCAP file that can be read at any moment, whatever happens to it later.

The mcap writer never sees the disk: it fills a buffer, and `push` moves the buffer's bytes to the file. So a disk that
is full costs nothing as long as somebody tries again, and a file that was removed can be written anew from what the
open file still holds. Chunks are small, uncompressed (bitstreams do not compress) and end with every `flush`, so a file
that is cut off anywhere loses what came after its last whole message, and nothing before.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from mcap.writer import CompressionType, Writer

from pipeline.errors import ConfigError
from recordings.topics import ENDING, FACTS, KINDS, PROFILE, TOPICS, Ending, Facts, TopicKind

CHUNK_BYTES: Final = 262_144
"""Size of a chunk at which it ends without a flush, in bytes."""
SUFFIX: Final = ".mcap"
_COPY_BYTES = 1 << 20

Write = Callable[[int, bytes], int]
"""os.write, or what tests put in its place."""


class RecordingWriter:
    """One file, on one thread. `write` and `flush` only raise OSError from `push`, after which they may be repeated.

    Raises ConfigError where the file exists already or cannot be made.
    """

    def __init__(self, path: Path, facts: Facts, *, chunk_bytes: int = CHUNK_BYTES, write: Write = os.write) -> None:
        self.path = path
        self.messages = 0
        self.unsafe: Counter[str] = Counter()
        """Messages since the last flush that went well, by topic: lost if no other one does."""
        self._write = write
        self._descriptor = _create(path)
        self._buffer = _Buffer()
        self._pushed = 0
        buffer: Any = self._buffer
        self._mcap: Any = Writer(buffer, chunk_size=chunk_bytes, compression=CompressionType.NONE)
        self._channels: dict[str, int] = {}
        self._mcap.start(PROFILE)
        self._mcap.add_metadata(FACTS, msgspec.to_builtins(facts))
        for topic in TOPICS:  # always all, in this order: the numbers are known even where this part is lost
            self.add_topic(topic, KINDS[topic])

    @property
    def bytes_written(self) -> int:
        """Bytes that are in the file."""
        return self._pushed

    def add_topic(self, topic: str, kind: TopicKind) -> None:
        """Make `topic` known, unless it is."""
        if topic not in self._channels:
            schema = 0
            if kind.schema_name:
                schema = self._mcap.register_schema(kind.schema_name, kind.schema_encoding, kind.schema)
            self._channels[topic] = self._mcap.register_channel(topic, kind.message_encoding, schema)

    def write(self, topic: str, data: bytes, *, log_ns: int, publish_ns: int, sequence: int = 0) -> None:
        """Add a message; times are nanoseconds since 1970. Raises OSError."""
        # MCAP's numbers are unsigned; a frame number beyond 32 bits is as good as another as a sequence.
        self._mcap.add_message(self._channels[topic], max(log_ns, 0), data, max(publish_ns, 0), sequence & 0xFFFF_FFFF)
        self.messages += 1
        self.unsafe[topic] += 1
        self.push()

    def add_metadata(self, name: str, values: dict[str, str]) -> None:
        """Add a metadata record. Raises OSError."""
        self._mcap.add_metadata(name, values)
        self.push()

    def flush(self) -> None:
        """End the chunk: everything so far is in the file and stays readable. Raises OSError."""
        self._mcap.flush()
        self.push()
        self.unsafe.clear()

    def push(self) -> None:
        """Move what is written so far into the file. Raises OSError; what did not fit is kept for the next time."""
        pending = self._buffer.pending
        while pending:
            done = self._write(self._descriptor, bytes(pending))
            del pending[:done]
            self._pushed += done

    def ensure_there(self) -> bool:
        """Write the file anew where somebody removed it; True if that was so. Raises OSError.

        A file that was moved is written on where it is now.
        """
        if os.fstat(self._descriptor).st_nlink > 0:
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        anew = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            self._copy_to(anew)
        except OSError:
            os.close(anew)
            with contextlib.suppress(OSError):
                self.path.unlink()
            raise
        os.close(self._descriptor)
        self._descriptor = anew
        return True

    def finish(self, ending: Ending) -> None:
        """Write ending and index, and close the file. Raises OSError if they did not fit; it is closed all the same."""
        try:
            self._mcap.flush()
            self._mcap.add_metadata(ENDING, msgspec.to_builtins(ending))
            self._mcap.finish()
            self.push()
            self.unsafe.clear()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _copy_to(self, other: int) -> None:
        place = 0
        while data := os.pread(self._descriptor, _COPY_BYTES, place):
            place += len(data)
            view = data
            while view:
                view = view[self._write(other, view) :]


class _Buffer:
    """What the mcap writer takes for a file."""

    def __init__(self) -> None:
        self.pending = bytearray()
        self._end = 0

    def write(self, data: bytes) -> int:
        self.pending += data
        self._end += len(data)
        return len(data)

    def tell(self) -> int:
        return self._end

    def flush(self) -> None:
        """Nothing waits here for that."""


def _create(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise ConfigError(f"recording {str(path)!r} exists already: choose another name, or remove it first") from None
    except OSError as error:
        raise ConfigError(f"recording {str(path)!r} cannot be written: {error.strerror}: choose another path") from None
