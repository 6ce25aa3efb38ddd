"""Made-up examples: classes as directions with some noise, in few dimensions."""

from __future__ import annotations

import numpy as np

from tasks.example_store import Examples, Origin

WIDTH = 16
ORIGIN = Origin("null", "c" * 64, "s" * 64, WIDTH)


def clusters(classes: int = 3, each: int = 12, *, noise: float = 0.15, seed: int = 0, width: int = WIDTH) -> Examples:
    """`each` examples of every class, a fourth of them held out."""
    rng = np.random.default_rng(seed)
    means = np.abs(rng.standard_normal((classes, width))) + 2 * np.eye(classes, width)
    labels = np.repeat(np.arange(classes), each)
    pooled = (means[labels] + noise * rng.standard_normal((len(labels), width))).astype(np.float32)
    groups = np.arange(len(labels))
    return Examples(tuple(f"class {i}" for i in range(classes)), pooled, labels, groups, groups % 4 == 3)


def elsewhere(count: int = 40, *, seed: int = 1) -> np.ndarray:
    """Features that are of no class."""
    return np.abs(np.random.default_rng(seed).standard_normal((count, WIDTH))).astype(np.float32) * 3
