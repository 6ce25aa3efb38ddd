"""A backbone behind its g_s in ONNX Runtime: graphs exported once (engine_cache), then no torch in the server.

synthesis.onnx    `latent`  float32 [B, C, H, W] dequantised    → `feature` float32 [B, F, H, W]
tail.onnx         `feature` float32 [B, F, H, W]                → `pooled`  float32 [B, D]
head_part.onnx    `image`   float32 [B, 3, S, S] RGB in [0, 1]  → `feature`, for unmodified clients
classifier.npz    `weight` (1000, D), `bias` (1000,): the backbone's own classifier
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clock import monotonic
from pipeline.errors import EngineError
from pipeline.runtime.engine import Features, Float32

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
GRAPHS = ("synthesis.onnx", "tail.onnx", "head_part.onnx")
CLASSIFIER = "classifier.npz"


class OnnxEngine:
    """One backbone from the folder of its exported graphs. Methods may be called from one thread at a time.

    `device` is cpu, cuda or cuda:N; `threads` are those of one run. Raises EngineError if a graph does not load.
    """

    backend = "onnx"

    def __init__(self, folder: Path, backbone: str, *, device: str = "cpu", threads: int = 1) -> None:
        self.backbone = backbone
        self.device = device
        self._threads = threads
        self._folder = folder
        self._synthesis = self._load("synthesis.onnx")
        self._tail = self._load("tail.onnx")
        self._head_part: Callable[[Float32], Float32] | None = None
        self._weight, self._bias = _read_classifier(folder / CLASSIFIER)
        self.feature_width = int(self._weight.shape[1])

    def from_latents(self, latents_BCHW: Float32) -> Features:
        """Dequantised latents (B, C, H, W) → g_s → tail → pooled features. Raises EngineError."""
        return self._run(self._synthesis, latents_BCHW)

    def from_images(self, images_B3HW: Float32) -> Features:
        """RGB in [0, 1], (B, 3, S, S), through the unmodified backbone. Raises EngineError."""
        if self._head_part is None:  # many servers never see a picture; its weights are then never loaded
            self._head_part = self._load("head_part.onnx")
        return self._run(self._head_part, images_B3HW)

    def classifier(self) -> tuple[Float32, Float32]:
        """Weight (1000, D), bias (1000,) of the backbone's own classifier."""
        return self._weight, self._bias

    def _run(self, first: Callable[[Float32], Float32], batch: Float32) -> Features:
        started = monotonic()
        feature = first(batch)
        between = monotonic()
        pooled = self._tail(feature)
        return Features(pooled.reshape(len(batch), -1), between - started, monotonic() - between, feature)

    def _load(self, name: str) -> Callable[[Float32], Float32]:
        path = self._folder / name
        session = _session(path, self.device, self._threads)
        input_name = session.get_inputs()[0].name

        def run(batch: Float32) -> Float32:
            try:
                output: Float32 = session.run(None, {input_name: batch})[0]
            except Exception as error:  # ONNX Runtime's errors have no common base
                raise EngineError(f"{self.backbone}: {name} failed on {batch.shape}: {_first_line(error)}") from None
            return output

        return run


def _session(path: Path, device: str, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Spinning threads take the processor from the decoder threads and from everything else on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    kind, _, number = device.partition(":")
    provider = PROVIDERS[kind]
    placed = {"device_id": number} if number else {}
    try:
        session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=[(provider, placed)])
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise EngineError(f"{path.name} of {path.parent} does not load on {device}: {_first_line(error)}") from None
    if session.get_providers()[0] != provider:
        raise EngineError(f"ONNX Runtime has no {device} here: install onnxruntime-gpu, or serve with --device cpu")
    return session


def _read_classifier(path: Path) -> tuple[Float32, Float32]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["weight"].astype(np.float32), arrays["bias"].astype(np.float32)
    except (OSError, KeyError, ValueError) as error:
        raise EngineError(f"{path} does not read: {_first_line(error)}: remove that folder, it is made again") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
