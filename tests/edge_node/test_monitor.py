"""Counts, percentiles and labels of a run, and the words for its drops."""

from __future__ import annotations

import json

import pytest

from edge_node.drops import CAUSES, explain_drops
from edge_node.monitor import FRAMES_KEPT, Monitor
from edge_node.records import ANSWERED, FrameRecord, LabelScore
from edge_node.summary import RunFacts
from pipeline import accounting
from pipeline.clock import VirtualClock

ISSUE_KEYS = {
    "captured", "answered", "dropped", "stages", "capture_to_result_ms", "payload_bytes_mean", "wire_bytes_mean",
    "kbps", "bits_per_pixel", "tasks", "backbone", "bundle_id", "source", "fps",
}  # fmt: skip


def answer(
    frame: int, *, ms: float = 10.0, label: str = "zebra", score: float = 0.5, payload: int = 1000
) -> FrameRecord:
    return FrameRecord(
        frame=frame,
        state=ANSWERED,
        tasks={"imagenet1k": [LabelScore(label, score)]},
        stages_ms={"capture": ms / 4, "analysis": ms * 3 / 4},
        capture_to_result_ms=ms,
        payload_bytes=payload,
        wire_bytes=payload + 50,
    )


def monitor_of(*records: FrameRecord, seconds: float = 1.0, captured: int | None = None) -> Monitor:
    """A monitor that saw `records` within `seconds`."""
    clock = VirtualClock()
    monitor = Monitor(RunFacts(source="clip.mp4", backbone="lite0", bundle_id="b" * 8), clock=clock)
    for _ in range(len(records) if captured is None else captured):
        monitor.captured()
    clock.advance(seconds)
    for record in records:
        monitor.record(record)
    monitor.ended()
    return monitor


def test_summary_has_the_promised_keys() -> None:
    """`--summary FILE` is a contract."""
    summary = json.loads(monitor_of(answer(0)).summary().to_json())
    assert summary.keys() >= ISSUE_KEYS
    assert summary["stages"]["capture"].keys() == {"p50_ms", "p95_ms", "p99_ms"}
    assert summary["capture_to_result_ms"].keys() == {"p50", "p95", "p99"}
    assert summary["tasks"]["imagenet1k"].keys() >= {"label", "score"}


def test_every_captured_frame_is_in_one_count() -> None:
    """captured = answered + dropped + in flight."""
    dropped = FrameRecord(frame=1, state="superseded")
    summary = monitor_of(answer(0), dropped, answer(2), captured=5).summary()
    assert (summary.captured, summary.answered, summary.dropped, summary.in_flight) == (5, 2, {"superseded": 1}, 2)


def test_percentiles_are_those_of_the_answered_frames() -> None:
    """1 to 100 ms."""
    summary = monitor_of(*(answer(number, ms=number + 1.0) for number in range(100))).summary()
    assert summary.capture_to_result_ms is not None
    assert summary.capture_to_result_ms.p50 == pytest.approx(50.5)
    assert summary.capture_to_result_ms.p99 == pytest.approx(99.01)
    assert summary.stages["analysis"].p50_ms == pytest.approx(50.5 * 3 / 4)
    assert "uplink" not in summary.stages


def test_rates_are_over_the_runs_time() -> None:
    """Wire bytes for kbit/s, payload bits over the encoder's pixels, answers a second."""
    summary = monitor_of(*(answer(number, payload=950) for number in range(20)), seconds=2.0).summary()
    assert summary.kbps == pytest.approx(20 * 1000 * 8 / 1000 / 2)
    assert summary.bits_per_pixel == pytest.approx(950 * 8 / (224 * 224))
    assert summary.fps == pytest.approx(10)
    assert (summary.payload_bytes_mean, summary.wire_bytes_mean) == (950, 1000)


def test_the_label_of_a_task_is_the_one_most_often_on_top() -> None:
    """With its mean score when it was, and its share."""
    records = [answer(0, score=0.4), answer(1, score=0.6), answer(2, label="horse", score=1.0), answer(3, score=0.5)]
    top = monitor_of(*records).summary().tasks["imagenet1k"]
    assert (top.label, top.share) == ("zebra", 0.75)
    assert top.score == pytest.approx(0.5)


def test_an_empty_run_has_a_summary() -> None:
    """Nothing captured: zeros, and no division by them."""
    summary = Monitor(clock=VirtualClock()).summary()
    assert (summary.captured, summary.kbps, summary.fps, summary.capture_to_result_ms) == (0, 0.0, 0.0, None)
    assert json.loads(summary.to_json())["tasks"] == {}
    assert explain_drops(summary) == ["No frame was captured."]


def test_memory_does_not_grow_with_time() -> None:
    """Percentiles are over the last FRAMES_KEPT frames; counts are over all."""
    clock = VirtualClock()
    monitor = Monitor(clock=clock)
    for number in range(FRAMES_KEPT + 500):
        monitor.captured()
        monitor.record(answer(number, ms=1000.0 if number < 500 else 1.0))
    summary = monitor.summary()
    assert summary.answered == FRAMES_KEPT + 500
    assert summary.capture_to_result_ms is not None
    assert summary.capture_to_result_ms.p99 == 1.0
    assert len(monitor._rows) <= 256


def test_present_is_measured_where_something_was_drawn() -> None:
    """It comes after the result, so it is no part of capture-to-result."""
    monitor = monitor_of(answer(0), answer(1))
    monitor.presented(1, 7.0)
    monitor.presented(99, 7.0)  # unknown: nothing happens
    assert monitor.summary().stages["present"].p50_ms == 7.0


def test_rolling_figures_forget() -> None:
    """Only the last two seconds count."""
    clock = VirtualClock()
    monitor = Monitor(clock=clock)
    monitor.captured()
    monitor.record(answer(0, ms=500.0))
    clock.advance(10.0)
    assert monitor.rolling().answered_fps == 0.0
    monitor.captured()
    monitor.record(answer(1, ms=20.0, payload=950))
    assert monitor.rolling().capture_to_result_ms == 20.0
    assert monitor.rolling().kbps == pytest.approx(1000 * 8 / 1000 / 2.0)


def test_the_newest_answer_stays_the_newest() -> None:
    """Results may come out of order."""
    monitor = monitor_of(answer(5), answer(3))
    assert monitor.last is not None
    assert monitor.last.frame == 5


def test_every_cause_has_words_and_a_setting() -> None:
    """So that no drop is unexplained."""
    assert set(accounting.CAUSES) == CAUSES.keys()


def test_drops_are_explained_most_frequent_first() -> None:
    """How many, what share, why, and what changes it."""
    drops = [FrameRecord(frame=number, state="superseded") for number in range(3)] + [
        FrameRecord(frame=3, state="lost")
    ]
    lines = explain_drops(monitor_of(*drops, answer(4)).summary())
    assert lines[0].startswith("3 frames (60 %) superseded: a newer frame was there")
    assert "--quality" in lines[0]
    assert lines[1].startswith("1 frame (20 %) lost: ")


def test_no_drops_are_said_too() -> None:
    """A good run says so."""
    assert explain_drops(monitor_of(answer(0)).summary()) == ["No frame was dropped: all 1 have their answer."]
