"""The terminal's picture of a run, at common widths, and the line where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edge_node.live_table import LiveTable, headless_line, render
from edge_node.monitor import Monitor
from edge_node.records import ANSWERED, FrameRecord, LabelScore
from edge_node.summary import RunFacts
from pipeline.clock import VirtualClock
from pipeline.stages import CAPTURE_TO_RESULT


def a_monitor(clock: VirtualClock | None = None) -> Monitor:
    facts = RunFacts(
        source="tour.mp4",
        backbone="tf_efficientnet_lite0",
        transport="tcp://127.0.0.1:7787",
        operating_point="standard",
    )
    monitor = Monitor(facts, clock=clock or VirtualClock())
    monitor.captured()
    monitor.captured()
    monitor.record(
        FrameRecord(
            frame=1234,
            state=ANSWERED,
            tasks={
                "imagenet1k": [
                    LabelScore("zebra", 0.984),
                    LabelScore("African hunting dog, hyena dog, Cape hunting dog", 0.01),
                ],
                "food101": [LabelScore("hamburger", 0.31)],
                "cifar100": [LabelScore("cattle", 0.5)],
                "flowers102": [LabelScore("colt's foot", 0.12)],
            },
            task_errors={"mine": "head gave NaN"},
            stages_ms={stage: 1.5 * number for number, stage in enumerate(CAPTURE_TO_RESULT)},
            capture_to_result_ms=99.0,
            payload_bytes=3812,
            wire_bytes=3851,
            clock_error_ms=0.2,
        )
    )
    monitor.record(FrameRecord(frame=1235, state="superseded"))
    return monitor


def drawn(monitor: Monitor, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render(monitor, width))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [80, 120])
def test_everything_is_on_the_screen_and_nothing_runs_over(width: int) -> None:
    """Frame, top label and score of each task, bytes, time, every stage, counts."""
    text = drawn(a_monitor(), width)
    for expected in (
        "frame 1234", "zebra", "98%", "hamburger", "cattle", "colt's foot", "head gave NaN", "3,812 bytes",
        "capture to result 99.0 ms", "capture", "preprocess", "analysis", "encode", "wait", "uplink", "decode", "queue",
        "synthesis", "tail", "heads", "downlink", "captured 2 = answered 1 + dropped 1 + in flight 0", "superseded 1",
    ):  # fmt: skip
        assert expected in text, f"{expected!r} is missing from:\n{text}"
    assert max(len(line) for line in text.splitlines()) <= width


def test_before_the_first_answer_it_says_that_it_waits() -> None:
    """No empty table."""
    assert "waiting for the first answer" in drawn(Monitor(RunFacts(source="x"), clock=VirtualClock()), 80)


def test_headless_prints_one_line_a_second() -> None:
    """However often it is asked."""
    clock = VirtualClock()
    out = io.StringIO()
    with LiveTable(a_monitor(clock), console=Console(file=out, width=80), clock=clock) as table:
        for _ in range(35):
            clock.advance(0.1)
            table.tick()
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("frame 1234  ")
    assert "imagenet1k zebra 98%" in lines[0]


def test_the_line_names_tasks_without_labels() -> None:
    """A failed head is not silent."""
    line = headless_line(a_monitor())
    assert "mine (head gave NaN)" in line
    assert line.endswith("answered 1  dropped 1")


def test_a_terminal_is_drawn_on_and_left_clean() -> None:
    """Also when the run ends at once."""
    out = io.StringIO()
    with LiveTable(
        a_monitor(), console=Console(file=out, width=80, force_terminal=True), clock=VirtualClock()
    ) as table:
        table.tick()
        table.say("connection lost (cut): trying again")
    assert "connection lost (cut)" in out.getvalue()
    assert "zebra" in out.getvalue()
