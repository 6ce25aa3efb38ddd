"""Bytes at a given loss, read off measured curves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rate_reach import bytes_at, reach

sizes = st.floats(1, 1e6)
losses = st.floats(-5, 100)


def test_between_settings_loss_is_linear_over_log_bytes() -> None:
    """Half way down from 4 to 2 points lies at the geometric mean of the bytes."""
    assert bytes_at([(1000, 4), (4000, 2)], 3) == pytest.approx(2000)


def test_never_reached_and_always_reached() -> None:
    """Nothing is guessed beyond the curve: None, or the fewest bytes that were tried."""
    assert bytes_at([(1000, 4), (4000, 2)], 1) is None
    assert bytes_at([(1000, 4), (4000, 2)], 5) == 1000
    assert bytes_at([], 5) is None


def test_a_setting_that_does_worse_than_a_smaller_one_is_noise() -> None:
    """2,000 bytes lose more than 1,000: the curve stays level there."""
    assert bytes_at([(4000, 1), (1000, 3), (2000, 3.5)], 2) == pytest.approx((2000 * 4000) ** 0.5)


@given(st.lists(st.tuples(sizes, losses), max_size=8), losses, losses)
def test_more_loss_allowed_never_takes_more_bytes(curve: list[tuple[float, float]], one: float, other: float) -> None:
    """Monotone in the loss, and within the curve's bytes."""
    strict, lax = (bytes_at(curve, loss) for loss in sorted((one, other)))
    if strict is not None:
        assert lax is not None
        assert lax <= strict * (1 + 1e-9)
        assert strict <= max(size for size, _ in curve) * (1 + 1e-9)


def test_rows_name_codec_and_loss() -> None:
    """One row for each codec and loss; points without labels have none."""
    points = [
        {"codec": "jpeg", "bytes_mean": 1000.0, "loss_points": 4.0},
        {"codec": "jpeg", "bytes_mean": 4000.0, "loss_points": 2.0},
        {"codec": "webp", "bytes_mean": 900.0, "loss_points": None},
    ]
    assert reach(points, (1.0, 3.0)) == [
        {"codec": "jpeg", "loss_points": 1.0, "bytes": None},
        {"codec": "jpeg", "loss_points": 3.0, "bytes": 2000},
    ]
