"""The population stability index of live frames against a reference, forgetting slowly."""

from __future__ import annotations

import pytest

from analytics_server.drift import FRAMES_MIN, WINDOW_FRAMES, DriftMeter, LiveDistribution
from pipeline.bundle import Distribution, ReferenceFigures

HALVES = Distribution(edges=[10.0], shares=[0.5, 0.5])


def test_no_drift_where_shares_are_those_of_the_reference() -> None:
    live = LiveDistribution(HALVES)
    for number in range(1000):
        live.add(5.0 if number % 2 else 15.0)
    assert live.psi() == pytest.approx(0.0, abs=1e-4)


def test_a_value_on_an_edge_counts_below_it() -> None:
    """As the reference's shares do: up to and including each edge."""
    live = LiveDistribution(Distribution(edges=[10.0], shares=[1.0, 0.0]))
    for _ in range(200):
        live.add(10.0)
    assert live.psi() < 0.01


def test_what_was_long_ago_is_forgotten() -> None:
    """Ten windows later nothing is left of a night in which all was different."""
    live = LiveDistribution(HALVES)
    for _ in range(5_000):
        live.add(15.0)
    assert live.psi() > 1.0
    for number in range(10 * WINDOW_FRAMES):
        live.add(5.0 if number % 2 else 15.0)
    assert live.psi() < 0.01
    assert live.frames == pytest.approx(WINDOW_FRAMES, rel=0.02)


def test_nothing_is_said_of_few_frames() -> None:
    meter = DriftMeter(ReferenceFigures(photos="", count=1, payload_bytes={"standard": HALVES}))
    for _ in range(FRAMES_MIN - 1):
        meter.payload("standard", 5.0)
    assert list(meter.values()) == []
    meter.payload("standard", 5.0)
    assert [(one.signal, one.of) for one in meter.values()] == [("payload_bytes", "standard")]


def test_points_and_tasks_without_a_reference_are_left_out() -> None:
    """A user's head, or an operating point that was not measured."""
    meter = DriftMeter(ReferenceFigures(photos="", count=1))
    meter.payload("standard", 5.0)
    meter.confidence("birds", "null", 0.5)
    assert list(meter.values()) == []
