"""How much worse than the unmodified backbone: bytes, loss in points, agreement and KL on photos under the evaluation
transform.

The reference is always the same backbone on the same pixels (256/224 centre crop), whose answers are computed once
and kept.

Axes: N photos, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.datasets.halves import in_half
from pipeline.errors import InputError
from pipeline.models.backbones import CutBackbone
from pipeline.models.feature_codec import LAYERS, FeatureCodec, drop_tail
from pipeline.training.data import PhotoSource, decode_rgb, evaluation_view, read_photos
from pipeline.training.losses import kl_loss

_BATCH = 20


@dataclass
class EvaluationSet:
    """Photos under the evaluation transform: uint8 ``pixels_NCHW`` and, if known, int64 ``labels_N`` (0 ... 999)."""

    name: str
    pixels_NCHW: Tensor
    labels_N: Tensor | None

    def batches(self, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
        """(which photos, float32 images in [0, 1], channels last, on ``device``)."""
        for start in range(0, len(self.pixels_NCHW), _BATCH):
            part = slice(start, start + _BATCH)
            image_BCHW = self.pixels_NCHW[part].to(device).float() / 255
            yield part, image_BCHW.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Comparison:
    """One operating point of one backbone against the unmodified backbone; per-photo arrays of length N, float64 or
    bool.
    """

    payload_bytes: np.ndarray
    kl: np.ndarray
    agrees: np.ndarray
    correct: np.ndarray | None
    reference_correct: np.ndarray | None

    def row(self) -> dict[str, float]:
        """Means: bytes a frame, KL in nats, agreement in percent, loss in points of top-1 (NaN without labels)."""
        loss = float("nan")
        if self.correct is not None and self.reference_correct is not None:
            loss = 100 * float(self.reference_correct.mean() - self.correct.mean())
        return {
            "bytes": float(self.payload_bytes.mean()),
            "loss_points": loss,
            "agreement": 100 * float(self.agrees.mean()),
            "kl": float(self.kl.mean()),
        }


def load_labelled(archive: Path, *, half: str = "all", limit: int | None = None) -> EvaluationSet:
    """Photos and labels from a tar with ``labels.csv`` (filename, imagenet_index).

    ``half`` is ``even``, ``odd`` or ``all``: a stable split by a hash of the file name, so that tuning and reporting
    use different photos. Raises InputError if the archive or its labels cannot be read.
    """
    labels = read_labels(archive)
    chosen = [
        (name, encoded) for name, encoded in read_photos(PhotoSource(archive)) if name in labels and in_half(name, half)
    ][:limit]
    if not chosen:
        raise InputError(f"{archive} has no photo that its labels.csv names: check the file names")
    pixels_NCHW = torch.cat([_view_uint8(name, encoded) for name, encoded in chosen])
    return EvaluationSet(archive.stem, pixels_NCHW, torch.tensor([labels[name] for name, _encoded in chosen]))


def read_labels(archive: Path) -> dict[str, int]:
    """File name -> class (0 ... 999) from the ``labels.csv`` inside a tar.

    Raises InputError if the archive or its labels cannot be read.
    """
    try:
        with tarfile.open(archive) as tar:
            stream = tar.extractfile("labels.csv")
            assert stream is not None
            rows = list(csv.DictReader(io.TextIOWrapper(stream, "utf-8"), skipinitialspace=True))
    except (OSError, KeyError, UnicodeDecodeError, csv.Error, tarfile.TarError) as error:
        raise InputError(f"cannot read labels.csv from {archive}, expected a tar with it: {error}") from error
    try:
        return {row["filename"].strip(): int(row["imagenet_index"]) for row in rows}
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"labels.csv in {archive} needs the columns filename,imagenet_index with a number in each row: {error}"
        ) from error


def load_unlabelled(sources: Sequence[PhotoSource], *, limit: int | None = None) -> EvaluationSet:
    """Photos only: agreement and KL, no loss. Raises InputError if there are none."""
    photos = [photo for source in sources for photo in read_photos(source)][:limit]
    if not photos:
        raise InputError(f"no photos in {sources[0].path} to evaluate on: check the path")
    return EvaluationSet(sources[0].path.stem, torch.cat([_view_uint8(*photo) for photo in photos]), None)


def reference_logits(backbone: CutBackbone, photos: EvaluationSet) -> Tensor:
    """The unmodified backbone's logits, float32 [N, K], on the CPU; computed where the backbone is."""
    with torch.inference_mode():
        return torch.cat([backbone(image).cpu() for _part, image in photos.batches(backbone.mean.device)])


def compare(
    codec: FeatureCodec,
    backbone: CutBackbone,
    photos: EvaluationSet,
    reference_NK: Tensor,
    *,
    point: int,
    layers: int = LAYERS,
) -> Comparison:
    """Send the photos through the codec at one operating point, of which the first ``layers`` arrive; bytes by the
    learned prior.
    """
    synthesis = codec.synthesis[backbone.tag]
    logits, payload_bytes = [], []
    with torch.inference_mode():
        for _part, image in photos.batches(backbone.mean.device):
            symbols = codec.quantise(codec.analysis(image), point)
            received = drop_tail(symbols, layers)
            payload_bytes.append(codec.symbol_bits(symbols, point).sum(dim=(1, 2, 3)).cpu() / 8)
            latent = codec.dequantise(received, point).contiguous(memory_format=torch.channels_last)
            logits.append(backbone.classifier(backbone.tail(synthesis(latent))).float().cpu())
        logits_NK = torch.cat(logits)
        kl_N = kl_loss(logits_NK, reference_NK)
    return compare_logits(logits_NK, reference_NK, photos.labels_N, payload_bytes_N=torch.cat(payload_bytes), kl_N=kl_N)


def compare_logits(
    logits_NK: Tensor,
    reference_NK: Tensor,
    labels_N: Tensor | None,
    *,
    payload_bytes_N: Tensor,
    kl_N: Tensor | None = None,
) -> Comparison:
    """A Comparison from logits, whoever computed them."""
    answer_N, reference_N = logits_NK.argmax(dim=1), reference_NK.argmax(dim=1)
    kl_N = kl_loss(logits_NK, reference_NK) if kl_N is None else kl_N
    return Comparison(
        payload_bytes=payload_bytes_N.double().numpy(),
        kl=kl_N.double().numpy(),
        agrees=(answer_N == reference_N).numpy(),
        correct=None if labels_N is None else (answer_N == labels_N).numpy(),
        reference_correct=None if labels_N is None else (reference_N == labels_N).numpy(),
    )


def bootstrap_loss(comparison: Comparison, *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the loss in points, paired: the same photos are drawn for both. Raises InputError without
    labels.
    """
    if comparison.correct is None or comparison.reference_correct is None:
        raise InputError("a loss interval needs labelled photos")
    difference_N = comparison.reference_correct.astype(np.float64) - comparison.correct
    picks = np.random.default_rng(seed).integers(len(difference_N), size=(draws, len(difference_N)))
    low, high = np.percentile(100 * difference_N[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _view_uint8(name: str, encoded: bytes) -> Tensor:
    return (evaluation_view(decode_rgb(encoded, name=name)) * 255).round().to(torch.uint8)
