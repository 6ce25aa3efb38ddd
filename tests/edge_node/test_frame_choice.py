"""Frame choice and rate control in the node: answers that are repeated, and what is said about both."""

from __future__ import annotations

import io
import json
import threading

import numpy as np
import pytest
from rich.console import Console

from edge_node.drops import explain_drops
from edge_node.live_table import headless_line, render
from edge_node.monitor import Monitor
from edge_node.outcomes import Outcomes
from edge_node.payload import Encoded
from edge_node.records import ANSWERED, UNCHANGED, FrameRecord, LabelScore
from edge_node.summary import RunFacts
from pipeline.clock import VirtualClock
from pipeline.frame import Frame
from pipeline.rate_control import EncodeChoice, RateChoice, RateControl, Rung
from pipeline.wire.events import Answered, FrameUnchanged
from pipeline.wire.messages import Label, Result, TaskResult
from pipeline.wire.stage_marks import StageMarks
from tests.edge_node.test_node import PATIENCE_S, Pixel, Run, Script

MARKS = StageMarks(0.0, 0.0, 0.0, 0.0, 0.0)
RUNG = Rung(EncodeChoice(1), "standard", 4_000.0, 8.3, (60.0, 30.0))


class Still(Pixel):
    """Every frame is like the newest answered one."""

    def __init__(self) -> None:
        super().__init__()
        self._newest: int | None = None
        self.choices: list[EncodeChoice] = []
        self.first_answer = threading.Event()

    def choose(self, choice: EncodeChoice) -> None:
        self.choices.append(choice)

    def encode(self, frame: Frame, taken_at: float) -> Encoded:
        made = super().encode(frame, taken_at)
        if self._newest is None:
            return made
        return Encoded(made.payload, made.marks, self._newest, 100, 0.0)

    def ended(self, record: FrameRecord) -> None:
        if record.answered:
            self._newest = record.frame
            self.first_answer.set()


def answered(frame: int, *, decoded_layers: int = 8) -> Answered:
    tasks = (TaskResult("imagenet1k", [Label(340, "zebra", 0.9)]),)
    result = Result(frame, list(tasks), 0, 0, [0] * 5, 4, 2000)
    return Answered(frame, tasks, {"capture": 1.0}, 10.0, None, 900, 930, decoded_layers, 8, result)


def assert_set(event: threading.Event) -> None:
    assert event.wait(PATIENCE_S)


def like(reference: int | None, *, changed_share: float = 0.0) -> Encoded:
    return Encoded(b"x", MARKS, reference, 4_000, changed_share)


def a_frame(number: int, at: float) -> Frame:
    return Frame(number, at, np.zeros((1, 1, 3), np.uint8), None)


def outcomes_with_an_answer(**event: int) -> Outcomes:
    """Frame 0, captured at 10 s, is answered."""
    outcomes = Outcomes(repeat_ms=1_000)
    outcomes.captured(0, 10.0, None)
    outcomes.encoded(0, RUNG, Encoded(b"x", MARKS, None, 4_000))
    outcomes.record(answered(0, **event))
    return outcomes


def test_a_still_scene_is_answered_without_sending_it() -> None:
    """The first frames are sent; the others repeat an answer, with its labels, until that is too old."""
    payload = Still()
    steps = {1: lambda: assert_set(payload.first_answer)}
    run = Run(Script(50, steps=steps), payload=payload, lossless=False, repeat_ms=60_000)
    summary = run.node.run()
    repeated = [record for record in run.records if record.state == UNCHANGED]
    assert summary.captured == summary.answered + summary.unchanged + sum(summary.dropped.values())
    assert summary.unchanged == len(repeated) == run.session.account.unchanged > 0
    assert repeated[0].tasks["imagenet1k"] == [LabelScore("zebra", 0.9)]
    assert run.session.account.balanced
    assert any("unchanged" in line for line in explain_drops(summary))


@pytest.mark.parametrize("settings", [{"repeat_ms": 0}, {"repeat_ms": 60_000, "lossless": True}])
def test_nothing_is_repeated_where_it_is_off(settings: dict[str, object]) -> None:
    """By setting, and always in lossless replay."""
    run = Run(Script(20), payload=Still(), **settings)
    assert run.node.run().unchanged == 0


def test_rate_control_chooses_for_the_payload() -> None:
    """Each frame is encoded as it says, and the record names the operating point and its expected loss."""
    payload = Still()
    run = Run(Script(30), payload=payload)
    run.session.control = RateControl([RUNG], fps_max=1_000.0)
    summary = run.node.run()
    assert set(payload.choices) == {EncodeChoice(1)}
    assert summary.operating_points == {"standard": summary.answered}
    answer = next(record for record in run.records if record.answered)
    assert (answer.operating_point, answer.expected_loss_points) == ("standard", 8.3)


def test_an_answer_is_repeated_only_while_it_is_young_and_the_same() -> None:
    """Its age is bounded, the frame must hardly differ, and the answer must be known."""
    outcomes = outcomes_with_an_answer()
    assert outcomes.repeats(a_frame(1, 10.5), like(0)) == 0
    assert outcomes.repeats(a_frame(1, 11.1), like(0)) is None
    assert outcomes.repeats(a_frame(1, 10.5), like(0, changed_share=0.01)) is None
    assert outcomes.repeats(a_frame(1, 10.5), like(None)) is None
    assert outcomes.repeats(a_frame(1, 10.5), like(7)) is None


def test_other_tasks_make_old_answers_worthless() -> None:
    """They answer other questions."""
    outcomes = outcomes_with_an_answer()
    outcomes.tasks_changed()
    assert outcomes.repeats(a_frame(1, 10.5), like(0)) is None


def test_a_repeated_answer_says_how_old_it_is() -> None:
    """Age of the answered frame when this one was captured; labels, point and loss are the answer's."""
    outcomes = outcomes_with_an_answer()
    outcomes.captured(1, 10.25, None)
    outcomes.encoded(1, RUNG, like(0))
    record = outcomes.record(FrameUnchanged(1, 0))
    assert (record.state, record.reference, record.answer_age_ms) == (UNCHANGED, 0, 250.0)
    assert (record.operating_point, record.expected_loss_points) == ("standard", 8.3)
    assert record.tasks["imagenet1k"][0].label == "zebra"


@pytest.mark.parametrize(("decoded", "loss"), [(8, 8.3), (1, 60.0), (2, 30.0), (5, None)])
def test_fewer_layers_have_their_own_expected_loss(decoded: int, loss: float | None) -> None:
    """From the bundle's table, or unknown; never that of the whole frame."""
    outcomes = Outcomes(repeat_ms=0)
    outcomes.captured(0, 0.0, None)
    outcomes.encoded(0, RUNG, like(None))
    assert outcomes.record(answered(0, decoded_layers=decoded)).expected_loss_points == loss


def a_monitor() -> Monitor:
    clock = VirtualClock()
    monitor = Monitor(RunFacts(source="tour.mp4", operating_point="auto", link="lte"), clock=clock)
    monitor.choice = RateChoice(1, EncodeChoice(1), "standard", 8.3, 30.0, 12_345.0)
    for _ in range(3):
        monitor.captured()
    clock.advance(1.0)
    monitor.record(FrameRecord(
        frame=0, state=ANSWERED, payload_bytes=1_000, wire_bytes=1_030, alone_bytes=4_000, layers=8, decoded_layers=6,
        operating_point="standard", expected_loss_points=8.3, capture_to_result_ms=100.0,
    ))  # fmt: skip
    monitor.record(FrameRecord(frame=1, state=UNCHANGED, alone_bytes=4_000))
    return monitor


def test_the_table_shows_rate_control_at_80_columns() -> None:
    """Point, expected loss, link, saving and repeated answers; no line runs over."""
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(render(a_monitor(), 80))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("rate standard", "loss 8.3 points", "(6/8)", "12,345 kbit/s", "saved 75%", "unchanged 1"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_line_without_a_terminal_shows_it_too() -> None:
    """The same in short."""
    line = headless_line(a_monitor())
    assert "standard (loss 8.3)" in line
    assert "unchanged 1" in line


def test_the_summary_counts_and_sums() -> None:
    """`unchanged` has its place in the law; what was saved is in bytes."""
    summary = json.loads(a_monitor().summary().to_json())
    assert (summary["captured"], summary["answered"], summary["unchanged"], summary["in_flight"]) == (3, 1, 1, 1)
    assert (summary["saved_bytes"], summary["expected_loss_points"], summary["link_kbps"]) == (7_000, 8.3, 12_345.0)
