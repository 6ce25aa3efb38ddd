"""What became of each frame of a recording: its bytes, its answer or drop, and its stages, put together again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from recordings.reader import RecordedMessage
from recordings.topics import (
    ANSWERED,
    BITSTREAM,
    DROP,
    RESULT,
    SESSION,
    STAGES,
    UNCHANGED,
    Bitstream,
    FrameDrop,
    FrameRepeat,
    FrameResult,
    FrameStages,
    RecordedAnswer,
    SessionStart,
)

UNCHANGED_STATE = "unchanged"
UNKNOWN = "unknown"
"""State of a frame of which the recording has no end."""
_REPEATABLE = 64
_HELD = 4_096
"""Frames that wait for their end, at most."""


class RecordedFrame(msgspec.Struct, kw_only=True):
    """One frame. Times are nanoseconds since 1970; 0: not known."""

    frame: int
    state: str = UNKNOWN
    """answered, unchanged, or the cause of its drop."""
    captured_ns: int = 0
    ended_ns: int = 0
    session: SessionStart | None = None
    payload_bytes: int = 0
    media_time: float | None = None
    detail: str = ""
    answers: list[RecordedAnswer] = []
    result: FrameResult | None = None
    stages: FrameStages | None = None

    @property
    def answered(self) -> bool:
        return self.state == ANSWERED


class Messages(Protocol):
    """A recording, or a piece of one."""

    def __iter__(self) -> Iterator[RecordedMessage]: ...
    def decode(self, message: RecordedMessage) -> Any: ...


def recorded_frames(recording: Messages) -> Iterator[RecordedFrame]:
    """Every frame, in order of its end; those without one last."""
    waiting: dict[int, RecordedFrame] = {}
    session: SessionStart | None = None
    answered: RecordedFrame | None = None  # the last one: its stages follow it
    recent: dict[int, list[RecordedAnswer]] = {}  # answers that may be repeated

    def known(frame: int) -> RecordedFrame:
        return waiting.pop(frame, None) or RecordedFrame(frame=frame, session=session)

    for message in recording:
        if answered is not None and message.topic != STAGES:
            yield answered
            answered = None
        if message.topic == SESSION:
            session = recording.decode(message)
        elif message.topic == BITSTREAM:
            _sent(waiting, recording.decode(message), session)
            if len(waiting) > _HELD:
                yield waiting.pop(next(iter(waiting)))
        elif message.topic == RESULT:
            result: FrameResult = recording.decode(message)
            answered = _with_answer(known(result.frame), result, message.publish_ns, message.log_ns)
            recent[result.frame] = result.tasks
            if len(recent) > _REPEATABLE:
                del recent[next(iter(recent))]
        elif message.topic == STAGES and answered is not None:
            stages: FrameStages = recording.decode(message)
            if stages.frame == answered.frame:
                answered.stages = stages
            yield answered
            answered = None
        elif message.topic == DROP:
            drop: FrameDrop = recording.decode(message)
            frame = known(drop.frame)
            frame.state, frame.detail, frame.ended_ns = drop.cause, drop.detail, message.log_ns
            yield frame
        elif message.topic == UNCHANGED:
            repeat: FrameRepeat = recording.decode(message)
            frame = known(repeat.frame)
            frame.state, frame.detail, frame.ended_ns = UNCHANGED_STATE, f"as frame {repeat.of}", message.log_ns
            frame.answers = recent.get(repeat.of, [])
            yield frame
    if answered is not None:
        yield answered
    yield from waiting.values()


def _sent(waiting: dict[int, RecordedFrame], bitstream: Bitstream, session: SessionStart | None) -> None:
    waiting[bitstream.frame] = RecordedFrame(
        frame=bitstream.frame, captured_ns=bitstream.captured_ns, session=session,
        payload_bytes=len(bitstream.payload), media_time=bitstream.media_time,
    )  # fmt: skip


def _with_answer(frame: RecordedFrame, result: FrameResult, captured_ns: int, ended_ns: int) -> RecordedFrame:
    frame.state, frame.result, frame.answers = ANSWERED, result, result.tasks
    frame.captured_ns = frame.captured_ns or captured_ns
    frame.ended_ns = ended_ns
    frame.payload_bytes = frame.payload_bytes or result.payload_bytes
    if frame.media_time is None and result.media_time >= 0:
        frame.media_time = result.media_time
    return frame
