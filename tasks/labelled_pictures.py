"""A user's labelled pictures: which there are, what their classes are called, and which are held out.

Takes what pipeline.datasets reads: a folder a class, a CSV, tar shards, published layouts. Data that comes with a split
of its own (train/ and val/ or test/) keeps it; else a fifth of each class is held out, chosen by the hash of its name,
so that the same pictures are held out the next time too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import limits
from pipeline.datasets import IMAGE_SUFFIXES, Dataset, Item, open_dataset
from pipeline.errors import ConfigError, InputError
from tasks.example_store import HELD_OUT_SHARE, label_text


@dataclass(frozen=True)
class Picture:
    """One picture that has not been read yet: where, of which class, held out or not."""

    item: Item
    label: int
    held_out: bool


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures with their classes' names (NFC), and lines for people about what was left aside."""

    pictures: tuple[Picture, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def counts(self) -> list[int]:
        """Pictures of each class."""
        counts = [0] * len(self.classes)
        for picture in self.pictures:
            counts[picture.label] += 1
        return counts


def find_pictures(place: Path, *, pictures_max: int | None = None) -> LabelledPictures:
    """What lies at `place`. `pictures_max`: of each class, the first ones by the hash of their names.

    Raises InputError: nothing there, no labels, too many classes.
    """
    learn, held = (_opened(place, split) for split in ("train", "val"))
    learn_items, held_items = list(learn.items()), list(held.items())
    # Data without a split of its own gives all of it for both.
    own_split = not {item.name for item in learn_items} <= {item.name for item in held_items}
    everything = list({(item.name, item.label): item for item in (*learn_items, *held_items)}.values())
    labelled = [item for item in everything if item.label >= 0]
    notes = _notes(place, len(everything) - len(labelled), own_split)
    if not labelled:
        raise InputError(
            f"{place} has no labelled pictures: expected a folder for each class, a CSV with path and label, "
            "or tar shards"
        )
    names = _class_names(learn, labelled)
    classes = tuple(sorted(set(names.values())))
    if len(classes) > limits.TASK_CLASSES_MAX:
        raise InputError(f"{place} has {len(classes)} classes, limit {limits.TASK_CLASSES_MAX}: divide it into tasks")
    index = {name: number for number, name in enumerate(classes)}
    of = {label: index[name] for label, name in names.items()}
    held_names = {item.name for item in held_items} if own_split else _choose_held_out(labelled, of)
    pictures = [Picture(item, of[item.label], item.name in held_names) for item in labelled]
    if pictures_max is not None:
        pictures = _thinned(pictures, pictures_max)
    return LabelledPictures(tuple(pictures), classes, notes)


def _opened(place: Path, split: str) -> Dataset:
    try:
        return open_dataset(place, split=split)
    except InputError as error:
        if "has no pictures" in str(error):  # whoever has no splits need not read about them
            raise InputError(
                f"{place} has no pictures: expected a folder for each class, with pictures in it"
            ) from None
        raise


def _class_names(dataset: Dataset, items: Iterable[Item]) -> dict[int, str]:
    """Label → name. Data with bare numbers is named by them."""
    names = {}
    for label in sorted({item.label for item in items}):
        text = dataset.classes[label] if label < len(dataset.classes) else str(label)
        try:
            names[label] = label_text(text)
        except ConfigError as error:
            raise InputError(f"a class has no usable name: {error}") from None
    return names


def _choose_held_out(items: Sequence[Item], of: dict[int, int]) -> set[str]:
    by_class: dict[int, list[str]] = {}
    for item in items:
        by_class.setdefault(of[item.label], []).append(item.name)
    chosen: set[str] = set()
    for names in by_class.values():
        if len(names) > 1:
            chosen.update(sorted(names, key=_hash)[: max(1, round(HELD_OUT_SHARE * len(names)))])
    return chosen


def _thinned(pictures: Sequence[Picture], count: int) -> list[Picture]:
    """At most `count` of each class, a fifth of them held out."""
    kept: list[Picture] = []
    for held_out, share in ((True, HELD_OUT_SHARE), (False, 1 - HELD_OUT_SHARE)):
        most = max(1, round(share * count))
        seen: dict[int, int] = {}
        half = [one for one in pictures if one.held_out == held_out]
        for picture in sorted(half, key=lambda one: _hash(one.item.name)):
            seen[picture.label] = seen.get(picture.label, 0) + 1
            if seen[picture.label] <= most:
                kept.append(picture)
    return kept


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def _notes(place: Path, unlabelled: int, own_split: bool) -> tuple[str, ...]:
    notes = []
    listed = not place.is_dir() or (place / "labels.csv").exists()
    if own_split and not listed:  # what lies beside train/ and val/ is of neither
        unlabelled += sum(_is_picture(path) for path in place.iterdir())
    if unlabelled:
        notes.append(f"{unlabelled} pictures lie outside any class and are left aside")
    if not listed:
        folders = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
        empty = [path.name for path in folders if not _has_pictures(path)]
        if empty:
            notes.append(f"no pictures in {', '.join(empty[:5])}{' …' if len(empty) > 5 else ''}: left aside")
    return tuple(notes)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in (*IMAGE_SUFFIXES, ".tar") for path in folder.rglob("*"))
