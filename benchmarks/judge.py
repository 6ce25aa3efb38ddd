"""What codecs are judged by: the same pictures' answers, compared with those of the unmodified backbone.

Axes: N pictures, B batch, C H W the latent, S side of the encoder's input, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from benchmarks.evaluation_pictures import Pictures
from pipeline.bundle import Bundle
from pipeline.errors import ConfigError
from pipeline.runtime.engine import Engine
from tasks.evaluate import agreement, divergence, loss_points
from tasks.head import Head, best_indices, bundle_heads

BATCH = 16

Float32 = NDArray[np.float32]
OnPictures = Callable[[int], None]
"""Told how many more pictures are done."""


def find_head(bundle: Bundle, engine: Engine, task: str) -> Head:
    """The head that answers. Raises ConfigError naming those there are."""
    heads = {head.name: head for head in bundle_heads(bundle, engine)}
    if task not in heads:
        raise ConfigError(f"task is {task!r}, {engine.backbone} has {', '.join(heads)}: check --task")
    return heads[task]


def versions() -> dict[str, str]:
    """Of what makes the bytes and the answers."""
    found = {}
    for name in ("frankenstream", "onnxruntime", "pillow", "simplejpeg"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Judge:
    """The pictures with the unmodified backbone's answers, and the figures of everything else against these."""

    def __init__(self, engine: Engine, head: Head, pictures: Pictures, progress: Progress | None = None) -> None:
        self.engine = engine
        self.pictures = pictures
        self._head = head
        self._progress = progress
        tell = self.progress("unmodified backbone")
        answers = []
        for part in self.parts():
            answers.append(self.answer_images(self.images(part)))
            tell(len(answers[-1]))
        self.direct_NK = np.concatenate(answers)

    def parts(self) -> list[slice]:
        """The batches. Always the same, so that equal pixels give equal answers to the last bit."""
        return [slice(start, start + BATCH) for start in range(0, len(self.pictures), BATCH)]

    def images(self, part: slice) -> Float32:
        """float32 [B, 3, S, S] in [0, 1]."""
        images: Float32 = self.pictures.squares_NSS3[part].transpose(0, 3, 1, 2) * np.float32(1 / 255)
        return np.ascontiguousarray(images)

    def answer_images(self, images_B3SS: Float32) -> Float32:
        """Logits [B, K] of the unmodified backbone."""
        return self._head.logits(self.engine.from_images(images_B3SS).pooled_BD)

    def answer_latents(self, latents_BCHW: Float32) -> Float32:
        """Logits [B, K] behind g_s."""
        return self._head.logits(self.engine.from_latents(latents_BCHW).pooled_BD)

    def progress(self, what: str) -> OnPictures:
        """A bar over all pictures that is gone when it is full."""
        progress, total = self._progress, len(self.pictures)
        if progress is None:
            return lambda more: None
        bar, left = progress.add_task(what, total=total), total

        def tell(more: int) -> None:
            nonlocal left
            left -= more
            progress.advance(bar, more)
            if left <= 0:
                progress.remove_task(bar)

        return tell

    def figures(self, codec: str, setting: str, logits_NK: Float32, payload_bytes: Sequence[int]) -> dict[str, Any]:
        """The row of one point: percent, points and nats; None where there are no labels."""
        direct_NK, labels_N = self.direct_NK, self.pictures.labels_N
        row: dict[str, Any] = {
            "codec": codec,
            "setting": setting,
            "bytes_mean": round(float(np.mean(payload_bytes)), 1),
            "bytes_p95": round(float(np.percentile(payload_bytes, 95)), 1),
        }
        row |= dict.fromkeys(("top1", "top1_direct", "top5", "top5_direct", "loss_points", "loss_ci95"))
        if labels_N is not None:
            correct_N, direct_N = logits_NK.argmax(axis=1) == labels_N, direct_NK.argmax(axis=1) == labels_N
            loss = loss_points(direct_N, correct_N)
            row["top1"], row["top1_direct"] = _percent(correct_N), _percent(direct_N)
            row["top5"], row["top5_direct"] = (_percent(_in_top5(x, labels_N)) for x in (logits_NK, direct_NK))
            row["loss_points"], row["loss_ci95"] = round(loss.value, 2), [round(loss.low, 2), round(loss.high, 2)]
        agrees = agreement(direct_NK, logits_NK)
        row["agreement"], row["agreement_ci95"] = round(agrees.value, 2), [round(agrees.low, 2), round(agrees.high, 2)]
        row["kl"] = round(max(0.0, divergence(direct_NK, logits_NK)), 5)
        return row


def _percent(flags_N: NDArray[np.bool_]) -> float:
    return round(100 * float(flags_N.mean()), 2)


def _in_top5(logits_NK: Float32, labels_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (best_indices(logits_NK, 5) == labels_N[:, None]).any(axis=1)
    return found
