"""The shipped label sets, and what a broken catalogue file is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from tasks.catalogue import catalogue_names, load_catalogue, read_catalogue

CLASSES = {"imagenet1k": 1000, "food101": 101, "cifar100": 100, "flowers102": 102}

GOOD = """
format = 1
name = "pets"
title = "Pets"
source = "a shelf"
licence = "mine"
citation = "me"
classes = 2
[labels]
dog = "dog"
n02 = "cat (indoors)"
"""


def test_shipped_names() -> None:
    """The four tasks are there and no other."""
    assert set(CLASSES) == set(catalogue_names())


@pytest.mark.parametrize("name", CLASSES)
def test_shipped_catalogue(name: str) -> None:
    """Each has its number of classes, unique labels, unique keys, and says where it comes from."""
    catalogue = load_catalogue(name)
    assert CLASSES[name] == len(catalogue) == len(catalogue.keys)
    assert CLASSES[name] == len({label.casefold() for label in catalogue.labels})
    assert all((catalogue.title, catalogue.source, catalogue.licence, catalogue.citation))


@pytest.mark.parametrize(
    ("name", "index", "label"),
    [
        ("imagenet1k", 0, "tench"),
        ("imagenet1k", 134, "crane (bird)"),
        ("imagenet1k", 340, "zebra"),
        ("imagenet1k", 404, "airliner"),
        ("imagenet1k", 517, "crane (machine)"),
        ("imagenet1k", 963, "pizza"),
        ("imagenet1k", 999, "toilet tissue"),
        ("food101", 76, "pizza"),
        ("food101", 53, "hamburger"),
        ("cifar100", 0, "apple"),
        ("cifar100", 31, "elephant"),
        ("cifar100", 99, "worm"),
        ("flowers102", 0, "pink primrose"),
        ("flowers102", 101, "blackberry lily"),
    ],
)
def test_order_is_that_of_the_data_set(name: str, index: int, label: str) -> None:
    """Indices are the data sets' own (timm's for ImageNet)."""
    assert label == load_catalogue(name).labels[index]


def test_imagenet_keys_are_synsets_in_order() -> None:
    """So that a folder of ImageNet's classes sorts into the right indices."""
    keys = load_catalogue("imagenet1k").keys
    assert ("n01440764", sorted(keys)) == (keys[0], list(keys))


def test_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no catalogue 'birds': known are cifar100"):
        load_catalogue("birds")


def test_users_catalogue(tmp_path: Path) -> None:
    """A file anywhere reads like ours; keys and labels keep their order."""
    path = tmp_path / "pets.toml"
    path.write_text(GOOD, "utf-8")
    catalogue = read_catalogue(path)
    assert (catalogue.keys, catalogue.labels) == (("dog", "n02"), ("dog", "cat (indoors)"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "has format 2, expected 1"),
        ("classes = 2", "classes = 3", "has 2 labels, its `classes` says 3"),
        ('n02 = "cat (indoors)"', 'n02 = "Dog"', "labels 0 and 1 are both 'Dog'"),
        ('n02 = "cat (indoors)"', 'n02 = ""', "label 1 is ''"),
        ('n02 = "cat (indoors)"', "n02 = 3", "label 1 is 3"),
        ('name = "pets"', "name = 3", "look at name"),
        ("[labels]", "[other]", r"has no \[labels\]"),
        ('dog = "dog"', "dog = ", "cannot be read"),
    ],
)
def test_broken_catalogue(tmp_path: Path, old: str, new: str, message: str) -> None:
    """One line that names the file and what is wrong in it."""
    path = tmp_path / "pets.toml"
    path.write_text(GOOD.replace(old, new), "utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        read_catalogue(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value) or "cannot be read" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_catalogue(tmp_path / "none.toml")
