"""What the operator's page is told of many sessions, what each last recognised, and what that costs."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from analytics_server.figures import server_figures
from analytics_server.metrics import ServerMetrics
from analytics_server.watch import RECOGNISED_TASKS_MAX, Watch
from analytics_server.watch_routes import figures_text
from pipeline import limits
from pipeline.wire.messages import TaskInfo
from pipeline.wire.states import OPEN

SESSIONS = 50
TASKS = ("imagenet1k", "food101", "cifar100", "flowers102")
CORE_SHARE_MAX = 0.05


class Time:
    """A clock that stands where it is put."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def handle(number: int) -> Any:
    """A session as its transport hands it out, without one."""
    session = SimpleNamespace(
        client=f"camera {number}", state=OPEN, backbone="lite0", lossless=False,
        tasks=tuple(TaskInfo(name, "lite0", 100, 1, name) for name in TASKS),
        account=SimpleNamespace(entered=600, answered=590, dropped={"deadline": 10}, in_flight={}, duplicates=0),
        credit=SimpleNamespace(window=4), clock=SimpleNamespace(error_s=0.001, one_way_s=0.002),
    )  # fmt: skip
    return SimpleNamespace(id=f"s{number}", session=session, peer=SimpleNamespace(transport="ws", address="10.0.0.1"))


def streamed(metrics: ServerMetrics, clock: Time, *, seconds: int, fps: int) -> None:
    recognised = [(task, f"a label of {task}", 0.75) for task in TASKS]
    for tick in range(seconds * fps):
        clock.now = 1000.0 + tick / fps
        for number in range(SESSIONS):
            metrics.watch.received(f"s{number}", 4_000)
            tasks = [(task, "lite0") for task in TASKS]
            metrics.watch.answered(f"s{number}", (0.001, 0.002, 0.003, 0.004, 0.001), tasks, recognised)
    clock.now = 1000.0 + seconds


def test_fifty_sessions_cost_less_than_a_twentieth_of_a_core() -> None:
    """Figures are made once a second, for all who listen; processor time, so that other programs do not count."""
    clock = Time()
    metrics = ServerMetrics(clock=clock)
    streamed(metrics, clock, seconds=5, fps=30)
    handles = [handle(number) for number in range(SESSIONS)]
    watched: Any = SimpleNamespace(figures=lambda: server_figures(metrics, handles, {}, {"state": "ready"}))
    taken = []
    for _ in range(5):
        started = time.thread_time()
        text = figures_text(watched)
        taken.append(time.thread_time() - started)
    figures = json.loads(text.split(b"data: ", 1)[1])
    assert len(figures["sessions"]) == SESSIONS
    assert figures["sessions"][0]["recognised"][1] == {
        "task": "food101", "label": "a label of food101", "score": 0.75, "age_s": pytest.approx(1 / 30, abs=1e-3),
    }  # fmt: skip
    assert min(taken) < CORE_SHARE_MAX


def test_the_newest_label_of_each_task_with_its_age() -> None:
    """A task without an answer keeps its last label, which grows old; tasks it no longer asks for are left out."""
    clock = Time()
    watch = Watch(clock)
    watch.answered("a", (0.0,) * 5, [], [("birds", "wren", 0.91234), ("food101", "pizza", 0.5)])
    clock.now += 2.0
    watch.answered("a", (0.0,) * 5, [], [("birds", "鳥", 0.6)])
    clock.now += 0.5
    assert watch.recognised("a", ["birds", "food101", "other"]) == [
        {"task": "birds", "label": "鳥", "score": 0.6, "age_s": 0.5},
        {"task": "food101", "label": "pizza", "score": 0.5, "age_s": 2.5},
    ]
    assert [row["task"] for row in watch.recognised("a", ["food101"])] == ["food101"]
    assert watch.recognised("b", ["birds"]) == []
    watch.forget("a")
    assert watch.recognised("a", ["birds"]) == []


def test_what_is_remembered_is_bounded() -> None:
    """An edge that asks for other tasks all the time, and thousands of sessions."""
    clock = Time()
    watch = Watch(clock)
    for number in range(1_000):
        clock.now += 0.01
        watch.answered("a", (0.0,) * 5, [], [(f"task {number}", "x", 0.5)])
    assert len(watch._sessions["a"].recognised) == limits.TASKS_PER_SESSION_MAX
    names = [f"task {number}" for number in range(950, 1_000)]
    assert len(watch.recognised("a", names)) == RECOGNISED_TASKS_MAX
    for number in range(limits.SESSIONS_MAX + 100):
        watch.answered(f"s{number}", (0.0,) * 5, [], [("birds", "wren", 0.5)])
    assert len(watch._sessions) <= limits.SESSIONS_MAX
