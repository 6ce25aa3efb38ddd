"""A finished codec as it ships, asked about photos: the files that edges and servers load.

ONNX graphs, integer tables and real bitstreams; the unmodified backbone on the same pixels as reference, loss in points
of top-1 with a paired bootstrap interval, agreement and KL. Bytes are those of ``LatentCodec.encode``, header included.

Axes: N photos, B batch, C channels, H height, W width, D pooled features, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.codec import LatentCodec, dequantise, quantise
from pipeline.preprocess import EVALUATION_FRACTION, Preprocessor, PreprocessSpec
from pipeline.training.evaluate import Comparison, bootstrap_loss, compare_logits

_BATCH = 16


@dataclass(frozen=True)
class ServerGraphs:
    """A backbone as the server runs it: the folder of ``export_server_graphs`` in ONNX Runtime."""

    folder: Path
    threads: int = 2

    def unmodified(self, images_N3HW: np.ndarray) -> np.ndarray:
        """Logits [N, K] of the unmodified backbone."""
        return self._logits("head_part.onnx", images_N3HW)

    def from_latents(self, latents_NCHW: np.ndarray) -> np.ndarray:
        """Logits [N, K] of the tail behind g_s."""
        return self._logits("synthesis.onnx", latents_NCHW)

    def _logits(self, first: str, inputs: np.ndarray) -> np.ndarray:
        start, tail = session(self.folder / first, self.threads), session(self.folder / "tail.onnx", self.threads)
        with np.load(self.folder / "classifier.npz") as classifier:
            weight_KD, bias_K = classifier["weight"], classifier["bias"]
        logits = []
        for begin in range(0, len(inputs), _BATCH):
            feature = start.run(None, {start.get_inputs()[0].name: inputs[begin : begin + _BATCH]})[0]
            pooled_BD = tail.run(None, {tail.get_inputs()[0].name: feature})[0]
            logits.append(pooled_BD.reshape(len(feature), -1) @ weight_KD.T + bias_K)
        return np.concatenate(logits)


def session(file: Path, threads: int) -> Any:
    """An ONNX Runtime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Spinning threads slow a busy machine down many times.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), sess_options=options, providers=["CPUExecutionProvider"])


def encoder_inputs(photos: Sequence[np.ndarray], *, filter_name: str = "bicubic", size: int = 224) -> np.ndarray:
    """Photos (uint8 [H, W, 3]) under the evaluation crop, as the edge prepares them: float32 [N, 3, size, size]."""
    preprocess = Preprocessor(PreprocessSpec(size, "centre", "rgb", filter_name, EVALUATION_FRACTION))
    return np.concatenate([preprocess(photo) for photo in photos])


def native_inputs(photos: Sequence[np.ndarray], *, side: int, crop_fraction: float) -> np.ndarray:
    """Photos as the backbone itself wants them: its native side and crop, bicubic."""
    preprocess = Preprocessor(PreprocessSpec(side, "centre", "rgb", "bicubic", crop_fraction))
    return np.concatenate([preprocess(photo) for photo in photos])


def latents_of(analysis_file: Path, images_N3HW: np.ndarray, *, threads: int = 2) -> np.ndarray:
    """What one form of g_a gives, float32 [N, C, H, W]."""
    analysis = session(analysis_file, threads)
    return np.concatenate([analysis.run(None, {"image": image[None]})[0] for image in images_N3HW])


def through_codec(codec: LatentCodec, latents_NCHW: np.ndarray, point: int) -> tuple[np.ndarray, np.ndarray]:
    """(latents as the server has them, float32 [N, C, H, W]; payload bytes of each frame, int64 [N])."""
    operating_point = codec.spec.operating_points[point]
    received, payload_bytes = [], []
    for latent_CHW in latents_NCHW:
        symbols_CHW = quantise(latent_CHW, operating_point)
        bitstream = codec.encode(symbols_CHW, point)
        decoded = codec.decode(bitstream)
        assert np.array_equal(decoded.symbols, symbols_CHW), "the codec is lossless on symbols"
        received.append(dequantise(decoded.symbols, operating_point))
        payload_bytes.append(len(bitstream))
    return np.stack(received), np.array(payload_bytes)


def first_layers(codec: LatentCodec, received_NCHW: np.ndarray, point: int, layers: int) -> np.ndarray:
    """Received latents as they would be had only the first ``layers`` of each frame arrived."""
    kept = sum(codec.spec.layers[:layers])
    fill_C11 = np.broadcast_to(codec.fill[:, None, None], received_NCHW.shape[1:])
    cut = received_NCHW.copy()
    cut[:, kept:] = dequantise(fill_C11, codec.spec.operating_points[point])[kept:]
    return cut


def compare_arrays(
    logits_NK: np.ndarray, reference_NK: np.ndarray, labels_N: np.ndarray, payload_bytes_N: np.ndarray
) -> Comparison:
    """A Comparison from numpy arrays."""
    return compare_logits(
        torch.from_numpy(logits_NK),
        torch.from_numpy(reference_NK),
        torch.from_numpy(labels_N),
        payload_bytes_N=torch.from_numpy(payload_bytes_N),
    )


def cached_logits(folder: Path | None, key: Sequence[str], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Logits that do not depend on the codec, kept in ``folder`` under the hash of ``key``; computed without one."""
    if folder is None:
        return compute()
    file = folder / f"logits-{hashlib.sha256(chr(0).join(key).encode()).hexdigest()[:24]}.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(file, compute())
    known: np.ndarray = np.load(file, allow_pickle=False)
    return known


def figures(comparison: Comparison) -> dict[str, Any]:
    """What goes into reports and manifests, rounded: bytes, loss with its 95 % interval, agreement, KL."""
    row = comparison.row()
    low, high = bootstrap_loss(comparison)
    return {
        "bytes_mean": round(row["bytes"], 1),
        "bytes_p95": round(float(np.percentile(comparison.payload_bytes, 95)), 1),
        "loss_points": round(row["loss_points"], 2),
        "loss_interval": [round(low, 2), round(high, 2)],
        "agreement_percent": round(row["agreement"], 2),
        "kl_nats": round(row["kl"], 4),
    }


def top1_percent(logits_NK: np.ndarray, labels_N: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    return round(100 * float((logits_NK.argmax(axis=1) == labels_N).mean()), 2)
