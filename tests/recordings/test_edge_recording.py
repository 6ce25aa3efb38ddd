"""What an edge sends and hears, recorded from its transport and its session's events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.frame import Picture
from pipeline.wire import EdgeSession, messages
from pipeline.wire.events import Answered, Connected, FrameDropped, FrameUnchanged
from pipeline.wire.messages import Frame, FramePart, JpegFrame, Label, Result, TaskInfo, TaskResult, Welcome
from recordings.edge_recording import EdgeRecording
from recordings.frames import recorded_frames
from recordings.reader import Recording
from recordings.recorder import Recorder
from recordings.thumbnails import decode_thumbnail
from recordings.topics import (
    BITSTREAM,
    CLOCK,
    DROP,
    RESULT,
    SESSION,
    STAGES,
    THUMBNAIL,
    UNCHANGED,
    Bitstream,
    ClockEstimate,
    Facts,
    FrameResult,
    SessionStart,
    Thumbnail,
)

STAGES_MS = {"capture": 1.0, "uplink": 2.0, "downlink": 3.0}
WELCOME = Welcome(
    "s1", b"t" * 16, False, "c" * 64, "b" * 64, "lite0", [TaskInfo("animals", "lite0", 2)], 4, 1000, 1000, 4, 77,
    "frankenstream 0.1.0; lite0=onnx/cpu/2",
)  # fmt: skip


class Pictures:
    name, fps, live = "clip.mp4", 30.0, False

    def __init__(self, count: int) -> None:
        self._count = count

    def __iter__(self) -> Iterator[Picture]:
        for number in range(self._count):
            yield np.full((40, 60, 3), number * 10, np.uint8), number / 10

    def close(self) -> None:
        pass


def answered(frame: int, score: float = 0.1 + 0.2) -> Answered:
    tasks = [TaskResult("animals", [Label(340, "zebra", score)]), TaskResult("food", [], "head gave NaN")]
    result = Result(frame, tasks, 0, 0, [0] * 5, 4, 1000, 3, 3, 2)
    return Answered(frame, tuple(tasks), STAGES_MS, 6.0, 0.5, 100, 120, 3, 3, result)


def recorded(path: Path, frames: int = 4, *, thumbnails_per_s: float = 0.0, queue: int = 10**6) -> list[str]:
    """A run of `frames`: one after another is sent and answered. Returns what `on_gap` heard."""
    gaps: list[str] = []
    recorder = Recorder(thread=False, queue_bytes_max=queue)
    recording = EdgeRecording(
        recorder, recorder.record(path, Facts(codec_id="c" * 64)), thumbnails_per_s=thumbnails_per_s,
        on_gap=lambda: gaps.append("gap"),
    )  # fmt: skip
    session = EdgeSession(codec_id="c" * 64, tasks=("animals",), top_k=2)
    recording.event(session, Connected(WELCOME), 0.0)
    for number, _ in enumerate(recording.watch(Pictures(frames))):
        now = 1.0 + number / 10
        data = messages.encode(Frame(number, 5_000, 500_000, bytes([number]) * 50, number + 1))
        recording.traffic("up", "control", b"nothing of ours", now)
        recording.traffic("up", "frames", data, now)
        session.clock.add(now, now + 0.5, now + 0.5, now + 0.01)
        recording.event(session, answered(number), now + 0.05)
    recorder.close()
    return gaps


def test_a_frame_is_recorded_as_it_was_sent_and_answered(tmp_path: Path) -> None:
    recorded(tmp_path / "a.mcap")
    recording = Recording(tmp_path / "a.mcap")

    assert [message.topic for message in recording][:4] == [SESSION, BITSTREAM, RESULT, STAGES]
    sent = list(recording.of(BITSTREAM, Bitstream))
    assert [(one.frame, one.payload, one.kind, one.budget_us) for one in sent] == [
        (number, bytes([number]) * 50, "bitstream", 500_000) for number in range(4)
    ]
    assert [one.media_time for one in sent] == [0.0, 0.1, 0.2, 0.3]
    assert sent[1].captured_ns - sent[0].captured_ns == 100_000_000
    result = next(recording.of(RESULT, FrameResult))
    assert result.tasks[0].labels[0].score == 0.1 + 0.2, "to the last bit"
    assert (result.tasks[1].error, result.batch, result.wire_bytes) == ("head gave NaN", 2, 120)
    frame = next(recorded_frames(recording))
    assert frame.stages is not None
    assert {stage: value for stage, value in frame.stages.stages_ms.items() if value} == STAGES_MS
    (session,) = recording.of(SESSION, SessionStart)
    assert (session.wanted, session.top_k, session.reference_epoch) == (["animals"], 2, 77)
    assert session.server == WELCOME.server
    clock = next(recording.of(CLOCK, ClockEstimate))
    assert abs(clock.offset_s - 0.495) < 1e-6
    assert abs(clock.error_ms - 5.0) < 1e-6


def test_thumbnails_come_at_their_rate(tmp_path: Path) -> None:
    """Ten frames a second, five thumbnails: every other frame's, with that frame's number and time."""
    recorded(tmp_path / "a.mcap", 10, thumbnails_per_s=5.0)
    recording = Recording(tmp_path / "a.mcap")
    found = list(recording.of(THUMBNAIL, Thumbnail))
    times = {one.frame: one.captured_ns for one in recording.of(BITSTREAM, Bitstream)}

    assert [one.frame for one in found] == [0, 2, 4, 6, 8]
    assert all(one.captured_ns == times[one.frame] for one in found)
    for one in found:
        pixels = decode_thumbnail(one.jpeg)
        assert pixels.shape == (40, 60, 3)
        assert abs(float(pixels.mean()) - one.frame * 10) < 4
    recorded(tmp_path / "b.mcap", 10, thumbnails_per_s=10.0)
    assert len(list(Recording(tmp_path / "b.mcap").of(THUMBNAIL, Thumbnail))) == 10


def test_a_lost_bitstream_asks_for_a_frame_that_stands_alone(tmp_path: Path) -> None:
    """Or else no later frame would decode."""
    assert recorded(tmp_path / "a.mcap", queue=120) == ["gap"] * 3
    assert len(list(Recording(tmp_path / "a.mcap").of(BITSTREAM, Bitstream))) == 1


def test_other_ends_and_kinds(tmp_path: Path) -> None:
    """Drops, repeated answers, pictures, and frames that went in parts."""
    recorder = Recorder(thread=False)
    recording = EdgeRecording(recorder, recorder.record(tmp_path / "a.mcap", Facts()))
    session = EdgeSession(codec_id="c" * 64)
    recording.traffic("up", "frames", messages.encode(JpegFrame(0, 0, 0, b"\xff\xd8", 1)), 1.0)
    for part in (1, 0):
        recording.traffic("up", "frames", messages.encode(FramePart(1, part, 2, 0, 0, bytes([part]), 2)), 1.1)
    recording.traffic("up", "frames", messages.encode(FramePart(2, 0, 2, 0, 0, b"x", 3)), 1.2)
    recording.event(session, answered(1), 1.3)
    recording.event(session, FrameDropped(2, "lost", "no answer"), 1.4)
    recording.event(session, FrameUnchanged(3, 1), 1.5)
    recorder.close()

    read = Recording(tmp_path / "a.mcap")
    sent = [(one.frame, one.kind, one.payload) for one in read.of(BITSTREAM, Bitstream)]
    assert sent == [(0, "jpeg", b"\xff\xd8"), (1, "bitstream", b"\x00\x01")]
    frames = {frame.frame: frame for frame in recorded_frames(read)}
    assert (frames[2].state, frames[2].detail) == ("lost", "no answer")
    assert (frames[3].state, frames[3].answers) == ("unchanged", frames[1].answers)
    assert {message.topic for message in read} >= {DROP, UNCHANGED}
