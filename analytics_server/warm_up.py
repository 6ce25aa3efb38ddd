"""First runs of an engine, before it is ready: they are slow, and the batcher must know what later ones cost."""

from __future__ import annotations

import numpy as np

from analytics_server.batcher import Batcher
from analytics_server.work import FrameWork
from pipeline.clock import Clock
from pipeline.runtime.engine import Engine
from tasks import HeadStack

_ROUNDS = 3
_SECONDS_MAX = 1.0


def warm_up(
    engine: Engine, heads: HeadStack, batcher: Batcher[FrameWork], latent_CHW: tuple[int, int, int], clock: Clock
) -> None:
    """Run batches of 1, 2, 4, … up to the batcher's largest and record their cost. Raises EngineError.

    Stops early where a round of a size takes long: larger sizes are then scaled from the smaller ones.
    """
    ends_at = clock() + _SECONDS_MAX
    size = 1
    while size <= batcher.batch_size_max and clock() + _ROUNDS * batcher.cost.p95_s(size) < ends_at:
        latents = np.zeros((size, *latent_CHW), np.float32)
        for round_number in range(_ROUNDS):
            started = clock()
            features = engine.from_latents(latents)
            heads.top(features.pooled_BD, feature_BFhw=features.feature_BFhw)
            if round_number:  # the first one allocates, and is no measure of the others
                batcher.cost.record(size, clock() - started)
        size *= 2
