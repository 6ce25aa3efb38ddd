"""Looking through a recording: its course at a glance, the frames of any few seconds, the picture of a moment.

All times here are seconds from the recording's first message. What is answered never grows with the recording: a page
of frames has a limit, and a glance at a long recording reads one chunk for each of its points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from pipeline.errors import InputError
from recordings.frames import RecordedFrame, recorded_frames
from recordings.indexed import Chunk, IndexedRecording
from recordings.reader import RecordedMessage
from recordings.topics import (
    BITSTREAM,
    DROP,
    RESULT,
    STAGES,
    THUMBNAIL,
    UNCHANGED,
    Bitstream,
    Facts,
    FrameStages,
    RecordedAnswer,
    SessionStart,
    Thumbnail,
)

POINTS_MAX: Final = 1_000
FRAMES_MAX: Final = 500
"""Frames of one page."""
COURSE_CHUNKS_MAX: Final = 600
"""Chunks that are read for a course, all of them or one for each point: five minutes are read whole."""
PAGE_CHUNKS_MAX: Final = 256
"""Chunks that are read for one page: two minutes."""
LOOK_BACK_S: Final = 3.0
"""A frame that ends now came in at most so long ago."""
SECONDS_MAX: Final = 1e9
"""No recording lasts 30 years; what lies beyond is no time, and infinity has no nanoseconds."""
PICTURE_S: Final = 10.0
"""How old a thumbnail may be that stands for a moment."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What a recording is, without reading it."""

    name: str
    bytes: int
    started_ns: int
    duration_s: float
    indexed: bool
    """Closed in good order; False: it is being written, or was cut off."""
    damage: str
    facts: Facts
    session: SessionStart | None


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """What happened over time, in steps of `step_s` from `from_s` on. A point without an answer has no time (None)."""

    from_s: float
    step_s: float
    sampled: bool
    """Whether each point rests on a piece of its step, as in long recordings."""
    answers_per_s: list[float]
    drops_per_s: list[float]
    kbps: list[float]
    """Payload."""
    p50_ms: list[float | None]
    p95_ms: list[float | None]


class ShownFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One frame. `at_s`: when it ended; `captured_s`: when it was captured (a server's: when it came in)."""

    frame: int
    at_s: float
    captured_s: float
    state: str
    detail: str = ""
    payload_bytes: int = 0
    layers: int = 0
    decoded_layers: int = 0
    batch: int = 0
    media_time: float | None = None
    tasks: list[RecordedAnswer] = []
    stages_ms: dict[str, float] = {}
    total_ms: float = 0.0


class FramePage(msgspec.Struct, frozen=True, kw_only=True):
    """Frames that ended from `from_s` on, in that order. `next_s`: where the next page begins; None: there is none."""

    from_s: float
    to_s: float
    frames: list[ShownFrame]
    pictures_s: list[float]
    """When there are pictures: thumbnails, or the pictures that were sent."""
    next_s: float | None


def overview(recording: IndexedRecording) -> Overview:
    """Reads its ends and its first chunk. Raises InputError."""
    return Overview(
        name=recording.path.name, bytes=recording.size_bytes, started_ns=recording.start_ns,
        duration_s=recording.duration_s, indexed=recording.indexed, damage=recording.damage, facts=recording.facts,
        session=recording.session(),
    )  # fmt: skip


def course(recording: IndexedRecording, from_s: float = 0.0, to_s: float | None = None, points: int = 300) -> Course:
    """The course from `from_s` to `to_s`. Raises InputError for times and points that make no sense."""
    end_s = recording.duration_s if to_s is None else min(to_s, recording.duration_s)
    if not 1 <= points <= POINTS_MAX:
        raise InputError(f"points is {points}, expected 1 to {POINTS_MAX}")
    if not 0 <= from_s <= end_s:
        raise InputError(f"there is nothing from {from_s:g} to {end_s:g} s: it lasts {recording.duration_s:g} s")
    step_s = max((end_s - from_s) / points, 1e-3)
    points = max(1, min(points, round((end_s - from_s) / step_s)))
    steps = [_Step() for _ in range(points)]
    start_ns = recording.start_ns
    from_ns = start_ns + round(from_s * 1e9)
    chunks = recording.within(from_ns, start_ns + round(end_s * 1e9) + 1)
    sampled = len(chunks) > COURSE_CHUNKS_MAX
    if sampled:
        for chunk, span_s, place in _sampled_chunks(chunks, from_ns, step_s, points):
            steps[place].span_s = span_s
            for message in recording.messages(chunk):
                steps[place].take(message, recording)
    else:
        for chunk in chunks:
            for message in recording.messages(chunk):
                place = int((message.log_ns - from_ns) / 1e9 / step_s)
                if message.log_ns >= from_ns and (place < points or message.log_ns <= start_ns + round(end_s * 1e9)):
                    steps[min(place, points - 1)].take(message, recording)
        for step in steps:
            step.span_s = step_s
    return Course(
        from_s=from_s, step_s=step_s, sampled=sampled,
        answers_per_s=[step.rate(step.answers) for step in steps],
        drops_per_s=[step.rate(step.drops) for step in steps],
        kbps=[step.rate(step.payload_bytes * 8 / 1e3) for step in steps],
        p50_ms=[step.percentile(50) for step in steps], p95_ms=[step.percentile(95) for step in steps],
    )  # fmt: skip


def frame_page(recording: IndexedRecording, from_s: float, to_s: float, limit: int = 200) -> FramePage:
    """Frames that ended from `from_s` up to `to_s` (infinity: its end), at most about `limit`. Raises InputError."""
    if not 1 <= limit <= FRAMES_MAX:
        raise InputError(f"limit is {limit}, expected 1 to {FRAMES_MAX}")
    to_s = min(to_s, SECONDS_MAX)
    if not 0 <= from_s < to_s:
        raise InputError(f"frames from {from_s:g} to {to_s:g} s make no sense: from is less than to")
    start_ns = recording.start_ns
    from_ns, to_ns = start_ns + round(from_s * 1e9), start_ns + round(to_s * 1e9)
    wanted_ns = to_ns
    look_ns = round(LOOK_BACK_S * 1e9)
    chunks = recording.within(from_ns - look_ns, to_ns + look_ns)
    if len(chunks) > PAGE_CHUNKS_MAX:
        # What comes after is the next page's; a part of what is read says how the last frames end.
        chunks = chunks[:PAGE_CHUNKS_MAX]
        to_ns = min(to_ns, max(chunks[PAGE_CHUNKS_MAX // 2].start_ns, chunks[-1].start_ns - look_ns))
    cut_ns = to_ns
    piece = _Piece(recording, chunks)
    found = []
    for frame in recorded_frames(piece):
        at_ns = frame.ended_ns or frame.captured_ns
        if from_ns <= at_ns < cut_ns:
            found.append((at_ns, frame))
    found.sort(key=lambda pair: (pair[0], pair[1].frame))
    if len(found) > limit:
        cut_ns = found[limit][0]
        kept = [pair for pair in found if pair[0] < cut_ns]
        found = kept or found[:limit]
        cut_ns = cut_ns if kept else cut_ns + 1
    pictures = sorted({(at - start_ns) / 1e9 for at in piece.pictures_ns if from_ns <= at < cut_ns})
    shown = [_shown(frame, at_ns, start_ns) for at_ns, frame in found]
    return FramePage(
        from_s=from_s, to_s=(cut_ns - start_ns) / 1e9, frames=shown, pictures_s=pictures,
        next_s=(cut_ns - start_ns) / 1e9 if cut_ns < wanted_ns else None,
    )  # fmt: skip


def picture_at(recording: IndexedRecording, at_s: float) -> bytes | None:
    """The JPEG of the newest picture at `at_s` or before it, if it is of these seconds. Raises InputError."""
    if not -SECONDS_MAX <= at_s <= SECONDS_MAX:
        raise InputError(f"there is no picture at {at_s:g} s: it lasts {recording.duration_s:g} s")
    at_ns = recording.start_ns + round(at_s * 1e9) + 1_000
    oldest_ns = at_ns - round(PICTURE_S * 1e9)
    best: tuple[int, bytes] | None = None
    for chunk in recording.before(at_ns):
        if chunk.end_ns < oldest_ns or (best is not None and chunk.end_ns < best[0]):
            break
        for message in recording.messages(chunk):
            if message.topic in (THUMBNAIL, BITSTREAM) and oldest_ns <= message.log_ns <= at_ns:
                jpeg = _jpeg(recording, message)
                if jpeg and (best is None or message.log_ns >= best[0]):
                    best = message.log_ns, jpeg
    return best[1] if best else None


class _Piece:
    """Some chunks, as `recorded_frames` wants them; notes the pictures that it passes."""

    def __init__(self, recording: IndexedRecording, chunks: Sequence[Chunk]) -> None:
        self._recording = recording
        self._chunks = chunks
        self.pictures_ns: list[int] = []

    def __iter__(self) -> Iterator[RecordedMessage]:
        for chunk in self._chunks:
            for message in self._recording.messages(chunk):
                if message.topic == THUMBNAIL:
                    self.pictures_ns.append(message.log_ns)
                yield message

    def decode(self, message: RecordedMessage) -> Any:
        decoded = self._recording.decode(message)
        if isinstance(decoded, Bitstream) and decoded.kind == "jpeg":
            self.pictures_ns.append(message.log_ns)
        return decoded


class _Step:
    """What is counted for one point of a course."""

    def __init__(self) -> None:
        self.answers = self.drops = self.payload_bytes = 0
        self.span_s = 0.0
        self.taken_ms: list[float] = []

    def take(self, message: RecordedMessage, recording: IndexedRecording) -> None:
        if message.topic in (RESULT, UNCHANGED):
            self.answers += 1
        elif message.topic == DROP:
            self.drops += 1
        elif message.topic == BITSTREAM:
            self.payload_bytes += len(recording.decode(message).payload)
        elif message.topic == STAGES:
            stages: FrameStages = recording.decode(message)
            self.taken_ms.append(stages.capture_to_result_ms)

    def rate(self, count: float) -> float:
        return round(count / self.span_s, 3) if self.span_s else 0.0

    def percentile(self, percent: int) -> float | None:
        return round(float(np.percentile(self.taken_ms, percent)), 3) if self.taken_ms else None


def _sampled_chunks(
    chunks: Sequence[Chunk], from_ns: int, step_s: float, points: int
) -> Iterator[tuple[Chunk, float, int]]:
    """(chunk, seconds that it covers, place of its step): one for each step, if any begins in it.

    one step    |---------------+---------------|
    chunks       a     b     c     d     e     f     g      d: the first that begins in the second half
                 a     b                             g      b: the last one, where none does
    """
    done = -1
    for chunk, next_ns in zip(chunks, (*(after.start_ns for after in chunks[1:]), chunks[-1].end_ns), strict=True):
        within = (chunk.start_ns - from_ns) / 1e9 / step_s
        place = int(within)
        second_half = within - place >= 0.5
        last = int((next_ns - from_ns) / 1e9 / step_s) != place or chunk is chunks[-1]
        if 0 <= place < points and place != done and (second_half or last):
            done = place
            # A pause between two chunks is none of this one's.
            span_ns = min(next_ns - chunk.start_ns, 2 * (chunk.end_ns - chunk.start_ns) + 50_000_000)
            yield chunk, max(span_ns / 1e9, 1e-3), place


def _shown(frame: RecordedFrame, at_ns: int, start_ns: int) -> ShownFrame:
    result, stages = frame.result, frame.stages
    return ShownFrame(
        frame=frame.frame, at_s=(at_ns - start_ns) / 1e9, captured_s=((frame.captured_ns or at_ns) - start_ns) / 1e9,
        state=frame.state, detail=frame.detail, payload_bytes=frame.payload_bytes,
        layers=result.layers if result else 0, decoded_layers=result.decoded_layers if result else 0,
        batch=result.batch if result else 0, media_time=frame.media_time, tasks=frame.answers,
        stages_ms={name: round(ms, 3) for name, ms in stages.stages_ms.items() if ms} if stages else {},
        total_ms=round(stages.capture_to_result_ms, 3) if stages else 0.0,
    )  # fmt: skip


def _jpeg(recording: IndexedRecording, message: RecordedMessage) -> bytes:
    found = recording.decode(message)
    if isinstance(found, Thumbnail):
        return found.jpeg
    return found.payload if isinstance(found, Bitstream) and found.kind == "jpeg" else b""
