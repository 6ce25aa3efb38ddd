"""A recording in figures: what `frankenstream recordings info` prints."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
from numpy.typing import NDArray

from recordings.frames import UNCHANGED_STATE, UNKNOWN, RecordedFrame, recorded_frames
from recordings.reader import Recording
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
    """Read the whole recording. Raises InputError as it does."""
    counts = Counter(message.topic for message in recording)
    frames = list(recorded_frames(recording))
    states = Counter(frame.state for frame in frames)
    payloads = np.array([frame.payload_bytes for frame in frames if frame.payload_bytes], np.float64)
    times = np.array([frame.captured_ns / 1e9 for frame in frames if frame.payload_bytes], np.float64)
    started_ns, duration_s = _span(frames)
    special = {ANSWERED, UNCHANGED_STATE, UNKNOWN}
    latencies = [frame.stages.capture_to_result_ms for frame in frames if frame.stages is not None]
    ending = recording.ending
    return RecordingFigures(
        path=str(recording.path),
        bytes=recording.size_bytes,
        facts=recording.facts,
        started_ns=started_ns,
        duration_s=duration_s,
        frames=len(frames),
        answered=states[ANSWERED],
        unchanged=states[UNCHANGED_STATE],
        dropped={cause: count for cause, count in sorted(states.items()) if cause not in special},
        unknown=states[UNKNOWN],
        sessions=recording.sessions(),
        payload_bytes_mean=float(payloads.mean()) if len(payloads) else 0.0,
        kbps=float(payloads.sum()) * 8 / 1000 / duration_s if duration_s else 0.0,
        kbps_over_time=_over_time(times, payloads),
        capture_to_result=_latency(np.array(latencies)) if latencies else None,
        tasks=_tasks(frames),
        topics={topic: counts[topic] for topic in (*TOPICS, *sorted(set(counts) - set(TOPICS))) if counts[topic]},
        lost=ending.lost_by_topic if ending is not None else "",
        closed=ending is not None,
        damage=[str(damage) for damage in recording.damage],
    )


def _span(frames: list[RecordedFrame]) -> tuple[int, float]:
    times = [time for frame in frames for time in (frame.captured_ns, frame.ended_ns) if time]
    return (min(times), (max(times) - min(times)) / 1e9) if times else (0, 0.0)


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


def _tasks(frames: list[RecordedFrame]) -> dict[str, TaskFigures]:
    tops: dict[str, Counter[str]] = {}
    for frame in frames:
        for answer in frame.answers:
            if answer.labels:
                tops.setdefault(answer.task, Counter())[answer.labels[0].name] += 1
    found = {}
    for task, counter in tops.items():
        label, count = counter.most_common(1)[0]
        found[task] = TaskFigures(label, count / counter.total())
    return found
