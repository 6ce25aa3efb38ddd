"""Photo stores and crops: decoded once, drawn reproducibly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.errors import ConfigError, InputError  # noqa: E402
from pipeline.training.data import (  # noqa: E402
    Augmentation,
    CropSampler,
    PhotoSource,
    PhotoStore,
    build_photo_store,
    evaluation_view,
    read_photos,
)
from tests.pipeline.training.photos import photo, write_tar  # noqa: E402

NAMES = ["train/a.png", "train/b.png", "train/c.png", "test/d.png"]


@pytest.fixture
def store(tmp_path: Path) -> PhotoStore:
    return build_photo_store([PhotoSource(write_tar(tmp_path / "photos.tar", NAMES))], tmp_path / "store")


def test_store_holds_the_pixels(store: PhotoStore, tmp_path: Path) -> None:
    """Photos come back as they were, also when the store is opened again without its source."""
    (tmp_path / "photos.tar").unlink()
    again = PhotoStore(tmp_path / "store")
    assert len(store) == len(again) == 4
    in_order = [NAMES.index(name) for name in sorted(NAMES)]
    for number, seed in enumerate(in_order):
        np.testing.assert_array_equal(again[number], photo(seed))


def test_prefix_and_stride(tmp_path: Path) -> None:
    """Only names under the prefix count, and of those every n-th."""
    source = PhotoSource(write_tar(tmp_path / "photos.tar", NAMES), prefix="train/", stride=2)
    assert [name for name, _encoded in read_photos(source)] == ["train/a.png", "train/c.png"]


def test_missing_source(tmp_path: Path) -> None:
    """A source that cannot be read is an InputError naming it."""
    with pytest.raises(InputError, match=r"nothing\.tar"):
        list(read_photos(PhotoSource(tmp_path / "nothing.tar")))


def test_batches_depend_on_seed_and_step_only(store: PhotoStore) -> None:
    """The same step gives the same crops in any order of asking; another step or seed gives others."""
    first, second = CropSampler(store, seed=1), CropSampler(store, seed=1)
    late = second.batch(5, size=32, count=3)
    assert torch.equal(first.batch(4, size=32, count=3), second.batch(4, size=32, count=3))
    assert torch.equal(first.batch(5, size=32, count=3), late)
    assert not torch.equal(first.batch(4, size=32, count=3), late)
    assert not torch.equal(CropSampler(store, seed=2).batch(5, size=32, count=3), late)


def test_batches_are_encoder_inputs(store: PhotoStore) -> None:
    """float32 in [0, 1], channels last in memory."""
    batch = CropSampler(store, seed=1).batch(0, size=48, count=2)
    assert batch.shape == (2, 3, 48, 48)
    assert batch.dtype == torch.float32
    assert 0 <= batch.min() <= batch.max() <= 1
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_weights_steer_the_draw(tmp_path: Path) -> None:
    """A photo of weight 0 is never drawn."""
    write_tar(tmp_path / "a.tar", ["a.png"])
    write_tar(tmp_path / "b.tar", ["b.png", "c.png"])
    sources = [PhotoSource(tmp_path / "a.tar"), PhotoSource(tmp_path / "b.tar", weight=0.0)]
    store = build_photo_store(sources, tmp_path / "store")
    plain = Augmentation(scale=(1.0, 1.0), brightness=0, contrast=0, saturation=0)
    crop = CropSampler(store, seed=0, augmentation=plain).batch(0, size=72, count=1)[0]
    found = (crop.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    columns = [photo(0)[:, left : left + 72] for left in range(25)]
    assert any(np.array_equal(found, view) or np.array_equal(found, view[:, ::-1]) for view in columns)


@pytest.mark.parametrize(("height", "width"), [(256, 400), (100, 80), (224, 224)])
def test_evaluation_view(height: int, width: int) -> None:
    """Whatever the photo's shape, evaluation sees 224 x 224 in [0, 1]."""
    view = evaluation_view(photo(0, height=height, width=width))
    assert view.shape == (1, 3, 224, 224)
    assert 0 <= view.min() <= view.max() <= 1


def test_broken_images_are_left_out(tmp_path: Path) -> None:
    """An image that does not decode is named and costs nothing else; with none that does, one line says so."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1 images, none of which decodes \(folder/a\.jpg is no image\)"):
        build_photo_store([PhotoSource(folder)], tmp_path / "store")
    good = PhotoSource(write_tar(tmp_path / "photos.tar", NAMES))
    store = build_photo_store([PhotoSource(folder), good], tmp_path / "store")
    assert len(store) == 4
    assert store.broken == ["folder/a.jpg is no image"]
    with pytest.raises(InputError, match=r"no images; expected \.bmp"):
        build_photo_store([PhotoSource(folder, prefix="z")], tmp_path / "other")


def test_a_store_is_not_taken_for_another(store: PhotoStore, tmp_path: Path) -> None:
    """Asked for other photos, also of the same name, an existing store is refused; asked for the same from elsewhere,
    it is opened.
    """
    (tmp_path / "moved").mkdir()
    moved = write_tar(tmp_path / "moved" / "photos.tar", NAMES)
    assert build_photo_store([PhotoSource(moved)], tmp_path / "store").sha256 == store.sha256
    with pytest.raises(ConfigError, match=r"holds photos\.tar::1:1, \d+ bytes, asked for are photos\.tar:train/:1:1"):
        build_photo_store([PhotoSource(moved, prefix="train/")], tmp_path / "store")
    namesake = write_tar(tmp_path / "moved" / "photos.tar", [*NAMES, "more.png"])
    with pytest.raises(ConfigError, match="name another --store"):
        build_photo_store([PhotoSource(namesake)], tmp_path / "store")


def test_a_full_disk_leaves_no_half_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the pixels: one line with the reason, and the next start begins anew."""

    def full(*_arguments: object, **_arrays: object) -> None:
        raise OSError(28, "No space left on device")

    source = PhotoSource(write_tar(tmp_path / "photos.tar", NAMES))
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(InputError, match=r"cannot store the photos' pixels .*No space left on device"):
            build_photo_store([source], tmp_path / "store")
    assert not (tmp_path / "store" / "pixels.u8").exists()
    assert len(build_photo_store([source], tmp_path / "store")) == 4


def test_a_damaged_store(store: PhotoStore, tmp_path: Path) -> None:
    """A store that was cut short is refused, with what to do."""
    (tmp_path / "store" / "pixels.u8").write_bytes(b"123")
    with pytest.raises(InputError, match="cut short: delete it"):
        PhotoStore(tmp_path / "store")
    (tmp_path / "store" / "index.npz").write_bytes(b"123")
    with pytest.raises(InputError, match="cannot be read"):
        PhotoStore(tmp_path / "store")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{}", ("", 1, 1.0)), ("{}:train/", ("train/", 1, 1.0)), ("{}:train/:2:0.5", ("train/", 2, 0.5))],
)
def test_sources_are_written_with_colons(tmp_path: Path, text: str, expected: tuple[str, int, float]) -> None:
    source = PhotoSource.parse(text.format(tmp_path))
    assert (source.path, source.prefix, source.stride, source.weight) == (tmp_path, *expected)


@pytest.mark.parametrize("text", ["{}:a:b", "{}:a:0", "{}:a:1:-1", "{}:a:1:1:1"])
def test_sources_in_another_form(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="expected PATH"):
        PhotoSource.parse(text.format(tmp_path))
