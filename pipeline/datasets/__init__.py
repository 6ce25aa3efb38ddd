"""Readers of labelled pictures: tar shards, class folders, CSV lists, and the standard layouts of the shipped tasks.

`open_dataset` looks at what lies at a path and picks the reader:

    <path>.tar, or a folder of .tar files    members `[split/]class/name.jpg`; or any names with a `labels.csv`
                                             inside; or WebDataset pairs `name.jpg`, `name.cls`
    <folder>/[split/]class/name.jpg          one folder a class
    <file>.csv, <folder>/labels.csv          columns: path or filename, label or imagenet_index
    food-101/                                as published: images/, meta/train.txt, meta/classes.txt
    102flowers/                              as published: jpg/, imagelabels.mat, setid.mat; needs scipy
    cifar-100-python/, cifar-100-binary/     as published

Everything is lazy: a picture is read and decoded when the loop reaches it. A picture that does not decode is named in
`Dataset.broken` and skipped.
"""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.datasets import listings, published
from pipeline.datasets.examples import UNLABELLED, Dataset, Example, Item, per_class
from pipeline.datasets.images import decode_image, read_image
from pipeline.datasets.listings import IMAGE_SUFFIXES, SPLITS
from pipeline.errors import InputError

__all__ = [
    "IMAGE_SUFFIXES",
    "SPLITS",
    "UNLABELLED",
    "Dataset",
    "Example",
    "Item",
    "decode_image",
    "open_dataset",
    "per_class",
    "read_image",
]


def open_dataset(path: str | Path, *, split: str = "test", classes: Sequence[str] | None = None) -> Dataset:
    """The data set at `path`; see the module for the layouts.

    `classes` fixes the order of the classes (names of folders), e.g. a catalogue's keys; without it they are sorted.
    Data without splits gives all of it for every `split`. Raises InputError if nothing there is a data set.
    """
    place = Path(path).expanduser()
    if split not in SPLITS:
        raise InputError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    if not place.exists():
        raise InputError(f"there is no data set at {place}: check the path")
    for fits, reader in _LAYOUTS:
        if fits(place):
            try:
                return reader(place, split, classes)
            except (OSError, tarfile.TarError, UnicodeDecodeError, csv.Error, KeyError) as error:
                raise InputError(f"data set {place} cannot be read: {type(error).__name__}: {error}") from None
    raise InputError(
        f"{place} is no data set that we know: expected class folders, .tar shards, labels.csv or a published layout"
    )


# In this order: published layouts are told by their own files, class folders are what is left.
_LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path, str, Sequence[str] | None], Dataset]], ...] = (
    (lambda path: (path / "meta" / "classes.txt").is_file() and (path / "images").is_dir(), published.food101),
    (lambda path: (path / "imagelabels.mat").is_file(), published.flowers102),
    (lambda path: (path / "test.bin").is_file() or (path / "meta").is_file(), published.cifar100),
    (lambda path: path.suffix.lower() == ".csv" or (path / "labels.csv").is_file(), listings.csv_list),
    (lambda path: path.suffix.lower() == ".tar" if path.is_file() else any(path.glob("*.tar")), listings.tar_shards),
    (lambda path: path.is_dir(), listings.class_folders),
)
