"""A recording in figures: what `frankenstream recordings info` prints."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from recordings.frames import UNCHANGED_STATE, UNKNOWN, RecordedFrame, recorded_frames
from recordings.reader import RecordedMessage, Recording
from recordings.topics import ANSWERED, TOPICS, Facts, SessionStart

BARS = 24
"""Columns of a bitrate over time."""


class Bucket(msgspec.Struct, frozen=True):
    """Values from `low` up to `high`."""

    low: float
    high: float
    count: int


class LatencyFigures(msgspec.Struct, frozen=True):
    """Capture to result, in milliseconds."""

    p50: float
    p95: float
    p99: float
    histogram: list[Bucket]


class TaskFigures(msgspec.Struct, frozen=True):
    """The label that was on top most often."""

    label: str
    share: float
    """Of the answered frames, 0 to 1."""


class RecordingFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `info` says. Times are seconds, rates kbit/s of payload."""

    path: str
    bytes: int
    facts: Facts
    started_ns: int
    duration_s: float
    frames: int
    answered: int
    unchanged: int
    dropped: dict[str, int]
    unknown: int
    """Frames of which the recording has no end."""
    sessions: list[SessionStart]
    payload_bytes_mean: float
    kbps: float
    kbps_over_time: list[float]
    capture_to_result: LatencyFigures | None
    tasks: dict[str, TaskFigures]
    topics: dict[str, int]
    lost: str
    """What could not be written, as the recorder said."""
    closed: bool
    damage: list[str]


def figures(recording: Recording) -> RecordingFigures:
    """Read the whole recording, once. Raises InputError as it does."""
    noting = _Noting(recording)
    sums = _Sums()
    for frame in recorded_frames(noting):
        sums.add(frame)
    states, counts, ending = sums.states, noting.counts, recording.ending
    payloads, times = np.array(sums.payloads), np.array(sums.times_s)
    duration_s = (sums.last_ns - sums.first_ns) / 1e9
    special = {ANSWERED, UNCHANGED_STATE, UNKNOWN}
    return RecordingFigures(
        path=str(recording.path),
        bytes=recording.size_bytes,
        facts=recording.facts,
        started_ns=sums.first_ns,
        duration_s=duration_s,
        frames=states.total(),
        answered=states[ANSWERED],
        unchanged=states[UNCHANGED_STATE],
        dropped={cause: count for cause, count in sorted(states.items()) if cause not in special},
        unknown=states[UNKNOWN],
        sessions=noting.sessions,
        payload_bytes_mean=float(payloads.mean()) if len(payloads) else 0.0,
        kbps=float(payloads.sum()) * 8 / 1000 / duration_s if duration_s else 0.0,
        kbps_over_time=_over_time(times, payloads),
        capture_to_result=_latency(np.array(sums.latencies_ms)) if sums.latencies_ms else None,
        tasks={task: _task(labels) for task, labels in sums.tops.items()},
        topics={topic: counts[topic] for topic in (*TOPICS, *sorted(set(counts) - set(TOPICS))) if counts[topic]},
        lost=ending.lost_by_topic if ending is not None else "",
        closed=ending is not None,
        damage=[str(damage) for damage in recording.damage],
    )


class _Noting:
    """A recording, as `recorded_frames` wants it; counts the messages and notes the sessions that it passes."""

    def __init__(self, recording: Recording) -> None:
        self.counts: Counter[str] = Counter()
        self.sessions: list[SessionStart] = []
        self._recording = recording

    def __iter__(self) -> Iterator[RecordedMessage]:
        for message in self._recording:
            self.counts[message.topic] += 1
            yield message

    def decode(self, message: RecordedMessage) -> Any:
        decoded = self._recording.decode(message)
        if isinstance(decoded, SessionStart):
            self.sessions.append(decoded)
        return decoded


class _Sums:
    """What is kept of the frames: a few numbers each, since a recording may have millions."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.payloads, self.times_s, self.latencies_ms = array("d"), array("d"), array("d")
        self.tops: dict[str, Counter[str]] = {}
        """Of each task: how often each label was on top."""
        self.first_ns = self.last_ns = 0

    def add(self, frame: RecordedFrame) -> None:
        self.states[frame.state] += 1
        for time_ns in (frame.captured_ns, frame.ended_ns):
            if time_ns:
                self.first_ns = min(self.first_ns or time_ns, time_ns)
                self.last_ns = max(self.last_ns, time_ns)
        if frame.payload_bytes:
            self.payloads.append(frame.payload_bytes)
            self.times_s.append(frame.captured_ns / 1e9)
        if frame.stages is not None:
            self.latencies_ms.append(frame.stages.capture_to_result_ms)
        for answer in frame.answers:
            if answer.labels:
                self.tops.setdefault(answer.task, Counter())[answer.labels[0].name] += 1


def _over_time(times_s: NDArray[np.float64], payloads: NDArray[np.float64]) -> list[float]:
    if len(times_s) < 2 or times_s.max() <= times_s.min():
        return []
    sums, edges = np.histogram(times_s, bins=min(BARS, len(times_s)), weights=payloads)
    return [float(rate) for rate in sums * 8 / 1000 / np.diff(edges)]


def _latency(milliseconds: NDArray[np.float64]) -> LatencyFigures:
    p50, p95, p99 = (float(value) for value in np.percentile(milliseconds, (50, 95, 99)))
    low, high = float(milliseconds.min()), float(max(np.percentile(milliseconds, 99.5), milliseconds.min() + 1.0))
    counts, edges = np.histogram(np.minimum(milliseconds, high), bins=10, range=(low, high))
    buckets = [Bucket(float(a), float(b), int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False)]
    return LatencyFigures(p50, p95, p99, buckets)


def _task(tops: Counter[str]) -> TaskFigures:
    label, count = tops.most_common(1)[0]
    return TaskFigures(label, count / tops.total())
