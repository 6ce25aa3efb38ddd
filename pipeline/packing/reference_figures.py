"""What frames look like where a bundle's figures hold: the yardstick of the server's drift metric, for its manifest.

    python -m pipeline.packing.reference_figures --bundle DIR --photos imagenet-nips2017-1000.tar

Bytes of frames that stand alone at each operating point, and for each backbone and task the score of the label on top
through the codec, as distributions in ten bins. `frankenstream train pack` does it for the bundles that it makes;
run this after heads were added. Only manifest.toml changes, and with it the bundle id; the codec id stays.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.bundle import Bundle, Distribution, ReferenceFigures, add_reference
from pipeline.codec import dequantise, quantise
from pipeline.runtime.encoder import FrameEncoder
from pipeline.runtime.engine import Engine
from pipeline.training.data import PhotoSource, decode_rgb, read_photos

IMAGENET = "imagenet1k"
PHOTOS_MAX = 500
BINS = 10
_BATCH = 16


def reference_figures(
    bundle: Bundle, engines: Sequence[Engine], photos: Sequence[np.ndarray], *, name: str
) -> ReferenceFigures:
    """Measure on `photos` (uint8 [H, W, 3]), which the edge would see as they are. Raises FrankenError."""
    encoder, codec = FrameEncoder(bundle, provider="cpu", precision="fp32"), bundle.latent_codec()
    points = bundle.operating_points
    default = bundle.edge_spec.operating_point_index()
    payload_bytes: list[list[float]] = [[] for _ in points]
    received = []
    for photo in photos:
        latent_CHW = encoder.analyse(encoder.preprocess(photo))
        for index, point in enumerate(points):
            symbols = quantise(latent_CHW, point)
            payload_bytes[index].append(codec.estimate_bits(symbols, index) / 8)
            if index == default:
                received.append(dequantise(symbols, point))
    return ReferenceFigures(
        photos=name,
        count=len(photos),
        payload_bytes={point.name: distribution(values) for point, values in zip(points, payload_bytes, strict=True)},
        confidence={engine.backbone: _confidence(bundle, engine, np.stack(received)) for engine in engines},
    )


def distribution(values: Sequence[float] | np.ndarray) -> Distribution:
    """Ten bins of about the same share; fewer where values are equal."""
    array = np.asarray(values, np.float64)
    quantiles = np.quantile(array, np.arange(1, BINS) / BINS)
    edges = np.unique([float(f"{value:.5g}") for value in quantiles])
    counts = np.bincount(np.searchsorted(edges, array, side="left"), minlength=len(edges) + 1)
    return Distribution(
        edges=[float(edge) for edge in edges], shares=[round(float(count) / len(array), 5) for count in counts]
    )


def _confidence(bundle: Bundle, engine: Engine, latents_NCHW: np.ndarray) -> dict[str, Distribution]:
    batches = (latents_NCHW[start : start + _BATCH] for start in range(0, len(latents_NCHW), _BATCH))
    pooled_ND = np.concatenate([engine.from_latents(batch).pooled_BD for batch in batches])
    heads: Mapping[str, tuple[np.ndarray, np.ndarray]] = {
        IMAGENET: engine.classifier(),
        **{head.task: bundle.head_arrays(head) for head in bundle.heads(engine.backbone) if head.kind == "linear"},
    }
    return {task: distribution(top_scores(pooled_ND, weight, bias)) for task, (weight, bias) in heads.items()}


def top_scores(pooled_ND: np.ndarray, weight_KD: np.ndarray, bias_K: np.ndarray) -> np.ndarray:
    """Softmax score of the label on top, float [N]."""
    logits_NK = pooled_ND @ weight_KD.astype(np.float32).T + bias_K
    shifted_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    scores_N: np.ndarray = 1.0 / shifted_NK.sum(axis=1)
    return scores_N


def add_reference_figures(folder: Path, archive: Path, *, photos_max: int = PHOTOS_MAX, threads: int = 0) -> Bundle:
    """Measure the bundle in `folder` on the photos of a tar or folder and put the figures into its manifest."""
    from pipeline.runtime.engines import build_engine

    bundle = Bundle.open(folder)
    engines = [build_engine(bundle, one.tag, backend="onnx", threads=threads) for one in bundle.backbones]
    photos = [decode_rgb(encoded) for _name, encoded in islice(read_photos(PhotoSource(archive)), photos_max)]
    return add_reference(folder, reference_figures(bundle, engines, photos, name=archive.stem))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.packing.reference_figures", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--photos", type=Path, required=True, help="tar or folder; the bundle's own evaluation photos")
    parser.add_argument("--photos-max", type=int, default=PHOTOS_MAX)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    bundle = add_reference_figures(
        arguments.bundle, arguments.photos, photos_max=arguments.photos_max, threads=arguments.threads
    )
    print(f"reference figures of {arguments.photos.stem} are in {arguments.bundle}, bundle id {bundle.bundle_id[:16]}")


if __name__ == "__main__":
    main()
