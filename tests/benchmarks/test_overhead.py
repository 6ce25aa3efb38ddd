"""The overhead benchmark's edge side: that what it times is what an edge does. Its times are not tested."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from benchmarks import overhead
from tests.bundles import random_bundle


def test_the_edge_is_measured_with_everything_on(tmp_path: Path) -> None:
    figures = overhead.edge_side(random_bundle(tmp_path / "bundle", backbones=(), tasks=()), 5)
    assert figures["frame_us"] > figures["watch_us"] > 0
    assert figures.keys() >= {"on_over_off", "watch_percent", "core_percent_at_30_fps"}


def test_a_stopwatch_deducts_itself() -> None:
    watch = overhead.Stopwatch()
    for _ in range(20):
        watch.blank()
        watch(lambda: None)
        watch.next_step()
    assert watch.mean_us < 50


def test_what_falls_on_one_step_of_many_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second in every third step is a third of a second a step, wherever in its round it falls."""
    now = 0.0
    monkeypatch.setattr(overhead.time, "thread_time", lambda: now)
    watch = overhead.Stopwatch(round_steps=3)

    def work(number: int) -> None:
        nonlocal now
        now += 1.0 if number % 3 == 1 else 0.0

    for number in range(12):
        watch(partial(work, number))
        watch.next_step()
    assert watch.mean_us == pytest.approx(1e6 / 3)
