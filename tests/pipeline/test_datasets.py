"""Readers on small data sets made here: every layout, broken pictures, and what is refused."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.datasets import UNLABELLED, decode_image, images, open_dataset, per_class, read_image
from pipeline.errors import InputError

RED, GREEN = (250, 5, 5), (5, 250, 5)


def encoded(
    colour: tuple[int, ...] = RED, *, kind: str = "PNG", size: tuple[int, int] = (8, 6), mode: str = "RGB"
) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, kind)
    return stream.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


def labels(path: Path, **options: object) -> list[tuple[str, int]]:
    return [(example.name, example.label) for example in open_dataset(path, **options)]  # type: ignore[arg-type]


SPLIT_FILES = {
    "train/cat/1.png": encoded(),
    "train/dog/1.png": encoded(GREEN),
    "test/dog/2.png": encoded(GREEN),
    "classes.txt": b"cat\ndog\n",
}


# --- Layouts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_tar, write_folder])
def test_split_and_class_folders(tmp_path: Path, write: object) -> None:
    """Class indices are the same in all splits, also where a split lacks a class; tar and folder read alike."""
    path = write(tmp_path / "pets.tar", SPLIT_FILES)  # type: ignore[operator]
    assert labels(path, split="train") == [("train/cat/1.png", 0), ("train/dog/1.png", 1)]
    assert labels(path, split="test") == [("test/dog/2.png", 1)]
    assert labels(path, split="val") == [("test/dog/2.png", 1)], "no val split: test stands in"
    dataset = open_dataset(path)
    assert dataset.classes == ("cat", "dog")
    np.testing.assert_array_equal(np.full((6, 8, 3), GREEN), next(iter(dataset)).pixels)


def test_class_that_is_called_like_a_split(tmp_path: Path) -> None:
    """CIFAR-100 has a class `train`."""
    deep = {f"{split}/{kind}/1.png": encoded() for split in ("train", "test") for kind in ("bus", "train")}
    path = write_tar(tmp_path / "c.tar", deep)
    assert labels(path) == [("test/bus/1.png", 0), ("test/train/1.png", 1)]
    flat = write_folder(tmp_path / "flat", {"bus/1.png": encoded(), "train/1.png": encoded()})
    assert labels(flat, split="test") == [("bus/1.png", 0), ("train/1.png", 1)]


@pytest.mark.parametrize("write", [write_tar, write_folder])
def test_what_lies_beside_split_folders_is_left_aside(tmp_path: Path, write: object) -> None:
    """Hidden files and folders and pictures at the top belong to no split, and make no class."""
    strange = {"cover.png": encoded(), ".thumbs/x.png": encoded(), "train/cat/._1.png": b"x"}
    path = write(tmp_path / "pets.tar", SPLIT_FILES | strange)  # type: ignore[operator]
    assert labels(path, split="train") == [("train/cat/1.png", 0), ("train/dog/1.png", 1)]
    assert labels(path, split="test") == [("test/dog/2.png", 1)]


def test_given_classes_fix_the_order(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "pets.tar", SPLIT_FILES)
    assert labels(path, classes=["bird", "cat", "dog"]) == [("test/dog/2.png", 2)]
    with pytest.raises(InputError, match="has class 'dog', which is none of the 1 asked for"):
        open_dataset(path, classes=["cat"])


def test_shards_without_labels(tmp_path: Path) -> None:
    """Several tars in a folder are one data set; pictures without folders have no label."""
    for shard in (0, 1):
        write_tar(tmp_path / f"train-{shard}.tar", {f"{shard}.png": encoded()})
    assert labels(tmp_path) == [("0.png", UNLABELLED), ("1.png", UNLABELLED)]


def test_tar_with_a_table(tmp_path: Path) -> None:
    """labels.csv inside, numbers as they are; a row without its picture is broken, not fatal."""
    table = b"filename,imagenet_index\na.png,388\nb.png,7\ngone.png,1\n"
    path = write_tar(tmp_path / "eval.tar", {"labels.csv": table, "a.png": encoded(), "b.png": encoded()})
    dataset = open_dataset(path)
    assert [example.label for example in dataset] == [388, 7]
    assert dataset.broken == ["gone.png: is in the table but not in the data set"]


def test_webdataset_pairs(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "w.tar", {"1.jpg": encoded(kind="JPEG"), "1.cls": b"42", "2.jpg": encoded(kind="JPEG")})
    assert labels(path) == [("1.jpg", 42), ("2.jpg", UNLABELLED)]


def test_csv_list(tmp_path: Path) -> None:
    """Paths beside the table, class names sorted, splits by column."""
    write_folder(tmp_path, {"a.png": encoded(), "b.png": encoded()})
    (tmp_path / "labels.csv").write_text("path,label,split\na.png,zebra,train\nb.png,cow,test\n")
    assert labels(tmp_path, split="test") == [("b.png", 0)]
    assert labels(tmp_path / "labels.csv", split="train") == [("a.png", 1)]
    assert labels(tmp_path, split="val") == [("b.png", 0)], "no val split: test stands in"


def test_table_as_excel_writes_it(tmp_path: Path) -> None:
    """A mark before the first column; in a tar too."""
    table = "\ufeffpath,label\na.png,cow\n".encode()
    write_folder(tmp_path / "folder", {"a.png": encoded(), "labels.csv": table})
    assert labels(tmp_path / "folder") == [("a.png", 0)]
    assert labels(write_tar(tmp_path / "t.tar", {"labels.csv": table, "a.png": encoded()})) == [("a.png", 0)]


def test_short_row_of_a_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\na.png,cow\nb.png\n")
    with pytest.raises(InputError, match=r"labels\.csv: row 2 below the heading has no label: add it"):
        open_dataset(tmp_path)


def test_labels_that_only_look_like_numbers(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.png": encoded(), "b.png": encoded()})
    (tmp_path / "labels.csv").write_text("path,label\na.png,²\nb.png,1\n", "utf-8")
    assert open_dataset(tmp_path).classes == ("1", "²")


def test_food101_as_published(tmp_path: Path) -> None:
    files = {
        "images/pizza/1.jpg": encoded(kind="JPEG"),
        "images/pho/2.jpg": encoded(kind="JPEG"),
        "meta/classes.txt": b"pho\npizza\n",
        "meta/train.txt": b"pizza/1\n",
        "meta/test.txt": b"pho/2\n",
    }
    path = write_folder(tmp_path / "food-101", files)
    assert labels(path, split="train") == [("pizza/1", 1)]
    assert labels(path, split="test") == [("pho/2", 0)]


def test_flowers102_as_published(tmp_path: Path) -> None:
    """Class numbers 1 to 102 become 0 to 101; splits are lists of picture numbers."""
    savemat = pytest.importorskip("scipy.io").savemat
    write_folder(tmp_path, {f"jpg/image_{i:05d}.jpg": encoded(kind="JPEG") for i in (1, 2, 3)})
    savemat(tmp_path / "imagelabels.mat", {"labels": [[77, 1, 102]]})
    savemat(tmp_path / "setid.mat", {"trnid": [[1, 2]], "valid": [[2]], "tstid": [[3]]})
    assert [label for _name, label in labels(tmp_path, split="train")] == [76, 0]
    assert labels(tmp_path, split="test") == [("image_00003.jpg", 101)]


def cifar_table(pictures: np.ndarray) -> dict[bytes, object]:
    names = [b"apple_s_0.png", b"worm_s_1.png"]
    return {b"data": pictures, b"fine_labels": [0, 99], b"coarse_labels": [1, 2], b"filenames": names}


def test_cifar100_as_published(tmp_path: Path) -> None:
    """The Python version and the binary version give the same pictures and labels."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    for part in ("train", "test", "meta"):
        write_folder(tmp_path / "py", {part: pickle.dumps(cifar_table(pictures), protocol=2)})
    records = np.concatenate([np.array([[1, 0], [2, 99]], np.uint8), pictures], axis=1)
    write_folder(tmp_path / "bin", {"train.bin": records.tobytes(), "test.bin": records.tobytes()})
    ours, theirs = list(open_dataset(tmp_path / "py")), list(open_dataset(tmp_path / "bin"))
    assert [0, 99] == [example.label for example in ours] == [example.label for example in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(pictures[1].reshape(3, 32, 32)[2], ours[1].pixels[:, :, 2])


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (sys.exit, (7,))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(Hostile()), "pickle asks for .*exit: that is no CIFAR file"),
        (b"no pickle at all", "is no CIFAR file"),
        (pickle.dumps([1, 2]), "it holds a list"),
        (b"", "is no CIFAR file"),
    ],
)
def test_hostile_pickle_runs_nothing(tmp_path: Path, data: bytes, message: str) -> None:
    path = write_folder(tmp_path, {"meta": b"", "test": data})
    with pytest.raises(InputError, match=message):
        open_dataset(path)


# --- Behaviour -----------------------------------------------------------------------------------------------


def test_broken_pictures_are_named_and_skipped(tmp_path: Path) -> None:
    """Empty, cut, or not a picture: counted by name, the others come; a second pass counts anew."""
    good = encoded(kind="JPEG", size=(64, 64))
    files = {"a/1.jpg": good, "a/2.jpg": b"", "b/3.jpg": good[:30], "b/4.png": b"text", "b/5.jpg": good}
    dataset = open_dataset(write_folder(tmp_path, files))
    for _pass in range(2):
        assert [example.name for example in dataset] == ["a/1.jpg", "b/5.jpg"]
        assert [line.partition(":")[0] for line in dataset.broken] == ["a/2.jpg", "b/3.jpg", "b/4.png"]


def test_per_class_takes_the_first_of_each(tmp_path: Path) -> None:
    files = {f"{kind}/{i}.png": encoded() for kind in "ab" for i in range(3)}
    items = per_class(open_dataset(write_folder(tmp_path, files)).items(), 2)
    assert [item.name for item in items] == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b""}, "has no pictures for split 'test'"),
        ({"labels.csv": b"path,label\n"}, "labels.csv has no rows"),
        ({"labels.csv": b"a,b\n1,2\n"}, "the heading is a, b, expected a column path or filename or file"),
        ({"s.tar": b"no tar"}, "cannot be read"),
        ({"test.bin": b"12345"}, "is 5 bytes, expected a multiple of 3074"),
    ],
)
def test_what_is_no_data_set(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_dataset(write_folder(tmp_path / "d", files))


def test_unknown_split_and_missing_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="split is 'dev', expected one of train, val, test"):
        open_dataset(tmp_path, split="dev")
    with pytest.raises(InputError, match="there is no data set at"):
        open_dataset(tmp_path / "none")


# --- Decoding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("RGB", (10, 20, 30), "PNG", (10, 20, 30)),
        ("L", 77, "PNG", (77, 77, 77)),
        ("L", 77, "JPEG", (77, 77, 77)),
        ("RGBA", (200, 0, 0, 0), "PNG", (255, 255, 255)),
        ("LA", (9, 255), "PNG", (9, 9, 9)),
        ("P", 0, "PNG", (0, 0, 0)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("I;16", 32896, "PNG", (128, 128, 128)),
        ("CMYK", (0, 0, 0, 0), "JPEG", (255, 255, 255)),
        *(("RGB", (10, 20, 30), kind, (10, 20, 30)) for kind in ("WEBP", "BMP", "GIF", "TIFF", "PPM")),
    ],
)
def test_every_kind_of_picture_becomes_rgb(
    mode: str, colour: object, kind: str, expected: tuple[int, int, int]
) -> None:
    """Grey, palette, 16 bits, CMYK; transparency is laid over white."""
    pixels = decode_image(encoded(colour, mode=mode, kind=kind))  # type: ignore[arg-type]
    assert pixels.shape == (6, 8, 3)
    np.testing.assert_allclose(np.broadcast_to(expected, (6, 8, 3)), pixels.astype(int), atol=6)


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA"])
def test_other_formats_are_none_of_ours(kind: str) -> None:
    """Pillow would start Ghostscript for the first, whatever the file is called."""
    with pytest.raises(InputError, match=r"birds/1\.jpg is no picture in a known format"):
        decode_image(encoded(kind=kind), name="birds/1.jpg", upright=True)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_size_is_checked_before_decoding(kind: str) -> None:
    with pytest.raises(InputError, match="photo is 8×6, limit 47 pixels: scale it down first"):
        decode_image(encoded(kind=kind), name="photo", pixels_max=47)
    assert decode_image(encoded(kind=kind), pixels_max=48).shape == (6, 8, 3)


def test_photographs_are_turned_upright() -> None:
    """EXIF orientation 6: the camera was held on its side."""
    picture = Image.new("RGB", (8, 6), RED)
    exif = picture.getexif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    picture.save(stream, "JPEG", exif=exif)
    assert decode_image(stream.getvalue(), upright=True).shape == (8, 6, 3)
    assert decode_image(stream.getvalue()).shape == (6, 8, 3)


def test_light_edge_decodes_with_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without simplejpeg and Pillow (base install)."""
    data = encoded(kind="PNG", size=(32, 16))
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    pixels = decode_image(data)
    np.testing.assert_allclose(np.broadcast_to(RED, (16, 32, 3)), pixels.astype(int), atol=6)
    with pytest.raises(InputError, match="limit 10 pixels"):
        decode_image(data, pixels_max=10)


def test_nothing_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded()
    for module in ("simplejpeg", "PIL", "av"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match="install Pillow"):
        decode_image(data)


def decoded_or_line(data: bytes) -> tuple[int, ...] | bool:
    """The picture's shape, or whether the error is one line."""
    try:
        return decode_image(data).shape
    except InputError as error:
        return "\n" not in str(error)


@given(
    data=st.binary(min_size=1, max_size=200),
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"]),
)
def test_any_bytes_give_pixels_or_one_line(data: bytes, start: bytes) -> None:
    """Law: InputError of one line and nothing else."""
    assert decoded_or_line(start + data)


@given(cut=st.integers(0, 400))
def test_cut_pictures_give_pixels_or_one_line(cut: int) -> None:
    data = encoded(kind="JPEG", size=(40, 40))
    assert decoded_or_line(data[: max(1, len(data) - cut)]) in ((40, 40, 3), True)


def test_read_image(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(encoded())
    assert read_image(path).shape == (6, 8, 3)
    with pytest.raises(InputError, match=r"cannot read image .*none\.png: No such file"):
        read_image(tmp_path / "none.png")


def test_16_bit_grey_keeps_its_range() -> None:
    """Pillow alone would clip it to white."""
    values = np.array([[0, 257, 65535]], np.uint16)
    assert images._from_wide_grey(values)[:, :, 0].tolist() == [[0, 1, 255]]
