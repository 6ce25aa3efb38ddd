"""What a bundle is worth: every form of the encoder and every operating point on labelled photos, and what is lost with
the last layers.

The parts are those that `pack` leaves in its folder: the encoder's two forms and the server's graphs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.codec import LatentCodec
from pipeline.models.backbones import CutBackbone
from pipeline.packing import shipped
from pipeline.training.data import PhotoSource, decode_rgb, read_photos
from pipeline.training.evaluate import Comparison, read_labels

_LAYER_PHOTOS = 333


@dataclass(frozen=True)
class Photos:
    """The labelled photos of the report: as they are, as the encoder gets them, and a name for them in caches."""

    pixels: list[np.ndarray]
    labels_N: np.ndarray
    images_N3HW: np.ndarray
    key: str


def read_labelled(archive: Path, *, limit: int | None) -> Photos:
    """Photos and labels of a tar with labels.csv. Raises InputError."""
    labels = read_labels(archive)
    named = [(name, data) for name, data in islice(read_photos(PhotoSource(archive)), limit) if name in labels]
    pixels = [decode_rgb(encoded, name=name) for name, encoded in named]
    digest = hashlib.sha256(b"".join(encoded for _name, encoded in named)).hexdigest()
    labels_N = np.array([labels[name] for name, _encoded in named])
    return Photos(pixels, labels_N, shipped.encoder_inputs(pixels), digest)


def measure(
    backbones: dict[str, CutBackbone],
    latents: LatentCodec,
    out: Path,
    photos_file: Path,
    *,
    limit: int | None = None,
    cache: Path | None = None,
    threads: int = 2,
) -> dict[str, Any]:
    """All figures of the bundle whose parts lie in ``out``, on the labelled photos of a tar. Raises InputError."""
    photos = read_labelled(photos_file, limit=limit)
    sent = {
        (form, number): shipped.through_codec(latents, shipped.latents_of(out / file, photos.images_N3HW), number)
        for form, file in (("fp32", "analysis.onnx"), ("int8", "analysis-int8.onnx"))
        for number in range(len(latents.spec.operating_points))
    }
    result: dict[str, Any] = {
        "photos": photos_file.stem,
        "count": len(photos.pixels),
        "transform": "short side to 256, centre crop 224, bicubic; the reference sees the same pixels",
        "backbones": {},
    }
    for place, (tag, backbone) in enumerate(backbones.items()):
        print(f"measuring {tag}", flush=True)
        graphs = shipped.ServerGraphs(out / "graphs" / tag, threads)
        figures = _unmodified_figures(backbone, graphs, photos, cache)
        # What int8 costs is a matter of the encoder, so the first backbone tells it.
        forms = ("fp32", "int8") if place == 0 else ("fp32",)
        figures["operating_points"] = {
            point.name: {
                form: shipped.figures(_compare(sent[form, number], backbone, graphs, photos, cache)) for form in forms
            }
            for number, point in enumerate(latents.spec.operating_points)
        }
        if place == 0:
            reference_NK = _reference(backbone, graphs, photos, cache)
            for number, point in enumerate(latents.spec.operating_points):
                whole = figures["operating_points"][point.name]["fp32"]
                missing = layer_losses(latents, sent["fp32", number][0], number, graphs, photos.labels_N, reference_NK)
                whole["layer_loss_points"] = [round(whole["loss_points"] + more, 1) for more in missing]
        result["backbones"][tag] = figures
    return result


def layer_losses(
    latents: LatentCodec,
    received_NCHW: np.ndarray,
    point: int,
    graphs: shipped.ServerGraphs,
    labels_N: np.ndarray,
    reference_NK: np.ndarray,
) -> list[float]:
    """Points of top-1 lost on top of whole frames' where only the first 1, 2, ... layers arrive; the last is 0.

    Of evenly spaced photos, at most ``_LAYER_PHOTOS``: whole frames are measured on all.
    """
    some = slice(0, None, max(len(labels_N) // _LAYER_PHOTOS, 1))
    bytes_N = np.zeros(len(labels_N[some]))  # not looked at here
    losses = []
    for layers in range(1, len(latents.spec.layers) + 1):
        cut_NCHW = shipped.first_layers(latents, received_NCHW[some], point, layers)
        compared = shipped.compare_arrays(graphs.from_latents(cut_NCHW), reference_NK[some], labels_N[some], bytes_N)
        losses.append(compared.row()["loss_points"])
    return [loss - losses[-1] for loss in losses]


def _compare(
    sent: tuple[np.ndarray, np.ndarray],
    backbone: CutBackbone,
    graphs: shipped.ServerGraphs,
    photos: Photos,
    cache: Path | None,
) -> Comparison:
    received_NCHW, payload_bytes_N = sent
    reference_NK = _reference(backbone, graphs, photos, cache)
    return shipped.compare_arrays(graphs.from_latents(received_NCHW), reference_NK, photos.labels_N, payload_bytes_N)


def _reference(backbone: CutBackbone, graphs: shipped.ServerGraphs, photos: Photos, cache: Path | None) -> np.ndarray:
    key = (backbone.weights_hash(), photos.key, "bicubic 224")
    return shipped.cached_logits(cache, key, lambda: graphs.unmodified(photos.images_N3HW))


def _unmodified_figures(
    backbone: CutBackbone, graphs: shipped.ServerGraphs, photos: Photos, cache: Path | None
) -> dict[str, Any]:
    """Top-1 of the unmodified backbone on the codec's pixels and at its native resolution."""
    key = (backbone.weights_hash(), photos.key, f"native {backbone.image_spec.side}")
    native_NK = shipped.cached_logits(cache, key, lambda: _native(backbone, photos))
    return {
        "unmodified_top1_percent": shipped.top1_percent(_reference(backbone, graphs, photos, cache), photos.labels_N),
        "unmodified_native_top1_percent": shipped.top1_percent(native_NK, photos.labels_N),
    }


def _native(backbone: CutBackbone, photos: Photos) -> np.ndarray:
    spec = backbone.image_spec
    images = shipped.native_inputs(photos.pixels, side=spec.side, crop_fraction=spec.crop_fraction)
    parts = np.array_split(images, max(len(images) // 16, 1))
    with torch.inference_mode():
        return np.concatenate([backbone(torch.from_numpy(part)).numpy() for part in parts])
