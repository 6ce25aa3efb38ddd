"""First runs before the server is ready."""

from __future__ import annotations

import numpy as np
import pytest

from analytics_server.batcher import Batcher
from analytics_server.warm_up import warm_up
from analytics_server.work import FrameWork
from pipeline.clock import VirtualClock
from pipeline.runtime.engine import Features, Float32, NullEngine
from tasks import HeadStack, TaskHead


class ClockedEngine(NullEngine):
    """Takes `seconds` of virtual time for each frame, ten times that in its first run of a size."""

    def __init__(self, clock: VirtualClock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.seen: set[int] = set()

    def from_latents(self, latents_BCHW: Float32) -> Features:
        size = len(latents_BCHW)
        self.clock.advance(self.seconds * size * (1 if size in self.seen else 10))
        self.seen.add(size)
        return super().from_latents(latents_BCHW)


@pytest.fixture
def heads() -> HeadStack:
    head = TaskHead("food", "null", np.ones((2, 8), np.float32), np.zeros(2, np.float32), ("a", "b"))
    return HeadStack([head], backbone="null", feature_width=8)


def test_the_first_run_is_no_measure(heads: HeadStack) -> None:
    """The batcher learns what later runs cost, for every size."""
    clock = VirtualClock()
    batcher: Batcher[FrameWork] = Batcher(batch_size_max=4)
    warm_up(ClockedEngine(clock, 0.001), heads, batcher, (1, 2, 2), clock)
    assert [batcher.cost.p95_s(size) for size in (1, 2, 4)] == pytest.approx([0.001, 0.002, 0.004])


def test_slow_engines_are_warmed_up_quickly(heads: HeadStack) -> None:
    """Where a frame takes a second, a batch of sixteen is not tried before the server is ready."""
    clock = VirtualClock()
    batcher: Batcher[FrameWork] = Batcher(batch_size_max=16)
    engine = ClockedEngine(clock, 1.0)
    warm_up(engine, heads, batcher, (1, 2, 2), clock)
    assert engine.seen == {1}
    assert batcher.cost.p95_s(8) == pytest.approx(8.0)
