"""The overhead benchmark's edge side: that what it times is what an edge does. Its times are not tested."""

from __future__ import annotations

from pathlib import Path

from benchmarks import overhead
from tests.bundles import random_bundle


def test_the_edge_is_measured_with_everything_on(tmp_path: Path) -> None:
    figures = overhead.edge_side(random_bundle(tmp_path / "bundle", backbones=(), tasks=()), 5)
    assert figures["frame_us"] > figures["watch_us"] > 0
    assert figures.keys() >= {"on_over_off", "watch_percent", "core_percent_at_30_fps"}


def test_a_stopwatch_deducts_itself() -> None:
    watch = overhead.Stopwatch()
    for _ in range(20):
        watch(lambda: None)
        watch.next_round()
    assert watch.mean_us < 50
