"""Plays a recording in the terminal at its pace: the live table, as it looked then. No server is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rich.console import Console

from edge_node import FrameRecord, Monitor, RunFacts, Summary
from edge_node.live_table import LiveTable
from frankenstream.annotated_video import labels_of
from pipeline.clock import Clock, VirtualClock, monotonic
from recordings.frames import RecordedFrame, recorded_frames
from recordings.reader import Recording

STEP_S_MAX = 0.1
"""How long the table waits between two looks, in seconds."""


def play(
    recording: Recording,
    *,
    console: Console,
    speed: float = 1.0,
    headless: bool = False,
    clock: Clock = monotonic,
    wait: Callable[[float], bool] | None = None,
) -> Summary:
    """Show the frames of `recording` as they ended, `speed` times as fast. `wait(seconds)` is True to end.

    Raises InputError as Recording does.
    """
    stop = threading.Event()
    wait = stop.wait if wait is None else wait
    facts = recording.facts
    then = VirtualClock()  # rates are those of then, whatever the speed
    sessions = recording.sessions()
    monitor = Monitor(
        RunFacts(
            source=recording.name,
            encoder=facts.encoder,
            coder=facts.coder,
            bundle_id=facts.bundle_id,
            operating_point=facts.operating_point,
            backbone=sessions[0].backbone if sessions else "",
            server=sessions[0].server if sessions else "",
        ),
        clock=then,
    )
    frames = sorted((frame for frame in recorded_frames(recording) if frame.ended_ns), key=lambda one: one.ended_ns)
    with LiveTable(monitor, console=console, headless=headless, clock=then) as table:
        began = clock()
        for frame in frames:
            due_s = (frame.ended_ns - frames[0].ended_ns) / 1e9
            while (left := due_s / speed - (clock() - began)) > 0:
                if wait(min(left, STEP_S_MAX)):
                    return monitor.summary()
            then.advance(max(0.0, due_s - then()))
            monitor.captured()
            monitor.record(as_record(frame))
            table.tick()
        monitor.ended()
    return monitor.summary()


def as_record(frame: RecordedFrame) -> FrameRecord:
    """A recorded frame as the edge knew it when it ended."""
    result, stages = frame.result, frame.stages
    return FrameRecord(
        frame=frame.frame,
        state=frame.state,
        captured_at=frame.captured_ns / 1e9,
        media_time=frame.media_time,
        detail=frame.detail,
        tasks=labels_of(frame.answers),
        task_errors={answer.task: answer.error for answer in frame.answers if answer.error},
        stages_ms=stages.stages_ms if stages is not None else {},
        capture_to_result_ms=stages.capture_to_result_ms if stages is not None else 0.0,
        payload_bytes=frame.payload_bytes,
        wire_bytes=result.wire_bytes if result is not None else 0,
        layers=result.layers if result is not None else 0,
        decoded_layers=result.decoded_layers if result is not None else 0,
        batch=result.batch if result is not None else 0,
    )
