"""Backing off: how long an edge waits before it tries again."""

from __future__ import annotations

from random import Random

import pytest

from pipeline import limits
from pipeline.transports.backoff import Backoff


def test_waits_double_up_to_a_limit_until_they_are_forgotten() -> None:
    """Each within ± 20 %."""
    backoff = Backoff(Random(0))
    assert backoff.retry_at < 0
    for expected_ms in (50, 100, 200, 400, 800, 1000, 1000):
        backoff.failed(7.0)
        assert backoff.retry_at - 7.0 == pytest.approx(expected_ms / 1000, rel=0.2)
    backoff.forget()
    backoff.failed(9.0)
    assert backoff.retry_at - 9.0 == pytest.approx(limits.RECONNECT_MS_MIN / 1000, rel=0.2)


def test_edges_do_not_come_in_step() -> None:
    waits = set()
    for seed in range(20):
        backoff = Backoff(Random(seed))
        backoff.failed(0.0)
        waits.add(backoff.retry_at)
    assert len(waits) == 20
