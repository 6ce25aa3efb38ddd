"""Figures with their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputError
from tasks.evaluate import accuracy, agreement, divergence, loss_points, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [
        (0, 10, (0.0, 0.0, 27.75)),
        (10, 10, (100.0, 72.25, 100.0)),
        (5, 10, (50.0, 23.66, 76.34)),
        (90, 100, (90.0, 82.56, 94.48)),
    ],
)
def test_wilson(successes: int, trials: int, expected: tuple[float, float, float]) -> None:
    """Against published values of the score interval."""
    estimate = wilson(successes, trials)
    assert expected == pytest.approx((estimate.value, estimate.low, estimate.high), abs=0.01)


def test_accuracy() -> None:
    assert accuracy([True, True, False, True]).value == 75.0


def test_loss_is_paired() -> None:
    """Same accuracy, same pictures: no loss and little doubt; different pictures: no loss but doubt."""
    flags = np.arange(100) < 90
    same = loss_points(flags, flags)
    assert (same.value, same.low, same.high) == pytest.approx((0.0, -2.72, 2.72), abs=0.01)
    other = loss_points(flags, flags[::-1])
    assert other.value == 0.0
    assert other.low < -3 < 3 < other.high


def test_loss_interval_has_the_width_that_theory_gives() -> None:
    """10 of 1,000 lost and none won: standard deviation √(0.01 · 0.99 / 1000) = 0.315 points."""
    reference = np.ones(1000, bool)
    loss = loss_points(reference, np.arange(1000) >= 10)
    assert pytest.approx(loss.value) == 1.0
    assert pytest.approx(loss.high - loss.low, rel=0.15) == 0.315 * 2 * 1.96


@pytest.mark.parametrize(
    ("lost", "pictures", "low", "high"), [(0, 20, -12.6, 12.6), (1, 20, -10.8, 19.9), (1, 1, -73.3, 100.0)]
)
def test_few_answers_leave_doubt(lost: int, pictures: int, low: float, high: float) -> None:
    """None of 20 lost says little, where a bootstrap would be certain."""
    loss = loss_points(np.ones(pictures, bool), np.arange(pictures) >= lost)
    assert (loss.value, loss.low, loss.high) == pytest.approx((100 * lost / pictures, low, high), abs=0.1)


def test_both_intervals_meet() -> None:
    """On either side of the number of pictures from which a bootstrap is taken."""
    few, many = (loss_points(np.arange(n) % 7 > 0, np.arange(n) % 5 > 0) for n in (280, 315))
    assert (few.low, few.high) == (pytest.approx(many.low, abs=0.8), pytest.approx(many.high, abs=0.8))


def test_agreement_and_divergence() -> None:
    """Equal logits agree and do not diverge; a shift of all logits changes nothing; known KL of two coins."""
    logits = np.array([[2.0, 1.0], [0.0, 3.0]])
    assert agreement(logits, logits + 5).value == 100.0
    assert pytest.approx(divergence(logits, logits + 5)) == 0.0
    assert agreement(logits, np.array([[2.0, 1.0], [3.0, 0.0]])).value == 50.0
    fair, biased = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    assert 0.5 * np.log(2) + 0.5 * np.log(2 / 3) == pytest.approx(divergence(fair, biased))


@pytest.mark.parametrize("flags", [[], [[True]]])
def test_nothing_to_measure(flags: list[object]) -> None:
    with pytest.raises(InputError, match="expected one flag"):
        accuracy(flags)


def test_different_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="compare the same pictures"):
        loss_points([True], [True, False])
