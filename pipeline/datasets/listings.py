"""Folders, tar shards and CSV lists, labelled by folder names or by a table."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.datasets.examples import UNLABELLED, Dataset, Item
from pipeline.errors import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Split → what its folder may be called."""


def class_index(names: Iterable[str], classes: Sequence[str] | None, where: str) -> dict[str, int]:
    """Class name → index: by `classes` if given, else sorted. InputError for names that `classes` lacks."""
    found = sorted(set(names))
    index = {name: i for i, name in enumerate(found if classes is None else classes)}
    unknown = [name for name in found if name not in index]
    if unknown:
        raise InputError(
            f"{where} has class {unknown[0]!r}, which is none of the {len(index)} asked for: check `classes`"
        )
    return index


def _split_and_class(parts: tuple[str, ...]) -> tuple[str, str]:
    """(split or "", class or "") of a picture by the folders it lies in; the topmost split folder counts."""
    folders = parts[:-1]
    for position, folder in enumerate(folders):
        for split, names in SPLITS.items():
            if folder.lower() in names:
                return split, "/".join(folders[position + 1 :])
    return "", folders[-1] if folders else ""


def _stand_in(split: str, there: Container[str]) -> str:
    """The split to read for `split`: where there is no val, test is."""
    return "test" if split == "val" and "val" not in there else split


def _visible(names: Iterable[str]) -> list[str]:
    """Sorted, without what systems leave behind: hidden files and folders."""
    return sorted(name for name in names if not any(part.startswith(".") for part in Path(name).parts))


def _chosen(names: Sequence[str], split: str) -> tuple[list[tuple[str, str]], set[str]]:
    """([(name, class)] of the split, all class names): the layout `[split/]class/file`."""
    placed = [(name, *_split_and_class(Path(name).parts)) for name in names]
    splits = {part for name, part, _kind in placed if "/" in name}
    if "" in splits or not splits:
        # Split folders hold every picture below them (those at the top count for nothing); else it is a class that
        # happens to be called so, as "train" in CIFAR-100.
        kinds = [Path(name).parent.name for name in names]
        return list(zip(names, kinds, strict=True)), set(kinds)
    wanted = _stand_in(split, splits)
    return [(name, kind) for name, part, kind in placed if part == wanted], {kind for _name, _part, kind in placed}


def _from_names(
    where: Path, names: Sequence[str], split: str, classes: Sequence[str] | None, read: Callable[[str], bytes]
) -> Dataset:
    chosen, kinds = _chosen(names, split)
    if not chosen:
        raise InputError(f"{where} has no pictures for split {split!r}: {len(names)} pictures in all")
    labelled = kinds != {""}
    index = class_index(kinds - {""}, classes, str(where)) if labelled else {}

    def items() -> Iterator[Item]:
        for name, kind in chosen:
            yield Item(name, index.get(kind, UNLABELLED), lambda name=name: read(name))  # type: ignore[misc]

    return Dataset(where.stem, tuple(index), items)


def class_folders(path: Path, split: str, classes: Sequence[str] | None) -> Dataset:
    names = _visible(p.relative_to(path).as_posix() for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    return _from_names(path, names, split, classes, lambda name: (path / name).read_bytes())


class _Tars:
    """Members of tar files by name, read by offset, so that nothing is unpacked and several passes are cheap."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._places: dict[str, tuple[Path, int, int]] = {}
        for file in files:
            with tarfile.open(file, "r:") as archive:
                for member in archive:
                    if member.isreg():
                        self._places[member.name.removeprefix("./")] = (file, member.offset_data, member.size)

    @property
    def names(self) -> list[str]:
        return list(self._places)

    def read(self, name: str) -> bytes:
        file, offset, size = self._places[name]
        with file.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)


def _tar_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.glob("*.tar"))


def tar_shards(path: Path, split: str, classes: Sequence[str] | None) -> Dataset:
    tars = _Tars(_tar_files(path))
    images = [name for name in tars.names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    tables = [name for name in tars.names if Path(name).name == "labels.csv"]
    if tables:
        folder = Path(tables[0]).parent
        rows = _read_rows(tars.read(tables[0]).decode("utf-8-sig"), path)
        placed = {name.removeprefix("./"): name for name in images}
        return _from_rows(path, rows, split, classes, lambda name: tars.read(placed[(folder / name).as_posix()]))
    images = _visible(images)
    numbers = {name for name in tars.names if name.endswith(".cls")}
    if numbers:
        paired = [(name, str(Path(name).with_suffix(".cls"))) for name in images]

        def items() -> Iterator[Item]:
            for name, number in paired:
                label = int(tars.read(number)) if number in numbers else UNLABELLED
                yield Item(name, label, lambda name=name: tars.read(name))  # type: ignore[misc]

        return Dataset(path.stem, classes or (), items)
    return _from_names(path, images, split, classes, tars.read)


def _read_rows(text: str, where: Path) -> list[Mapping[str, str]]:
    rows: list[Mapping[str, str]] = list(csv.DictReader(io.StringIO(text)))
    if not rows:
        raise InputError(f"{where}: labels.csv has no rows: expected a heading and a row a picture")
    return rows


def _column(row: Mapping[str, str], names: Sequence[str], where: Path) -> str:
    for name in names:
        if name in row:
            return name
    raise InputError(f"{where}: the heading is {', '.join(filter(None, row))}, expected a column {' or '.join(names)}")


def _from_rows(
    where: Path,
    rows: Sequence[Mapping[str, str]],
    split: str,
    classes: Sequence[str] | None,
    read: Callable[[str], bytes],
) -> Dataset:
    file_column = _column(rows[0], ("path", "filename", "file"), where)
    label_column = _column(rows[0], ("label", "index", "imagenet_index", "class"), where)
    for number, row in enumerate(rows, 1):
        for column in (file_column, label_column):
            if row[column] is None:
                raise InputError(f"{where}: row {number} below the heading has no {column}: add it or remove the row")
    labels = [row[label_column] for row in rows]
    numeric = all(label.isdecimal() for label in labels)  # isdigit is true of "²" too
    index = {} if numeric else class_index(labels, classes, str(where))  # of all splits, so that they agree
    there = {part for part, names in SPLITS.items() if any(row.get("split") in names for row in rows)}
    wanted = _stand_in(split, there)
    if wanted in there:
        rows = [row for row in rows if row["split"] in SPLITS[wanted]]
        labels = [row[label_column] for row in rows]
    pairs = [
        (row[file_column], int(label) if numeric else index[label]) for row, label in zip(rows, labels, strict=True)
    ]

    def items() -> Iterator[Item]:
        for name, label in pairs:
            yield Item(name, label, lambda name=name: _read_or_refuse(read, name))  # type: ignore[misc]

    return Dataset(where.stem, tuple(index) or tuple(classes or ()), items)


def _read_or_refuse(read: Callable[[str], bytes], name: str) -> bytes:
    try:
        return read(name)
    except KeyError:
        raise InputError("is in the table but not in the data set") from None


def csv_list(path: Path, split: str, classes: Sequence[str] | None) -> Dataset:
    table = path if path.is_file() else path / "labels.csv"
    rows = _read_rows(table.read_text("utf-8-sig"), table)
    return _from_rows(table, rows, split, classes, lambda name: (table.parent / name).read_bytes())
