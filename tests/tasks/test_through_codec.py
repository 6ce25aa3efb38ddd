"""Features through the real bitstream, and heads trained on them, on a small bundle and a simple engine."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.bundle import Bundle
from pipeline.datasets import Example
from pipeline.errors import BundleError, InputError
from pipeline.runtime.engine import Features
from tasks.catalogue import load_catalogue
from tasks.feature_cache import FeatureCache
from tasks.through_codec import CodecRoute, evaluation_view, features_both_ways, features_of, live_view
from tasks.train_default import add_heads, fill_cache, find_data, train_heads
from tests.bundles import backbone, random_bundle

pytest.importorskip("scipy")

WIDTH = 8


class MeanEngine:
    """Pooled features are block means of the picture's or latent's channels: enough to tell colours apart."""

    backend = "test"
    device = "cpu"
    backbone = "null"
    feature_width = WIDTH

    def from_latents(self, latents_BCHW: np.ndarray) -> Features:
        means = latents_BCHW[:, :WIDTH].mean(axis=(2, 3))
        return Features(means.astype(np.float32), 0.0, 0.0)

    def from_images(self, images_B3HW: np.ndarray) -> Features:
        means = images_B3HW.mean(axis=(2, 3))
        return Features(np.tile(means, (1, 3))[:, :WIDTH].astype(np.float32), 0.0, 0.0)

    def classifier(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((1000, WIDTH), np.float32), np.zeros(1000, np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    only = backbone("null", alias="", pooled_width=WIDTH, default=True)
    return random_bundle(tmp_path_factory.mktemp("codec") / "bundle", backbones=(only,))


def pictures(count: int) -> list[Example]:
    """Noisy pictures whose colour is their class."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (count, 1, 1, 3))
    noise = rng.integers(-9, 10, (count, 40, 50, 3))
    pixels = np.clip(colours + noise, 0, 255).astype(np.uint8)
    return [Example(image, label, str(label)) for label, image in enumerate(pixels)]


def test_codec_route_is_what_an_edge_and_a_server_do(bundle: Bundle) -> None:
    """Bytes decode to the latent within half a step of what went in."""
    route = CodecRoute(bundle, operating_point="high")
    image = route.encoder.preprocess(pictures(1)[0].pixels)
    bitstream = route.bitstream(image)
    point = bundle.latent_spec.operating_points[route.point]
    error = np.abs(route.latent(bitstream) - route.encoder.analyse(image))
    assert (route.operating_point, (error <= 0.5001 / point.gain[:, None, None]).all()) == ("high", True)


def test_unknown_operating_point(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="operating point 'best' is not in this bundle"):
        CodecRoute(bundle, operating_point="best")


def test_features_of_both_ways(bundle: Bundle) -> None:
    """One pass gives what two give alone; labels, pictures and bytes lie beside the features."""
    examples = pictures(5)
    views = [live_view(bundle), evaluation_view(bundle, mirrored=True)]
    both = features_both_ways(examples, CodecRoute(bundle), [MeanEngine()], views)["null"]
    assert [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] == both.codec.labels_M.tolist() == both.direct.pictures_M.tolist()
    assert (both.codec.payload_bytes_M > 0).all()
    assert (both.direct.payload_bytes_M == 0).all()
    for through, expected in ((True, both.codec), (False, both.direct)):
        alone = features_of(examples, bundle, MeanEngine(), through_codec=through, view=views[0])
        np.testing.assert_allclose(expected.pooled_MD[::2], alone.pooled_MD, rtol=1e-5)


def test_no_pictures_no_features(bundle: Bundle) -> None:
    assert features_of([], bundle, MeanEngine()).pooled_MD.shape == (0, WIDTH)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cifar100 of three pictures a class and split, whose colour is their class."""
    folder = tmp_path_factory.mktemp("data")
    colours = np.random.default_rng(3).integers(0, 256, (100, 3))
    for split in ("train", "test"):
        with tarfile.open(folder / f"cifar100-{split}.tar", "w") as archive:
            for key, colour in zip(load_catalogue("cifar100").keys, colours, strict=True):
                for number in range(3 if split == "train" else 1):
                    stream = io.BytesIO()
                    Image.new("RGB", (32, 32), tuple(int(c) for c in colour)).save(stream, "PNG")
                    member = tarfile.TarInfo(f"{split}/{key}/{number}.png")
                    member.size = stream.tell()
                    stream.seek(0)
                    archive.addfile(member, stream)
    return folder


def test_trained_heads_go_into_the_bundle(bundle: Bundle, data: Path) -> None:
    """New heads replace those of their task, the others and the edge half stay, figures land in the manifest."""
    heads, figures = train_heads(bundle, [MeanEngine()], data, tasks=["cifar100"])
    entry, weight, bias = heads[0]
    assert (entry.task, entry.backbone, entry.classes) == ("cifar100", "null", 100)
    assert (weight.shape, bias.shape) == ((100, WIDTH), (100,))
    assert figures[0].direct.value > 50, "colours can be told apart"
    assert figures[0].pictures == 100
    folder = Path(bundle.where)
    kept = {head.task for head in bundle.heads() if head.task != "cifar100"}
    written = add_heads(folder, heads, figures)
    assert bundle.codec_id == written.codec_id
    assert bundle.bundle_id != written.bundle_id
    assert kept | {"cifar100"} == {head.task for head in written.heads()}
    stored = next(head for head in written.heads() if head.task == "cifar100")
    np.testing.assert_allclose(weight, written.head_arrays(stored)[0], rtol=1e-2, atol=1e-3)
    assert figures[0].as_table() == written.manifest.figures["heads"]["cifar100"]["null"]


def test_cached_features_are_not_computed_again(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    """What does not depend on the codec is computed once; a damaged file is made again."""
    cache = FeatureCache(tmp_path / "cache")
    fill_cache(bundle, [MeanEngine()], data, cache, tasks=["cifar100"], pictures_max=10)
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2

    class Blind(MeanEngine):
        def from_images(self, images_B3HW: np.ndarray) -> Features:
            raise AssertionError("was computed already")

    heads, _figures = train_heads(bundle, [Blind()], data, tasks=["cifar100"], pictures_max=10, cache=cache)
    plain, _figures = train_heads(bundle, [MeanEngine()], data, tasks=["cifar100"], pictures_max=10)
    np.testing.assert_array_equal(heads[0][1], plain[0][1])
    files[0].write_bytes(b"damaged")
    fill_cache(bundle, [MeanEngine()], data, cache, tasks=["cifar100"], pictures_max=10)
    assert files[0].stat().st_size > 100


def test_missing_data_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no food101 in .*: looked for food101\.tar, food-101"):
        find_data(tmp_path, "food101", "train")
