"""What became of each frame of a recording: its bytes, its answer or drop, and its stages, put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
    frames = _Frames()
    takes: dict[str, Callable[[Any, RecordedMessage], Iterable[RecordedFrame]]] = {
        SESSION: frames.session,
        BITSTREAM: frames.bitstream,
        RESULT: frames.result,
        STAGES: frames.stages,
        DROP: frames.drop,
        UNCHANGED: frames.unchanged,
    }
    for message in recording:
        if message.topic != STAGES:
            yield from frames.answered()
        if message.topic in takes:
            yield from takes[message.topic](recording.decode(message), message)
    yield from frames.answered()
    yield from frames.waiting()


class _Frames:
    """Puts frames together: a method for each topic, which gives the frames that are complete with its message."""

    def __init__(self) -> None:
        self._session: SessionStart | None = None
        self._waiting: dict[int, RecordedFrame] = {}
        self._answered: RecordedFrame | None = None  # the last one: its stages follow it
        self._recent: dict[int, list[RecordedAnswer]] = {}  # answers that may be repeated

    def session(self, start: SessionStart, _: RecordedMessage) -> Iterable[RecordedFrame]:
        self._session = start
        return ()

    def bitstream(self, sent: Bitstream, _: RecordedMessage) -> Iterable[RecordedFrame]:
        self._waiting[sent.frame] = RecordedFrame(
            frame=sent.frame, captured_ns=sent.captured_ns, session=self._session,
            payload_bytes=len(sent.payload), media_time=sent.media_time,
        )  # fmt: skip
        return [self._waiting.pop(next(iter(self._waiting)))] if len(self._waiting) > _HELD else ()

    def result(self, result: FrameResult, message: RecordedMessage) -> Iterable[RecordedFrame]:
        frame = self._answered = self._ended(result.frame, ANSWERED, "", message)
        frame.result, frame.answers = result, result.tasks
        frame.captured_ns = frame.captured_ns or message.publish_ns
        frame.payload_bytes = frame.payload_bytes or result.payload_bytes
        if frame.media_time is None and result.media_time >= 0:
            frame.media_time = result.media_time
        self._recent[result.frame] = result.tasks
        if len(self._recent) > _REPEATABLE:
            del self._recent[next(iter(self._recent))]
        return ()

    def stages(self, stages: FrameStages, _: RecordedMessage) -> Iterable[RecordedFrame]:
        if self._answered is not None and self._answered.frame == stages.frame:
            self._answered.stages = stages
        return self.answered()

    def drop(self, drop: FrameDrop, message: RecordedMessage) -> Iterable[RecordedFrame]:
        return [self._ended(drop.frame, drop.cause, drop.detail, message)]

    def unchanged(self, repeat: FrameRepeat, message: RecordedMessage) -> Iterable[RecordedFrame]:
        frame = self._ended(repeat.frame, UNCHANGED_STATE, f"as frame {repeat.of}", message)
        frame.answers = self._recent.get(repeat.of, [])
        return [frame]

    def answered(self) -> Iterable[RecordedFrame]:
        """The frame that was answered last, which gets no more stages."""
        frame, self._answered = self._answered, None
        return () if frame is None else [frame]

    def waiting(self) -> Iterable[RecordedFrame]:
        """Frames that have no end."""
        return self._waiting.values()

    def _ended(self, number: int, state: str, detail: str, message: RecordedMessage) -> RecordedFrame:
        frame = self._waiting.pop(number, None) or RecordedFrame(frame=number, session=self._session)
        frame.state, frame.detail, frame.ended_ns = state, detail, message.log_ns
        return frame
