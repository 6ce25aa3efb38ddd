"""Reads a recording, whole or damaged: its facts, its messages, and what became of each frame."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from mcap import records as mcap_records

from pipeline.errors import InputError
from recordings.scan import MAGIC, Damage, MessageRecord, scan
from recordings.topics import (
    BITSTREAM,
    CLOCK,
    DROP,
    ENDING,
    FACTS,
    FORMAT,
    KINDS,
    PROFILE,
    RESULT,
    SESSION,
    STAGES,
    THUMBNAIL,
    TOPICS,
    UNCHANGED,
    Bitstream,
    ClockEstimate,
    Ending,
    Facts,
    FrameDrop,
    FrameRepeat,
    FrameResult,
    FrameStages,
    SessionStart,
    Thumbnail,
    TopicKind,
)

_FACTS_WITHIN_BYTES: Final = 65_536
"""A recording of ours says what it is within so many bytes; files of others are not read to the end for that."""
_SHOWN_CHARS = 40
"""Of what a file says, in a line about it; a format has fewer digits."""

StructT = TypeVar("StructT", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class RecordedMessage:
    """A message of a recording. Times are nanoseconds since 1970."""

    topic: str
    log_ns: int
    publish_ns: int
    sequence: int
    data: bytes


class Recording:
    """A recording on disk. Iterating gives its messages in the order of the file; `damage` is complete after that.

    Raises InputError: not there, no MCAP file, none of ours, or by a newer FrankenStream.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.damage: list[Damage] = []
        self.ending: Ending | None = None
        """How it ended; None: it was not closed, or not read to the end yet."""
        self.topics: dict[str, TopicKind] = dict(KINDS)
        self._data = _map(self.path)
        self.facts: Facts = find_facts(self._data, self.name)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    @property
    def cut(self) -> bool:
        """Whether the file lacks its end."""
        return any(damage.cut for damage in self.damage)

    def __iter__(self) -> Iterator[RecordedMessage]:
        self.damage = []
        names = dict(enumerate(TOPICS, start=1))
        schemas: dict[int, mcap_records.Schema] = {}
        for found in scan(self._data):
            match found:
                case MessageRecord():
                    topic = names.get(found.channel_id)
                    if topic is not None:
                        yield RecordedMessage(topic, found.log_ns, found.publish_ns, found.sequence, found.data)
                case Damage():
                    self.damage.append(found)
                case mcap_records.Channel():
                    names[found.id] = found.topic
                    self.topics.setdefault(found.topic, _kind(found, schemas.get(found.schema_id)))
                case mcap_records.Schema():
                    schemas[found.id] = found
                case mcap_records.Metadata() if found.name == ENDING:
                    self.ending = _lenient(found.metadata, Ending)
                case _:
                    pass

    def decode(self, message: RecordedMessage) -> Any:
        """See decode_message."""
        return decode_message(message, self.name)

    def of(self, topic: str, kind: type[StructT]) -> Iterator[StructT]:
        """The decoded messages of one topic."""
        for message in self:
            if message.topic == topic:
                decoded = self.decode(message)
                assert isinstance(decoded, kind), decoded
                yield decoded

    def sessions(self) -> list[SessionStart]:
        return list(self.of(SESSION, SessionStart))


_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    topic: msgspec.json.Decoder(kind)
    for topic, kind in {
        SESSION: SessionStart,
        RESULT: FrameResult,
        DROP: FrameDrop,
        UNCHANGED: FrameRepeat,
        STAGES: FrameStages,
        CLOCK: ClockEstimate,
    }.items()
}


def decode_message(message: RecordedMessage, name: str) -> Any:
    """The struct of a message (recordings.topics) of the recording `name`; None for topics of others.

    Raises InputError if it does not read: a bug of the writer, since damage does not come this far.
    """
    try:
        if message.topic == BITSTREAM:
            return Bitstream.decode(message.data)
        if message.topic == THUMBNAIL:
            return Thumbnail.decode(message.data)
        decoder = _DECODERS.get(message.topic)
        return None if decoder is None else decoder.decode(message.data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: a message of {message.topic} does not read: {error}") from None


def find_facts(data: memoryview, name: str) -> Facts:
    """The metadata record at the start of the recording `name`; if just that is damaged, facts that say nothing.

    Raises InputError: none of ours, cut off before its first message, or by a newer FrankenStream.
    """
    ours = False
    left = _FACTS_WITHIN_BYTES
    for found in scan(data):
        match found:
            case mcap_records.Metadata() if found.name == FACTS:
                return _checked(found.metadata, name)
            case mcap_records.Header():
                ours = found.profile == PROFILE
            case MessageRecord():
                if ours:
                    return Facts()
                left -= len(found.data)
            case Damage() if found.cut and ours:
                raise InputError(f"{name} is cut off before its first message: there is nothing to read in it")
            case _:
                pass
        if left < 0:
            break
    raise InputError(f"{name} is an MCAP file, but not a recording of FrankenStream: name one that `--record` made")


def _checked(metadata: dict[str, str], name: str) -> Facts:
    version = metadata.get("format", "")
    if not version.isdecimal() or len(version) > _SHOWN_CHARS or int(version) > FORMAT:
        by = metadata.get("frankenstream", "another version")
        raise InputError(
            f"{name} has recording format {version[:_SHOWN_CHARS] or 'none'} "
            f"(made by FrankenStream {by[:_SHOWN_CHARS]}), "
            f"this one reads up to {FORMAT}: update FrankenStream"
        )
    return _lenient(metadata, Facts)


def is_recording(path: str | Path) -> bool:
    """Whether `path` is an MCAP file, by name or content."""
    place = Path(path)
    if place.suffix.lower() == ".mcap":
        return True
    try:
        with place.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
            if head == MAGIC:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise InputError(f"recording {str(path)!r} cannot be read: {error.strerror}: check the path") from None
    if not head:
        raise InputError(f"{path.name} is empty (0 bytes): nothing was recorded in it")
    if MAGIC.startswith(head):
        raise InputError(f"{path.name} is cut off after {len(head)} bytes: there is nothing to read in it")
    raise InputError(f"{path.name} is no MCAP file (it begins with {head!r}): name a recording that `--record` made")


def _kind(channel: mcap_records.Channel, schema: mcap_records.Schema | None) -> TopicKind:
    if schema is None:
        return TopicKind(channel.message_encoding, "", "", b"")
    return TopicKind(channel.message_encoding, schema.name, schema.encoding, schema.data)


def _lenient(metadata: dict[str, str], kind: type[StructT]) -> StructT:
    """Fields that are known, of metadata that may have others."""
    return msgspec.convert(metadata, kind)
