"""Pooled features of pictures: directly, and through the codec as a server would get them.

The codec's way is the real one: preprocess → g_a (ONNX) → symbols → bitstream → symbols → g_s → tail. One pass over a
data set serves any number of engines, and both ways, so that they see the very same pixels.

Axes: M pictures, D pooled features, C H W the latent, S the side of the encoder's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.bundle import Bundle
from pipeline.codec.latent_codec import LatentCodec
from pipeline.codec.quantisation import dequantise, quantise
from pipeline.datasets import Dataset, Example
from pipeline.preprocess import Preprocessor, PreprocessSpec
from pipeline.runtime.encoder import FrameEncoder, preprocess_spec
from pipeline.runtime.engine import Engine

Float32 = NDArray[np.float32]
OnPicture = Callable[[int], None]
"""Told how many views are done."""

BATCH = 8


@dataclass(frozen=True)
class View:
    """One way to look at a picture: a preprocess spec, mirrored or not."""

    spec: PreprocessSpec
    mirrored: bool = False


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of a data set on one backbone: `pooled_MD` float32, `labels_M` and `pictures_M` (which picture) int64,
    `payload_bytes_M` int64 (0 where direct)."""

    backbone: str
    pooled_MD: Float32
    labels_M: NDArray[np.int64]
    pictures_M: NDArray[np.int64]
    payload_bytes_M: NDArray[np.int64]


@dataclass(frozen=True)
class BothWays:
    """The same pictures on one backbone, unmodified and through the codec."""

    direct: FeatureSet
    codec: FeatureSet


class CodecRoute:
    """From an input picture to a dequantised latent on the server, by way of real bytes. One thread at a time."""

    def __init__(
        self, bundle: Bundle, *, operating_point: str = "", encoder: FrameEncoder | None = None, coder: str = "auto"
    ) -> None:
        """`operating_point`: by name; empty: the bundle's default. Raises BundleError for one that it does not have."""
        self.point = bundle.edge_spec.operating_point_index(operating_point)
        self.encoder = encoder or FrameEncoder(bundle)
        self.codec: LatentCodec = bundle.latent_codec(coder)

    @property
    def operating_point(self) -> str:
        return self.codec.spec.operating_points[self.point].name

    def bitstream(self, image_13SS: Float32) -> bytes:
        """RGB in [0, 1] → one frame's bytes."""
        return self.codec.encode(
            quantise(self.encoder.analyse(image_13SS), self.codec.spec.operating_points[self.point]), self.point
        )

    def latent(self, bitstream: bytes) -> Float32:
        """One frame's bytes → dequantised latent (C, H, W), as the server's engines take it."""
        return dequantise(self.codec.decode(bitstream).symbols, self.codec.spec.operating_points[self.point])


def live_view(bundle: Bundle) -> View:
    """What a live edge sees: the whole centred square, scaled as the bundle says."""
    return View(preprocess_spec(bundle.edge_spec))


def evaluation_view(bundle: Bundle, *, mirrored: bool = False) -> View:
    """What accuracy is measured on: timm's 256/224 centre crop, bicubic."""
    return View(preprocess_spec(bundle.edge_spec).evaluation(), mirrored)


def whole_view(bundle: Bundle, *, mirrored: bool = False) -> View:
    """The whole centred square, bicubic: for pictures that are smaller than the input (CIFAR)."""
    spec = preprocess_spec(bundle.edge_spec)
    return View(PreprocessSpec(spec.size, spec.crop, spec.colour, "bicubic"), mirrored)


def features_of(
    dataset: Dataset | Iterable[Example],
    bundle: Bundle,
    engine: Engine,
    operating_point: str = "",
    *,
    through_codec: bool = True,
    view: View | None = None,
    on_picture: OnPicture | None = None,
) -> FeatureSet:
    """Features of every picture on one backbone, one way. `view` None: the evaluation view."""
    views = [view or evaluation_view(bundle)]
    if not through_codec:
        return direct_features(dataset, [engine], views, on_picture=on_picture)[engine.backbone]
    route = CodecRoute(bundle, operating_point=operating_point)
    collector = _Collector(engine)
    for batch in _batches(dataset, views):
        latents, sizes = _through(route, batch)
        collector.add(batch, engine.from_latents(latents).pooled_BD, sizes)
        if on_picture:
            on_picture(len(collector.labels))
    return collector.result()


def features_both_ways(
    dataset: Dataset | Iterable[Example],
    route: CodecRoute,
    engines: Sequence[Engine],
    views: Sequence[View],
    *,
    direct: Mapping[str, FeatureSet] | None = None,
    on_picture: OnPicture | None = None,
) -> dict[str, BothWays]:
    """Backbone → features of every view of every picture, directly and through the codec, in one pass.

    `direct` gives those that are known already (same pictures, same views); they are not computed again.
    """
    known = direct or {}
    collectors = [(engine, _Collector(engine), _Collector(engine)) for engine in engines]
    done = 0
    for batch in _batches(dataset, views):
        latents, sizes = _through(route, batch)
        for engine, plain, codec in collectors:
            if engine.backbone not in known:
                plain.add(batch, engine.from_images(batch.images_B3SS).pooled_BD)
            codec.add(batch, engine.from_latents(latents).pooled_BD, sizes)
        done += len(batch.labels)
        if on_picture:
            on_picture(done)
    return {
        engine.backbone: BothWays(known.get(engine.backbone) or plain.result(), codec.result())
        for engine, plain, codec in collectors
    }


def direct_features(
    dataset: Dataset | Iterable[Example],
    engines: Sequence[Engine],
    views: Sequence[View],
    *,
    on_picture: OnPicture | None = None,
) -> dict[str, FeatureSet]:
    """Backbone → features of every view of every picture on the unmodified backbone."""
    collectors = [(engine, _Collector(engine)) for engine in engines]
    done = 0
    for batch in _batches(dataset, views):
        for engine, collector in collectors:
            collector.add(batch, engine.from_images(batch.images_B3SS).pooled_BD)
        done += len(batch.labels)
        if on_picture:
            on_picture(done)
    return {engine.backbone: collector.result() for engine, collector in collectors}


@dataclass
class _Batch:
    images_B3SS: Float32
    labels: list[int]
    pictures: list[int]


@dataclass
class _Collector:
    engine: Engine
    pooled: list[Float32] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def add(self, batch: _Batch, pooled_BD: Float32, sizes: Sequence[int] | None = None) -> None:
        self.pooled.append(np.array(pooled_BD, np.float32))
        self.labels += batch.labels
        self.pictures += batch.pictures
        self.sizes += sizes or [0] * len(batch.labels)

    def result(self) -> FeatureSet:
        pooled = np.concatenate(self.pooled) if self.pooled else np.zeros((0, self.engine.feature_width), np.float32)
        return FeatureSet(
            self.engine.backbone,
            pooled,
            np.array(self.labels, np.int64),
            np.array(self.pictures, np.int64),
            np.array(self.sizes, np.int64),
        )


def _batches(dataset: Iterable[Example], views: Sequence[View]) -> Iterator[_Batch]:
    preprocessors = [(Preprocessor(view.spec), view.mirrored) for view in views]
    images: list[Float32] = []
    labels: list[int] = []
    pictures: list[int] = []
    for picture, example in enumerate(dataset):
        for preprocess, mirrored in preprocessors:
            image = preprocess(example.pixels)
            images.append(image[..., ::-1] if mirrored else image)
            labels.append(example.label)
            pictures.append(picture)
        if len(images) >= BATCH:
            yield _Batch(np.concatenate(images), labels, pictures)
            images, labels, pictures = [], [], []
    if images:
        yield _Batch(np.concatenate(images), labels, pictures)


def _through(route: CodecRoute, batch: _Batch) -> tuple[Float32, list[int]]:
    """Dequantised latents (B, C, H, W) and payload bytes of each picture of a batch."""
    bitstreams = [route.bitstream(image[None]) for image in batch.images_B3SS]
    return np.stack([route.latent(data) for data in bitstreams]), [len(data) for data in bitstreams]
