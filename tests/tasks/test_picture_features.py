"""Features of many pictures on many threads: the same as one by one, in order, broken ones named."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.bundle import Bundle
from pipeline.datasets import Dataset, Item
from pipeline.errors import ConfigError, InputError
from tasks.adding import gather_examples
from tasks.labelled_pictures import LabelledPictures, Picture
from tasks.picture_features import picture_features, upright_pixels
from tasks.through_codec import evaluation_view, features_of, live_view
from tests.bundles import backbone, random_bundle
from tests.colour_engine import ColourEngine
from tests.tasks.test_through_codec import WIDTH, MeanEngine


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    only = backbone("null", alias="", pooled_width=WIDTH, default=True)
    return random_bundle(tmp_path_factory.mktemp("features") / "bundle", backbones=(only,))


def png(colour: tuple[int, int, int], size: tuple[int, int] = (50, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def items(count: int, broken: int = -1) -> list[Item]:
    return [
        Item(f"{i}.png", i % 2, lambda i=i: b"junk" if i == broken else png((i * 9, 255 - i * 9, 90)))  # type: ignore[misc]
        for i in range(count)
    ]


def test_the_same_features_as_one_by_one_through_real_bytes(bundle: Bundle) -> None:
    """Leaving the entropy coder out changes nothing, nor do threads."""
    alone = features_of(Dataset("x", (), lambda: items(20)), bundle, MeanEngine(), view=live_view(bundle))
    views = [live_view(bundle), evaluation_view(bundle, mirrored=True)]
    heard: list[int] = []
    many = picture_features(
        items(20), lambda index: views[: 1 + index % 2], bundle, MeanEngine(), threads=3, on_picture=heard.append
    )
    assert many.pictures_M.tolist() == [i for i in range(20) for _ in range(1 + i % 2)]
    first = np.flatnonzero(np.diff(many.pictures_M, prepend=-1))
    assert np.allclose(many.pooled_MD[first], alone.pooled_MD, atol=1e-5)
    assert heard[-1] == 20


def test_broken_pictures_are_named_and_classes_without_any_left_aside(bundle: Bundle) -> None:
    listed = items(6, broken=5)
    pictures = [Picture(item, 2 if i == 5 else i % 2, False) for i, item in enumerate(listed)]
    gathered = gather_examples(LabelledPictures(tuple(pictures), ("a", "b", "c")), bundle, MeanEngine(), threads=2)
    assert gathered.examples.classes == ("a", "b")
    assert (len(gathered.broken), gathered.broken[0][:6]) == (1, "5.png ")
    assert gathered.notes == ("no picture of c can be read: left aside",)
    with pytest.raises(InputError, match=r"none of 1 pictures can be read; the first: 0\.png"):
        gather_examples(LabelledPictures((Picture(items(1, 0)[0], 0, False),), ("a",)), bundle, MeanEngine())


def test_copies_are_one_picture_on_one_side(bundle: Bundle) -> None:
    """Whatever they are called; a held-out copy of what is learnt from is learnt from too, and said so."""
    data = [png((9, 9, 9)), png((99, 9, 9)), png((9, 99, 9)), png((9, 9, 9)), png((9, 99, 9))]
    held = [False, False, True, True, True]
    pictures = [
        Picture(Item(f"{i}.png", 0, lambda i=i: data[i]), i % 2, held[i])  # type: ignore[misc]
        for i in range(5)
    ]
    gathered = gather_examples(LabelledPictures(tuple(pictures), ("a", "b")), bundle, MeanEngine(), views=1)
    assert gathered.examples.groups_M.tolist() == [0, 1, 2, 0, 2]
    assert gathered.examples.held_out_M.tolist() == [False, False, True, False, True]
    assert gathered.notes == ("1 of the held-out pictures are copies of others: they are learnt from as those are",)


def test_feature_maps_where_they_are_wanted(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the views; too many for the memory, and an engine without any, are told in a line."""
    views = [live_view(bundle)]
    found = picture_features(items(3), lambda index: views, bundle, ColourEngine(), maps=True)
    assert found.maps_MFhw is not None
    assert np.allclose(found.maps_MFhw.mean(axis=(2, 3), dtype=np.float32), found.pooled_MD, atol=1e-2)
    with pytest.raises(ConfigError, match="hands out no feature maps"):
        picture_features(items(3), lambda index: views, bundle, MeanEngine(), maps=True)
    monkeypatch.setattr("tasks.picture_features.MAP_BYTES_MAX", 100_000)
    with pytest.raises(ConfigError, match="feature maps of 3 views take 0 MB of memory, limit 0"):
        picture_features(items(3), lambda index: views, bundle, ColourEngine(), maps=True)


def test_photos_are_seen_upright() -> None:
    """A camera that was held sideways says so in the file."""
    buffer = io.BytesIO()
    turned = Image.new("RGB", (80, 40), (255, 0, 0))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(buffer, "JPEG", exif=exif)
    assert upright_pixels(buffer.getvalue(), name="x", side=224).shape == (80, 40, 3)


def test_large_photos_are_decoded_small() -> None:
    """Not beyond the limit that holds for all pictures."""
    pytest.importorskip("simplejpeg")
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 1600), (9, 99, 199)).save(buffer, "JPEG")
    assert upright_pixels(buffer.getvalue(), name="x", side=64).shape == (200, 250, 3)
    large = io.BytesIO()
    Image.new("L", (9000, 5000)).save(large, "JPEG")
    with pytest.raises(InputError, match="x is 9000×5000, limit 40000000 pixels: scale it down"):
        upright_pixels(large.getvalue(), name="x", side=64)
