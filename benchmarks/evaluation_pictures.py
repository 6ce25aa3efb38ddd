"""The pictures of an accuracy benchmark: whatever a glob finds, cut to the squares that every codec gets.

    *.tar, folders      data sets as `pipeline.datasets` knows them, labelled or not
    *.jpg, *.png, …     pictures without labels
    *.mp4, *.mkv, …     every frame of a video, each on its own, without labels

A square is the evaluation crop (256/224, bicubic) rounded to 8 bits, since that is what a picture codec takes; the
unmodified backbone and our encoder get the very same 8 bits. Squares are kept in memory: 150 kB each at 224 pixels.

Axes: N pictures, S side of the encoder's input.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_node.media import VideoFile
from edge_node.payload import to_pixels
from edge_node.sources import VIDEO_SUFFIXES
from pipeline.datasets import IMAGE_SUFFIXES, UNLABELLED, Dataset, Item, open_dataset
from pipeline.datasets.halves import in_half
from pipeline.errors import InputError
from pipeline.preprocess import Preprocessor, PreprocessSpec

OnPicture = Callable[[int, int | None], None]
"""(pictures done, how many there will be if that is known)"""


@dataclass(frozen=True, eq=False)
class Pictures:
    """uint8 `squares_NSS3`, int64 `labels_N` (None: not all are labelled), and what was left out, for people."""

    squares_NSS3: NDArray[np.uint8]
    labels_N: NDArray[np.int64] | None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.squares_NSS3)


def read_pictures(
    pattern: str,
    spec: PreprocessSpec,
    *,
    classes: Sequence[str],
    half: str = "all",
    limit: int | None = None,
    split: str = "test",
    on_picture: OnPicture | None = None,
) -> Pictures:
    """Every picture that `pattern` (a path, or a glob) finds, as squares.

    `classes` are the task's own names of its classes in index order: labels of folders with other names are left out
    with a note. `half` keeps the pictures (videos as a whole) whose name's hash is even or odd. `limit` takes that
    many, evenly spread. Raises InputError if nothing is found or a label is out of range.
    """
    notes: list[str] = []
    sources = _sources(pattern, split, classes, half, notes)
    picked = Dataset(pattern, (), lambda: (item for source in sources for item in source.items()))
    total = None if limit is None else sum(1 for _item in picked.items())
    if limit is not None and total is not None and limit < total:
        picked, total = _spread(picked, limit, total), limit
    squares, labels = [], []
    preprocess = Preprocessor(spec)
    for example in picked:
        squares.append(to_pixels(preprocess(example.pixels)))
        labels.append(example.label)
        if on_picture:
            on_picture(len(squares), total)
    notes += picked.broken
    if not squares:
        reason = notes[0] if notes else "the data are empty, or none falls into this half"
        raise InputError(f"{pattern} gives no pictures: {reason}")
    return Pictures(np.stack(squares), _checked(np.array(labels, np.int64), len(classes), pattern), tuple(notes))


def _spread(dataset: Dataset, limit: int, total: int) -> Dataset:
    """`limit` of the `total` items, evenly spread."""
    chosen = {number * total // limit for number in range(limit)}
    return Dataset(dataset.name, (), lambda: (item for number, item in enumerate(dataset.items()) if number in chosen))


def _checked(labels_N: NDArray[np.int64], classes: int, pattern: str) -> NDArray[np.int64] | None:
    if (labels_N == UNLABELLED).any():
        return None
    if labels_N.max() >= classes:
        raise InputError(f"{pattern} has label {labels_N.max()}, the task has classes 0 to {classes - 1}: check --task")
    return labels_N


def _sources(pattern: str, split: str, classes: Sequence[str], half: str, notes: list[str]) -> list[Dataset]:
    """The chosen half of each thing that the pattern finds; loose pictures are one data set together."""
    place = os.path.expanduser(pattern)
    found = [place] if os.path.exists(place) else sorted(glob.glob(place, recursive=True))
    paths = [Path(path) for path in found]
    if not paths:
        raise InputError(f"nothing matches --data {pattern!r}: check the path, and put a glob into quotes")
    loose = [path for path in paths if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
    sources = [_half_of(_loose(loose), half)] if loose else []
    for path in [path for path in paths if path not in loose]:
        if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            if in_half(path.name, half):  # the frames of a video are too alike to be parted
                sources.append(Dataset(path.name, (), lambda path=path: _frames(path)))  # type: ignore[misc]
        else:
            sources.append(_half_of(_labelled(path, split, classes, notes), half))
    return sources


def _half_of(dataset: Dataset, half: str) -> Dataset:
    return Dataset(dataset.name, (), lambda: (item for item in dataset.items() if in_half(item.name, half)))


def _loose(paths: Sequence[Path]) -> Dataset:
    return Dataset("pictures", (), lambda: (Item(path.name, UNLABELLED, path.read_bytes) for path in paths))


def _frames(path: Path) -> Iterator[Item]:
    """The frames of a video; where it breaks off, an item that says so."""
    try:
        for number, (pixels, _time_s) in enumerate(VideoFile(str(path))):
            yield Item(f"{path.name}#{number}", UNLABELLED, lambda pixels=pixels: pixels)  # type: ignore[misc]
    except InputError as error:
        yield Item(path.name, UNLABELLED, lambda reason=error: _refuse(reason))  # type: ignore[misc]


def _refuse(reason: InputError) -> bytes:
    raise reason


def _labelled(path: Path, split: str, classes: Sequence[str], notes: list[str]) -> Dataset:
    """The data set at `path`, with the task's class indices where its classes are the task's."""
    dataset = open_dataset(path, split=split)
    if not dataset.classes:  # numbers, or no labels at all
        return dataset
    if set(dataset.classes) <= set(classes):
        return open_dataset(path, split=split, classes=classes)
    strange = next(name for name in dataset.classes if name not in set(classes))
    notes.append(f"{path.name}: {strange!r} is no class of the task, so its labels are left out")
    return Dataset(dataset.name, (), lambda: (item._replace(label=UNLABELLED) for item in dataset.items()))
