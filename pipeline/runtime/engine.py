"""What computes on the server: latents or pictures in, pooled features out. One engine per backbone.

Heads are not the engine's business: all heads of a backbone are one matrix product on its features
(`tasks.head.HeadStack`). Implementations: `onnx_engine.OnnxEngine`, `torch_engine.TorchEngine` (torch zone, loaded
by name), `NullEngine` here (benchmarks and tests of everything around an engine).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Features:
    """Pooled features (B, D) float32 of a batch, and the seconds that each stage took.

    `feature_BFhw`: the feature map at the cut, for heads that look at it; None where it does not leave its device.
    """

    pooled_BD: Float32
    synthesis_s: float
    tail_s: float
    feature_BFhw: Float32 | None = None


class Engine(Protocol):
    """One backbone behind its g_s. Methods may be called from one thread at a time."""

    backbone: str
    """timm tag, e.g. tf_efficientnet_lite0."""
    backend: str
    """onnx, torch or null."""
    device: str
    """cpu, cuda:0, …"""
    feature_width: int
    """D."""

    def from_latents(self, latents_BCHW: Float32) -> Features:
        """Dequantised latents (B, C, H, W) → g_s → tail → pooled features. Raises EngineError."""
        ...

    def from_images(self, images_B3HW: Float32) -> Features:
        """RGB in [0, 1], (B, 3, H, W), through the *unmodified* backbone (its own normalisation inside).

        `synthesis_s` is then the time of the head part. Raises EngineError.
        """
        ...

    def classifier(self) -> tuple[Float32, Float32]:
        """The backbone's own ImageNet-1k classifier: weight (1000, D), bias (1000,)."""
        ...


class NullEngine:
    """Answers at once with zero features: isolates protocol, transport and batching from models."""

    backend = "null"
    device = "cpu"

    def __init__(self, backbone: str = "null", feature_width: int = 8) -> None:
        self.backbone = backbone
        self.feature_width = feature_width

    def from_latents(self, latents_BCHW: Float32) -> Features:
        return Features(np.zeros((len(latents_BCHW), self.feature_width), np.float32), 0.0, 0.0)

    def from_images(self, images_B3HW: Float32) -> Features:
        return Features(np.zeros((len(images_B3HW), self.feature_width), np.float32), 0.0, 0.0)

    def classifier(self) -> tuple[Float32, Float32]:
        return np.zeros((1000, self.feature_width), np.float32), np.zeros(1000, np.float32)
