"""A head with one hidden layer, trained with Adam in numpy: for classes that no flat cut through the features divides.

Stops where the held-out log loss was lowest. Seconds for thousands of examples; no torch.

Axes: M examples, D features, H hidden units, N classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.probe import Float32, Labels, Scaling, fold_rows, log_losses

HIDDEN = 128
EPOCHS = 60
_BATCH = 64
_RATE = 2e-3
_DECAY = 2e-2
_PATIENCE = 8
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Network:
    """relu(x · inner + inner_bias) · outer + outer_bias, on plain features."""

    inner: Float32
    inner_bias: Float32
    outer: Float32
    outer_bias: Float32
    epochs: int

    def logits(self, features_MD: Float32) -> Float32:
        hidden = np.maximum(features_MD @ self.inner.T + self.inner_bias, 0)
        product: Float32 = hidden @ self.outer.T + self.outer_bias
        return product

    def arrays(self) -> dict[str, Float32]:
        """By their names in a head's file."""
        return {
            "inner": self.inner, "inner_bias": self.inner_bias, "outer": self.outer, "outer_bias": self.outer_bias,
        }  # fmt: skip


def fit_network(
    features_MD: Float32,
    labels_M: Sequence[int] | Labels,
    *,
    classes: int,
    groups_M: Sequence[int] | Labels | None = None,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Network:
    """A network for these examples; a fifth of them says when to stop."""
    features = np.ascontiguousarray(features_MD, np.float32)
    labels = np.asarray(labels_M, np.int64)
    learn, held = next(fold_rows(labels, _FOLDS, groups_M=groups_M, seed=seed))
    if not held.any() or not learn.any():
        learn, held = np.ones(len(labels), bool), np.ones(len(labels), bool)
    scaling = Scaling.of(features[learn])
    x, y, held_x = scaling(features[learn]), labels[learn], scaling(features[held])
    rng = np.random.default_rng(seed)
    network = _Trained(x.shape[1], classes, rng)
    best, best_loss, since = network.copy(), np.inf, 0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(y))
        for start in range(0, len(y), _BATCH):
            rows = order[start : start + _BATCH]
            network.step(x[rows], y[rows])
        loss = float(log_losses(network.forward(held_x)[1], labels[held]).mean())
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


class _Trained:
    def __init__(self, width: int, classes: int, rng: np.random.Generator) -> None:
        scale = np.sqrt(2 / width)
        self.weights = [
            (scale * rng.standard_normal((HIDDEN, width))).astype(np.float32), np.zeros(HIDDEN, np.float32),
            np.zeros((classes, HIDDEN), np.float32), np.zeros(classes, np.float32),
        ]  # fmt: skip
        self._first = [np.zeros_like(weight) for weight in self.weights]
        self._second = [np.zeros_like(weight) for weight in self.weights]
        self._steps = 0

    def copy(self) -> list[Float32]:
        return [weight.copy() for weight in self.weights]

    def forward(self, x: Float32) -> tuple[Float32, Float32]:
        inner, inner_bias, outer, outer_bias = self.weights
        hidden = np.maximum(x @ inner.T + inner_bias, 0)
        return hidden, hidden @ outer.T + outer_bias

    def step(self, x: Float32, y: Labels) -> None:
        """One step of Adam with decoupled weight decay."""
        hidden, logits = self.forward(x)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        shares[np.arange(len(y)), y] -= 1
        shares /= len(y)
        back = (shares @ self.weights[2]) * (hidden > 0)
        slopes = [back.T @ x, back.sum(axis=0), shares.T @ hidden, shares.sum(axis=0)]
        self._steps += 1
        for number, slope in enumerate(slopes):
            self._first[number] += 0.1 * (slope - self._first[number])
            self._second[number] += 0.001 * (np.square(slope) - self._second[number])
            first = self._first[number] / (1 - 0.9**self._steps)
            second = self._second[number] / (1 - 0.999**self._steps)
            if slope.ndim == 2:
                self.weights[number] *= np.float32(1 - _RATE * _DECAY)
            self.weights[number] -= np.float32(_RATE) * first / (np.sqrt(second) + np.float32(1e-8))
