"""How fast an engine is here and now: the median milliseconds of a few batches of each size."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from pipeline.clock import Clock, monotonic
from pipeline.runtime.engine import Engine

BATCH_SIZES = (1, 8)
"""What `auto` compares: a lone frame and a full house."""
_WARM_UPS = 1
_RUNS = 7
_SECONDS_MAX = 1.0


def measure_engine(
    engine: Engine, latent_CHW: Sequence[int], *, sizes: Sequence[int] = BATCH_SIZES, clock: Clock = monotonic
) -> dict[str, float]:
    """Median milliseconds of `from_latents` by batch size; about a second for each size at most.

    A size whose run would take longer than that is not run but scaled from the one before. Raises EngineError if the
    engine fails.
    """
    measured: dict[str, float] = {}
    ms_a_frame = 0.0
    for size in sizes:
        expected_ms = ms_a_frame * size
        ms = expected_ms if expected_ms > _SECONDS_MAX * 1e3 else _median_ms(engine, (size, *latent_CHW), clock)
        measured[str(size)] = ms
        ms_a_frame = ms / size
    return measured


def cost_ms(measured: dict[str, float]) -> float:
    """One number to compare engines by: milliseconds a frame, geometric mean over the batch sizes."""
    return statistics.geometric_mean(ms / int(size) for size, ms in measured.items())


def _median_ms(engine: Engine, shape: Sequence[int], clock: Clock) -> float:
    batch = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    begin = clock()
    taken: list[float] = []
    for run in range(_WARM_UPS + _RUNS):
        started = clock()
        engine.from_latents(batch)
        ended = clock()
        if run >= _WARM_UPS or ended - begin > _SECONDS_MAX:
            taken.append((ended - started) * 1e3)
        if ended - begin > _SECONDS_MAX:
            break
    return statistics.median(taken)
