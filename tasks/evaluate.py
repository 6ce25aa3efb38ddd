"""How good, and how sure: accuracy with its interval, loss against the unmodified backbone, agreement, divergence.

Losses are in points of top-1 *on the same pictures*; a bootstrap over pictures gives the interval, paired, because
the same pictures are hard for both. Of few pictures a bootstrap is far too sure (what none of 20 lost it never draws),
so an adjusted interval stands in (Bonett and Price 2012). Agreement and divergence need no labels and are far less
noisy than the loss.

Axes: M examples, N classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import InputError

_Z95 = 1.959963984540054
BOOTSTRAP_DRAWS = 10_000
BOOTSTRAP_PICTURES_MIN = 300
"""From which on a bootstrap is taken: what it never draws is then hardly a point."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def rounded(self, digits: int = 2) -> Estimate:
        """To so many decimals, for files and messages."""
        return Estimate(round(self.value, digits), round(self.low, digits), round(self.high, digits))

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def accuracy(correct_M: ArrayLike) -> Estimate:
    """Top-1 in percent with Wilson's interval, which is sound near 0 and 100 %. Raises InputError if empty."""
    correct = _flags(correct_M)
    return wilson(int(correct.sum()), len(correct))


def wilson(successes: int, trials: int) -> Estimate:
    """Share of successes in percent with Wilson's score interval."""
    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"{successes} of {trials}: expected 0 to all of at least one")
    share = successes / trials
    square = _Z95 * _Z95 / trials
    centre = (share + square / 2) / (1 + square)
    half = _Z95 * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    return Estimate(100 * share, 100 * max(0.0, centre - half), 100 * min(1.0, centre + half))


def loss_points(reference_correct_M: ArrayLike, correct_M: ArrayLike, *, seed: int = 0) -> Estimate:
    """Points of top-1 below the reference on the same pictures, with a paired interval; negative: better."""
    reference, correct = _flags(reference_correct_M), _flags(correct_M)
    if len(reference) != len(correct):
        raise InputError(f"{len(reference)} reference answers and {len(correct)} answers: compare the same pictures")
    difference = reference.astype(np.int64) - correct
    if len(difference) < BOOTSTRAP_PICTURES_MIN:
        low, high = _of_few(int((difference > 0).sum()), int((difference < 0).sum()), len(difference))
        return Estimate(100 * float(difference.mean()), low, high)
    # Only how often each of -1, 0, +1 is drawn matters, and that is multinomial: exact, and no table of draws ×
    # pictures.
    shares = np.array([(difference == step).mean() for step in (-1, 0, 1)])
    counts = np.random.default_rng(seed).multinomial(len(difference), shares, size=BOOTSTRAP_DRAWS)
    low, high = np.percentile(100 * (counts[:, 2] - counts[:, 0]) / len(difference), [2.5, 97.5])
    return Estimate(100 * float(difference.mean()), float(low), float(high))


def _of_few(lost: int, won: int, pictures: int) -> tuple[float, float]:
    """95 % interval in points: as if one more picture had been lost and one more won."""
    shares = (lost + 1) / (pictures + 2), (won + 1) / (pictures + 2)
    middle = shares[0] - shares[1]
    half = _Z95 * math.sqrt((sum(shares) - middle**2) / (pictures + 2))
    return 100 * max(-1.0, middle - half), 100 * min(1.0, middle + half)


def agreement(reference_logits_MN: NDArray[np.floating], logits_MN: NDArray[np.floating]) -> Estimate:
    """Percent of pictures on which both have the same top-1."""
    return accuracy(reference_logits_MN.argmax(axis=1) == logits_MN.argmax(axis=1))


def divergence(reference_logits_MN: NDArray[np.floating], logits_MN: NDArray[np.floating]) -> float:
    """Mean KL(reference ‖ other) of the softmax distributions, in nats."""
    reference, other = _log_softmax(reference_logits_MN), _log_softmax(logits_MN)
    return float((np.exp(reference) * (reference - other)).sum(axis=1).mean())


def _log_softmax(logits_MN: NDArray[np.floating]) -> NDArray[np.float64]:
    shifted = np.asarray(logits_MN, np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _flags(values: ArrayLike) -> NDArray[np.bool_]:
    flags = np.asarray(values, bool)
    if flags.ndim != 1 or len(flags) == 0:
        raise InputError(f"answers have shape {flags.shape}, expected one flag for each of at least one picture")
    return flags
