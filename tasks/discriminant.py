"""A linear head in one step: the linear discriminant, for more classes and pictures than a probe is worth.

A probe walks over all examples some hundred times for each penalty, and its weights with all their optimiser's copies
must fit in memory: fine for 100 classes, hours and gigabytes for 10,000. The discriminant solves one system of
features × features, whatever the number of classes, and is as accurate within a point where both were measured
(docs/decisions/0005-task-heads.md). Shrinkage and sharpness are chosen on held-out examples.

Axes: M examples, D features, N classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tasks.probe import Float32, Labels, Probe, Scaling, fold_rows, log_losses
from tasks.unknown import class_means

SHRINKAGES = (0.1, 0.3, 0.6, 0.9)
"""How much of the covariance is replaced by a multiple of the identity."""
_SHRINKAGE_DEFAULT = 0.6
_SHARPNESSES = tuple(float(f"{2.0**exponent:.3g}") for exponent in range(-8, 2, 2))
_HELD_OUT_LOGITS_MAX = 2_000_000
"""Held-out examples × classes that a choice is made on."""
_FOLDS = 4


def fit_discriminant(
    features_MD: Float32,
    labels_M: Sequence[int] | Labels,
    *,
    classes: int,
    groups_M: Sequence[int] | Labels | None = None,
    shrinkages: Sequence[float] = SHRINKAGES,
    on_step: Callable[[int, int], None] | None = None,
) -> Probe:
    """A head; its `penalty` is the shrinkage that was chosen, `log_loss` the held-out loss of those that were tried."""
    features = np.ascontiguousarray(features_MD, np.float32)
    labels = np.asarray(labels_M, np.int64)
    say = on_step or (lambda done, total: None)
    learn, held = next(fold_rows(labels, _FOLDS, groups_M=groups_M))
    known = np.zeros(classes, bool)
    known[labels[learn]] = True
    held &= known[labels]
    tested = np.flatnonzero(held)
    tested = np.random.default_rng(0).permutation(tested)[: max(100, _HELD_OUT_LOGITS_MAX // classes)]
    losses: dict[float, float] = {}
    sharpness = {_SHRINKAGE_DEFAULT: 0.05}
    for step, shrinkage in enumerate(shrinkages if len(tested) else ()):
        weight, bias = _solve(features[learn], labels[learn], classes, shrinkage)
        logits = features[tested] @ weight.T + bias
        tried = {sharp: float(log_losses(sharp * logits, labels[tested]).mean()) for sharp in _SHARPNESSES}
        sharpness[shrinkage] = min(tried, key=lambda sharp: tried[sharp])
        losses[shrinkage] = tried[sharpness[shrinkage]]
        say(step + 1, len(shrinkages) + 1)
    best = min(losses, key=lambda shrinkage: losses[shrinkage]) if losses else _SHRINKAGE_DEFAULT
    weight, bias = _solve(features, labels, classes, best)
    say(len(shrinkages) + 1, len(shrinkages) + 1)
    return Probe(weight * np.float32(sharpness[best]), bias * np.float32(sharpness[best]), best, losses)


def _solve(features: Float32, labels: Labels, classes: int, shrinkage: float) -> tuple[Float32, Float32]:
    scaling = Scaling.of(features)
    scaled = scaling(features)
    means = class_means(scaled, labels, classes)
    within = scaled - means[labels]
    # One example a class leaves nothing within the classes: then the spread of all stands in.
    if float(np.abs(within).max(initial=0.0)) < 1e-6:
        within = scaled
    covariance = (within.T @ within).astype(np.float64) / len(within)
    level = max(float(np.trace(covariance)) / len(covariance), 1e-9)
    covariance *= 1 - shrinkage
    covariance[np.diag_indices_from(covariance)] += shrinkage * level
    weights = np.linalg.solve(covariance, means.T.astype(np.float64)).T
    bias = -0.5 * np.einsum("nd,nd->n", weights, means)
    seen = np.bincount(labels, minlength=classes) > 0
    bias[~seen] = bias.min() - 1e3  # a class without examples is never the answer
    return scaling.fold(np.concatenate([weights, bias[:, None]], axis=1))
