"""A head with one hidden layer, trained with Adam in numpy: for classes that no flat cut through the features divides.

On pooled features, or at every place of the feature map, where the strongest place answers (tasks.kinds has both
heads): pooled features are a map of one place. Stops where the held-out log loss was lowest. Seconds for thousands of
pooled features, minutes for maps; no torch.

Axes: M examples, B of them at a time, P places, D features of each, H hidden units, N classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.kinds import places_of, strongest
from tasks.probe import Float32, Labels, Scaling, fold_rows, log_losses

HIDDEN = 128
EPOCHS = 60
_BATCH = 64
_PLACES_MAX = 16_384
"""Places of a batch: of maps fewer examples are taken at a time, so that what is computed of them stays in cache."""
_SCALED_MAX = 200_000
"""Places that the scaling is taken from."""
_RATE = 2e-3
_DECAY = 2e-2
_PATIENCE = 8
_FOLDS = 5

Features = NDArray[np.floating[Any]]
"""Pooled ones (M, D) or maps (M, F, h, w), in half precision too."""


@dataclass(frozen=True, eq=False)
class Network:
    """relu(x · inner + inner_bias) · outer + outer_bias, on plain features; of a map the smooth maximum over places."""

    inner: Float32
    inner_bias: Float32
    outer: Float32
    outer_bias: Float32
    epochs: int

    def arrays(self) -> dict[str, Float32]:
        """By their names in a head's file."""
        return {
            "inner": self.inner, "inner_bias": self.inner_bias, "outer": self.outer, "outer_bias": self.outer_bias,
        }  # fmt: skip

    def logits(self, features: Features) -> Float32:
        """(M, N)."""
        trained = _Trained(list(self.arrays().values()))
        return np.concatenate([trained.forward(places_of(features[rows]))[2] for rows in _batches(features)])


def fit_network(
    features: Features,
    labels_M: Sequence[int] | Labels,
    *,
    classes: int,
    groups_M: Sequence[int] | Labels | None = None,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Network:
    """A network for these examples; a fifth of them says when to stop, never the only ones of a class."""
    labels = np.asarray(labels_M, np.int64)
    learn, held = map(np.flatnonzero, next(fold_rows(labels, _FOLDS, groups_M=groups_M, seed=seed)))
    if not len(held) or not len(learn):
        learn = held = np.arange(len(labels))
    scaling = _scaling(features, learn)
    rng = np.random.default_rng(seed)
    network = _Trained.fresh(features.shape[1], classes, rng)
    best, best_loss, since = network.copy(), np.inf, 0
    for epoch in range(EPOCHS):
        for rows in _batches(features, rng.permutation(learn)):
            network.step(scaling(places_of(features[rows])), labels[rows])
        loss = 0.0
        for rows in _batches(features, held):
            logits = network.forward(scaling(places_of(features[rows])))[2]
            loss += float(log_losses(logits, labels[rows]).sum())
        best, best_loss, since = (network.copy(), loss, 0) if loss < best_loss else (best, best_loss, since + 1)
        if on_step:
            on_step(epoch + 1, EPOCHS)
        if since >= _PATIENCE:
            break
    if on_step:
        on_step(EPOCHS, EPOCHS)
    inner = best[0] / scaling.spread_D
    inner_bias = best[1] - inner @ scaling.mean_D
    return Network(inner.astype(np.float32), inner_bias.astype(np.float32), best[2], best[3], epoch + 1 - since)


def _batches(features: Features, order: NDArray[np.int64] | None = None) -> list[NDArray[np.int64]]:
    """Rows in `order`, as many at a time as are worth it."""
    rows = np.arange(len(features)) if order is None else order
    places = int(np.prod(features.shape[2:]))
    size = int(np.clip(_PLACES_MAX // places, 1, _BATCH))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _scaling(features: Features, rows: NDArray[np.int64]) -> Scaling:
    places = len(rows) * int(np.prod(features.shape[2:]))
    some = places_of(features[rows[:: -(-places // _SCALED_MAX)]])
    return Scaling.of(some.reshape(-1, some.shape[2]))


class _Trained:
    def __init__(self, weights: list[Float32]) -> None:
        self.weights = weights
        self._first = [np.zeros_like(weight) for weight in self.weights]
        self._second = [np.zeros_like(weight) for weight in self.weights]
        self._steps = 0

    @classmethod
    def fresh(cls, width: int, classes: int, rng: np.random.Generator) -> _Trained:
        scale = np.sqrt(2 / width)
        return cls([
            (scale * rng.standard_normal((HIDDEN, width))).astype(np.float32), np.zeros(HIDDEN, np.float32),
            np.zeros((classes, HIDDEN), np.float32), np.zeros(classes, np.float32),
        ])  # fmt: skip

    def copy(self) -> list[Float32]:
        return [weight.copy() for weight in self.weights]

    def forward(self, x_BPD: Float32) -> tuple[Float32, Float32, Float32]:
        """Hidden units (B · P, H) and logits (B, P, N) of each place, and logits (B, N)."""
        inner, inner_bias, outer, outer_bias = self.weights
        hidden = np.maximum(x_BPD.reshape(-1, x_BPD.shape[2]) @ inner.T + inner_bias, 0)
        each_BPN = (hidden @ outer.T + outer_bias).reshape(*x_BPD.shape[:2], -1)
        return hidden, each_BPN, strongest(each_BPN)

    def step(self, x_BPD: Float32, y: Labels) -> None:
        """One step of Adam with decoupled weight decay."""
        hidden, each_BPN, logits_BN = self.forward(x_BPD)
        errors_BN = np.exp(logits_BN - logits_BN.max(axis=1, keepdims=True))
        errors_BN /= errors_BN.sum(axis=1, keepdims=True)
        errors_BN[np.arange(len(y)), y] -= 1
        errors_BN /= len(y)
        # A place has as much of the blame as it has of the smooth maximum.
        blame = np.exp(each_BPN - logits_BN[:, None]) / each_BPN.shape[1]
        blame = (blame * errors_BN[:, None]).reshape(-1, each_BPN.shape[2])
        back = (blame @ self.weights[2]) * (hidden > 0)
        slopes = [back.T @ x_BPD.reshape(len(blame), -1), back.sum(axis=0), blame.T @ hidden, blame.sum(axis=0)]
        self._steps += 1
        for number, slope in enumerate(slopes):
            self._first[number] += 0.1 * (slope - self._first[number])
            self._second[number] += 0.001 * (np.square(slope) - self._second[number])
            first = self._first[number] / (1 - 0.9**self._steps)
            second = self._second[number] / (1 - 0.999**self._steps)
            if slope.ndim == 2:
                self.weights[number] *= np.float32(1 - _RATE * _DECAY)
            self.weights[number] -= np.float32(_RATE) * first / (np.sqrt(second) + np.float32(1e-8))
