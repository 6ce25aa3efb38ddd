"""Recordings out of recordings: a piece of one (`cut`), and what is whole of a damaged one (`recover`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec

from pipeline.codec import LatentCodec
from pipeline.errors import BitstreamError, ConfigError, InputError
from recordings.reader import RecordedMessage, Recording
from recordings.scan import Damage
from recordings.stand_alone import StandAlone, last_uses, reference_of
from recordings.topics import (
    BITSTREAM,
    DROP,
    RESULT,
    SESSION,
    STAGES,
    THUMBNAIL,
    UNCHANGED,
    Bitstream,
    Ending,
)
from recordings.writer import RecordingWriter

_OF_FRAMES: Final = (BITSTREAM, RESULT, STAGES, DROP, UNCHANGED, THUMBNAIL)
"""Topics whose messages carry the frame's number as MCAP's sequence."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds."""

    path: Path
    messages: int
    frames: int
    recoded: int = 0
    """Frames that were coded again since their reference lies before the cut."""
    duration_s: float = 0.0
    damage: list[Damage] = field(default_factory=list)
    left_out: int = 0
    """Frames whose reference is not in the recording: they would not decode."""


def recover(recording: Recording, to: Path) -> Copied:
    """Write every whole message of `recording` to a new file with an index.

    Raises ConfigError if `to` exists or cannot be written, InputError if there is no whole message.
    """
    with _Copy(recording, to) as copy:
        for message in recording:
            copy.add(message)
        if not copy.messages:
            raise InputError(f"{recording.name} holds no whole message: there is nothing to recover")
    return copy.copied(damage=recording.damage)


def cut(
    recording: Recording, to: Path, *, start_s: float, end_s: float | None, codec: Callable[[], LatentCodec]
) -> Copied:
    """Write the frames that were sent from `start_s` until `end_s` (seconds from the start) to a new file.

    Frames come with their results, whenever those arrived. A frame that is coded against one before the cut is coded
    again to stand alone, for which `codec()` is asked; all others are copied byte for byte. Raises InputError if the
    range holds no frame, what `codec` raises, ConfigError as `recover`.
    """
    plan = _plan(recording, start_s, end_s)
    frames = _BoundaryFrames(plan, StandAlone(codec(), plan.uses)) if plan.boundary else None
    session: RecordedMessage | None = None
    with _Copy(recording, to) as copy:
        for message in recording:
            if message.topic == SESSION and message.log_ns < plan.start_ns:
                session = message  # the last one before the cut holds in it
                continue
            if session is not None and message.log_ns >= plan.start_ns:
                copy.add(replace(session, log_ns=plan.start_ns))
                session = None
            taken: RecordedMessage | None = message
            if frames is not None and message.topic == BITSTREAM:
                taken = frames.taken(message, recording.decode(message))
            if taken is not None and plan.has(message):
                copy.add(taken)
    if frames is None:
        return copy.copied(damage=recording.damage)
    return copy.copied(damage=recording.damage, recoded=frames.coder.recoded, left_out=frames.left_out)


class _BoundaryFrames:
    """Makes the frames at the beginning of a cut stand alone."""

    def __init__(self, plan: _Plan, coder: StandAlone) -> None:
        self.coder = coder
        self.left_out = 0
        self._plan = plan

    def taken(self, message: RecordedMessage, bitstream: Bitstream) -> RecordedMessage | None:
        """The message as the cut holds it; None: it would not decode."""
        try:
            if bitstream.frame in self._plan.needed:
                self.coder.hold(bitstream)
            elif bitstream.frame in self._plan.boundary:
                payload = self.coder.take(bitstream)
                return replace(message, data=msgspec.structs.replace(bitstream, payload=payload).encode())
        except BitstreamError:
            self.left_out += bitstream.frame in self._plan.boundary
            return None
        return message


class _Plan(msgspec.Struct):
    """Which frames a cut holds and what they need."""

    start_ns: int
    end_ns: int
    sent: set[int]
    frames: set[int]
    """Those that the cut holds."""
    boundary: set[int]
    """Frames of the cut that are coded against one before it."""
    needed: set[int]
    """Frames before the cut that those need, however long the chain."""
    uses: dict[int, int]

    def has(self, message: RecordedMessage) -> bool:
        if message.topic in _OF_FRAMES and message.sequence in self.sent:
            return message.sequence in self.frames
        return self.start_ns <= message.log_ns < self.end_ns


def _plan(recording: Recording, start_s: float, end_s: float | None) -> _Plan:
    references: dict[int, int | None] = {}
    sent: list[tuple[int, int]] = []
    first_ns: int | None = None
    for message in recording:
        first_ns = message.log_ns if first_ns is None else min(first_ns, message.log_ns)
        if message.topic == BITSTREAM:
            bitstream: Bitstream = recording.decode(message)
            references[bitstream.frame] = reference_of(bitstream)
            sent.append((bitstream.frame, message.log_ns))
    if first_ns is None or not sent:
        raise InputError(f"{recording.name} holds no frames: there is nothing to cut")
    start_ns = first_ns + round(start_s * 1e9)
    end_ns = 2**63 if end_s is None else first_ns + round(end_s * 1e9)
    frames = {frame for frame, log_ns in sent if start_ns <= log_ns < end_ns}
    if not frames:
        duration_s = (sent[-1][1] - first_ns) / 1e9
        until = "its end" if end_s is None else f"{end_s:g} s"
        raise InputError(
            f"{recording.name} has no frame from {start_s:g} s to {until}, its last one is at {duration_s:.1f} s: "
            "choose another range"
        )
    boundary = {frame for frame in frames if references[frame] is not None and references[frame] not in frames}
    needed: set[int] = set()
    todo = list(boundary)
    while todo:
        named = references[todo.pop()]
        if named in references and named not in needed:
            needed.add(named)
            todo.append(named)
    uses = last_uses((frame, references[frame]) for frame in boundary | needed)
    return _Plan(start_ns, end_ns, set(references), frames, boundary, needed, uses)


class _Copy:
    """A new recording with the facts of another. Removed again where it fails."""

    def __init__(self, recording: Recording, to: Path) -> None:
        self._recording = recording
        self._writer = RecordingWriter(to, recording.facts)
        self._frames = 0
        self._span: tuple[int, int] | None = None

    @property
    def messages(self) -> int:
        return self._writer.messages

    def __enter__(self) -> _Copy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            try:
                before = self._recording.ending or Ending()
                self._writer.finish(msgspec.structs.replace(before, messages=str(self.messages)))
            except OSError as failure:
                error = failure
        if error is not None:
            self._writer.abandon()
            self._writer.path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConfigError(
                f"{self._writer.path} cannot be written: {error.strerror}: free some space or choose another path"
            ) from None

    def add(self, message: RecordedMessage) -> None:
        self._writer.add_topic(message.topic, self._recording.topics[message.topic])
        self._writer.write(
            message.topic, message.data, log_ns=message.log_ns, publish_ns=message.publish_ns,
            sequence=message.sequence,
        )  # fmt: skip
        self._frames += message.topic == BITSTREAM
        low, high = self._span or (message.log_ns, message.log_ns)
        self._span = min(low, message.log_ns), max(high, message.log_ns)

    def copied(self, *, recoded: int = 0, damage: list[Damage], left_out: int = 0) -> Copied:
        low, high = self._span or (0, 0)
        return Copied(
            self._writer.path, self.messages, self._frames, recoded, (high - low) / 1e9, list(damage), left_out
        )
