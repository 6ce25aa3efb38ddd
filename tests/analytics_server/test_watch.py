"""Rates, stages, sessions and tasks of the last seconds, on a virtual clock."""

from __future__ import annotations

import pytest

from analytics_server.watch import WINDOW_S, Rates, Watch
from pipeline import limits


class Time:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def stream(watch: Watch, time: Time, *, seconds: int, fps: int, session: str = "a") -> None:
    for number in range(seconds * fps):
        time.now = 1000.0 + number / fps
        watch.received(session, 1000)
        watch.answered(session, (0.001, 0.002, 0.003, 0.004, 0.0), [("food101", "lite0")])
    time.now = 1000.0 + seconds


def test_sums_cover_whole_seconds_of_the_window() -> None:
    """A second that has just begun does not pull rates down, and old ones are forgotten."""
    rates = Rates(1)
    for second in range(30):
        rates.slot(float(second))[0] += 2.0
    assert rates.sums(29.5) == [2.0 * WINDOW_S]
    assert rates.sums(29.0 + WINDOW_S) == [2.0]
    assert rates.sums(100.0) == [0.0]


def test_rates_and_percentiles_of_a_stream() -> None:
    time = Time()
    watch = Watch(time)
    stream(watch, time, seconds=20, fps=30)
    frames = watch.frames()
    assert frames["received_fps"] == pytest.approx(30.0)
    assert frames["payload_kbps"] == pytest.approx(240.0)
    assert frames["stages_ms"]["queue"] == {"p50": 2.0, "p95": 2.0, "p99": 2.0}
    assert frames["answer_ms"]["p50"] == pytest.approx(10.0)
    assert watch.session("a")["fps"] == pytest.approx(30.0)
    assert watch.task_fps("food101", "lite0") == pytest.approx(30.0, rel=0.05)


def test_rates_are_right_from_the_first_seconds() -> None:
    time = Time()
    watch = Watch(time)
    stream(watch, time, seconds=3, fps=10)
    assert watch.frames()["answered_fps"] == pytest.approx(10.0)


def test_drops_are_told_by_cause_and_forgotten() -> None:
    time = Time()
    watch = Watch(time)
    for _ in range(5):
        watch.dropped("a", "shed")
    time.now += 1.0
    assert watch.frames()["dropped"] == {"shed": 5}
    time.now += WINDOW_S + 1
    assert watch.frames()["dropped"] == {}
    assert watch.frames()["answer_ms"] is None


def test_an_engine_is_busy_for_a_share_of_the_time() -> None:
    """Four batches of 5 frames that take 0.2 s each, in 2 s: 40 % busy, 40 ms a frame."""
    time = Time()
    watch = Watch(time)
    for number in range(4):
        time.now = 1000.0 + number / 2
        watch.batch("lite0", 5, 0.2, 0.05)
    time.now = 1002.0
    engine = watch.engine("lite0")
    assert engine["busy"] == pytest.approx(0.4)
    assert engine["batch_mean"] == pytest.approx(5.0)
    assert engine["frame_ms"] == pytest.approx(40.0)
    assert engine["heads_ms"] == pytest.approx(10.0)


def test_memory_does_not_grow_with_sessions() -> None:
    """Frames that end after their session was forgotten make an entry; there are never more than sessions allowed."""
    watch = Watch(Time())
    for number in range(limits.SESSIONS_MAX + 10):
        watch.dropped(str(number), "stopped")
    assert len(watch._sessions) == limits.SESSIONS_MAX
    watch.forget(str(limits.SESSIONS_MAX))
    assert len(watch._sessions) == limits.SESSIONS_MAX - 1
