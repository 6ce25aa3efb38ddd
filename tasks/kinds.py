"""Heads that are not one matrix: a small network, nearest examples, a network on the feature map.

All are `tasks.head.Head`s, travel as TOML and safetensors like linear ones (tasks.head_file), and are what a
third-party package may bring as well. A stack runs each on its own, after the one product of the linear heads.

Axes: B frames, D pooled features, H hidden units, N classes, M examples, F h w the feature map at the cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BundleError
from tasks.unknown import UnknownGate, unit

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Named:
    name: str
    backbone: str
    labels: tuple[str, ...]
    version: int = 1
    title: str = ""
    unknown: UnknownGate | None = None

    def _check(self, classes: int, *shapes_fit: bool) -> None:
        answers = classes + (self.unknown is not None)
        if len(self.labels) != answers:
            raise BundleError(
                f"head {self.name} has {answers} classes and {len(self.labels)} labels: give each class one"
            )
        if not all(shapes_fit):
            raise BundleError(f"head {self.name}: its arrays do not fit each other: make it again")


@dataclass(frozen=True, eq=False, kw_only=True)
class MlpHead(_Named):
    """One hidden layer: relu(pooled · inner + inner_bias) · outer + outer_bias.

    `inner` (H, D), `inner_bias` (H,), `outer` (N, H), `outer_bias` (N,), float32. Raises BundleError.
    """

    inner: Float32
    inner_bias: Float32
    outer: Float32
    outer_bias: Float32
    kind: str = field(default="mlp", init=False)

    def __post_init__(self) -> None:
        hidden = len(self.inner)
        fits = self.inner_bias.shape == (hidden,) and self.outer.shape == (len(self.outer_bias), hidden)
        self._check(len(self.outer_bias), self.inner.ndim == 2, fits)

    @property
    def feature_width(self) -> int:
        return int(self.inner.shape[1])

    def logits(self, pooled_BD: Float32) -> Float32:
        hidden = np.maximum(pooled_BD @ self.inner.T + self.inner_bias, 0)
        product: Float32 = hidden @ self.outer.T + self.outer_bias
        return product


@dataclass(frozen=True, eq=False, kw_only=True)
class NearestHead(_Named):
    """The `k` nearest training examples vote, by cosine: nothing is trained, so it is there at once.

    `examples` (M, D) float32, `owners` (M,) class of each, `sharpness`: how much nearer ones count for more. Features
    are seen from `centre` (D,) and divided by `spread` (D,). Raises BundleError.
    """

    examples: Float32
    owners: NDArray[np.int64]
    centre: Float32
    spread: Float32
    classes: int
    k: int = 10
    sharpness: float = 20.0
    kind: str = field(default="nearest", init=False)

    def __post_init__(self) -> None:
        count, width = self.examples.shape if self.examples.ndim == 2 else (0, 0)
        fits = self.owners.shape == (count,) and self.centre.shape == self.spread.shape == (width,)
        inside = count > 0 and fits and self.owners.min() >= 0 and self.owners.max() < self.classes
        self._check(self.classes, inside, self.k >= 1)
        object.__setattr__(self, "_directions", unit((self.examples - self.centre) / self.spread))

    @property
    def feature_width(self) -> int:
        return int(self.examples.shape[1])

    def logits(self, pooled_BD: Float32) -> Float32:
        directions: Float32 = self._directions  # type: ignore[attr-defined]
        likeness_BM = unit((pooled_BD - self.centre) / self.spread) @ directions.T
        k = min(self.k, likeness_BM.shape[1])
        nearest = np.argpartition(-likeness_BM, k - 1, axis=1)[:, :k]
        votes = np.exp(self.sharpness * (np.take_along_axis(likeness_BM, nearest, axis=1) - 1))
        shares = np.zeros((len(pooled_BD), self.classes), np.float32)
        rows = np.repeat(np.arange(len(pooled_BD)), k)
        np.add.at(shares, (rows, self.owners[nearest].ravel()), votes.ravel())
        sums = shares.sum(axis=1, keepdims=True)
        # A thousandth of the votes to all classes alike, so that none is impossible.
        logits: Float32 = np.log(shares / np.where(sums > 0, sums, 1) + 1e-3 / self.classes).astype(np.float32)
        return np.where(np.isfinite(sums), logits, np.float32(np.nan))


@dataclass(frozen=True, eq=False, kw_only=True)
class MapHead(_Named):
    """Looks at each place of the feature map and answers with the strongest: for small things anywhere in the frame.

    `inner` (H, F), `inner_bias` (H,), `outer` (N, H), `outer_bias` (N,): the same small network at each of h × w
    places; a class's logit is the smooth maximum over them. Raises BundleError.
    """

    inner: Float32
    inner_bias: Float32
    outer: Float32
    outer_bias: Float32
    kind: str = field(default="map", init=False)
    reads: str = field(default="feature", init=False)

    def __post_init__(self) -> None:
        hidden = len(self.inner)
        fits = self.inner_bias.shape == (hidden,) and self.outer.shape == (len(self.outer_bias), hidden)
        self._check(len(self.outer_bias), self.inner.ndim == 2, fits, self.unknown is None)

    @property
    def map_channels(self) -> int:
        return int(self.inner.shape[1])

    def logits(self, feature_BFhw: Float32) -> Float32:
        hidden = np.maximum(places_of(feature_BFhw) @ self.inner.T + self.inner_bias, 0)
        return strongest(hidden @ self.outer.T + self.outer_bias)


def places_of(features: NDArray[np.floating[Any]]) -> Float32:
    """Maps (B, F, h, w) → places (B, h · w, F) float32; pooled features (B, D) are maps of one place."""
    places: Float32 = np.ascontiguousarray(
        features.reshape(*features.shape[:2], -1).transpose(0, 2, 1), dtype=np.float32
    )
    return places


def strongest(each_BPN: Float32) -> Float32:
    """The smooth maximum (B, N) of the logits of P places: of one place itself, of equal ones any."""
    highest = each_BPN.max(axis=1, keepdims=True)
    smooth: Float32 = (highest[:, 0] + np.log(np.exp(each_BPN - highest).mean(axis=1))).astype(np.float32)
    return smooth
