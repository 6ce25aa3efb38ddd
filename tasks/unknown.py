"""The answer "unknown": for what fits no class, told by the distance to the class means.

A softmax always names one of its classes, however strange the picture. The gate looks at the features instead: the
angle between a frame's feature and the nearest class mean, both scaled as for a probe and seen from *half* the mean of
all training features. Beyond a threshold that 95 % of held-out training pictures pass, the answer is `unknown`; each
class counts the same there, so that a small loose one is not sacrificed to large tight ones.

From half the mean, because from zero the classes of one family lie in nearly one direction, and seen from the mean
itself what is wholly different may lie in any. Area under the ROC curve, lite0, 10 classes known, the others of the
same data set / pictures of another data set to be told apart (docs/decisions/0010-unknown.md has the rest):

                             Flowers-102     Food-101        CIFAR-100
    cosine, from zero        0.81 / 1.00     0.68 / 1.00     0.86 / 1.00
    cosine, from half mean   0.85 / 1.00     0.73 / 1.00     0.87 / 1.00
    cosine, from the mean    0.83 / 1.00     0.74 / 0.92     0.87 / 0.99
    Mahalanobis, shrunk      0.69 / 1.00     0.61 / 0.98     0.79 / 1.00
    nearest picture, cosine  0.80 / 1.00     0.63 / 1.00     0.82 / 1.00

Axes: B frames, M examples, D pooled features, N classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.probe import Float32, Labels, Scaling, fold_rows

UNKNOWN = "unknown"
"""The label of what fits no class."""
PASS_SHARE = 0.95
"""Share of held-out training examples that the threshold lets pass."""
EXAMPLES_MIN = 8
"""Held-out examples that a threshold is taken from at least; with fewer there is no gate."""
_CENTRE = 0.5
_FOLDS = 4
_SOFTNESS_MIN = 1e-3


@dataclass(frozen=True, eq=False)
class UnknownGate:
    """Class means on the unit sphere (N, D), what is subtracted (D,) and divided by (D,), and the threshold.

    `softness`: how far beyond the threshold the share of `unknown` has risen from a half to 73 %.
    """

    centre: Float32
    spread: Float32
    means: Float32
    threshold: float
    softness: float

    def distances(self, pooled_BD: Float32) -> Float32:
        """1 - cosine to the nearest class mean, (B,): 0 is a class mean itself, 1 at right angles to all."""
        nearest: Float32 = 1 - (self._directions(pooled_BD) @ self.means.T).max(axis=1)
        return nearest

    def widen(self, logits_BN: Float32, pooled_BD: Float32) -> Float32:
        """Logits (B, N + 1), the last one for `unknown`: it is the highest exactly beyond the threshold."""
        beyond = (self.distances(pooled_BD) - self.threshold) / self.softness
        highest = logits_BN.max(axis=1)
        together = highest + np.log(np.exp(logits_BN - highest[:, None]).sum(axis=1))
        # Beyond, its share is the logistic of the distance; within, it stays below the best class.
        unknown = np.where(beyond > 0, together + np.minimum(beyond, 30), np.minimum(together + beyond, highest - 1e-3))
        widened: Float32 = np.concatenate([logits_BN, unknown[:, None]], axis=1).astype(np.float32)
        return widened

    def _directions(self, pooled_BD: Float32) -> Float32:
        return unit((pooled_BD - self.centre) / self.spread)


def fit_gate(
    features_MD: Float32,
    labels_M: Labels,
    *,
    classes: int,
    groups_M: Sequence[int] | Labels | None = None,
    pass_share: float = PASS_SHARE,
) -> UnknownGate | None:
    """A gate for these examples, its threshold from distances of examples to means that were made without them.

    None where there are too few to tell: fewer than EXAMPLES_MIN examples of classes that have two or more groups.
    """
    labels = np.asarray(labels_M, np.int64)
    distances, owners = [], []
    for learn, held in fold_rows(labels, _FOLDS, groups_M=groups_M):
        without = _gate(features_MD[learn], labels[learn], classes, 0.0, 1.0)
        distances.append(without.distances(features_MD[held]))
        owners.append(labels[held])
    held_out = np.concatenate(owners)
    if len(held_out) < EXAMPLES_MIN:
        return None
    shares = 1 / np.bincount(held_out)[held_out]
    threshold, middle = _quantiles(np.concatenate(distances), shares, [pass_share, 0.5])
    softness = max((threshold - middle) / 3, _SOFTNESS_MIN)
    return _gate(features_MD, labels, classes, threshold, softness)


def unit(rows_BD: Float32) -> Float32:
    """Each row at length 1; rows of zeros stay."""
    lengths = np.linalg.norm(rows_BD, axis=-1, keepdims=True)
    scaled: Float32 = (rows_BD / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def class_means(features_MD: Float32, labels_M: Labels, classes: int) -> Float32:
    """Mean feature of each class (N, D), float32; zeros for a class without examples."""
    sums = np.zeros((classes, features_MD.shape[1]), np.float64)
    np.add.at(sums, labels_M, features_MD)
    counts = np.bincount(labels_M, minlength=classes)
    means: Float32 = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    return means


def _quantiles(values: Float32, shares: NDArray[np.float64], wanted: Sequence[float]) -> list[float]:
    """Quantiles where each value counts for its share: each stands in the middle of it."""
    order = np.argsort(values)
    ends = np.cumsum(shares[order])
    return [float(one) for one in np.interp(wanted, (ends - shares[order] / 2) / ends[-1], values[order])]


def _gate(features_MD: Float32, labels_M: Labels, classes: int, threshold: float, softness: float) -> UnknownGate:
    scaling = Scaling.of(features_MD)
    centre = (_CENTRE * scaling.mean_D).astype(np.float32)
    directions = unit((features_MD - centre) / scaling.spread_D)
    means = unit(class_means(directions, labels_M, classes))
    return UnknownGate(centre, scaling.spread_D.astype(np.float32), means, threshold, softness)
