"""Food-101, Flowers-102 and CIFAR-100 as their authors publish them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.examples import Dataset, Item
from pipeline.datasets.listings import class_index
from pipeline.errors import InputError


def food101(path: Path, split: str, classes: Sequence[str] | None) -> Dataset:
    known = (path / "meta" / "classes.txt").read_text("utf-8").split()
    listed = (path / "meta" / ("train.txt" if split == "train" else "test.txt")).read_text("utf-8").split()
    index = class_index(known, classes, str(path))

    def items() -> Iterator[Item]:
        for name in listed:
            file = path / "images" / f"{name}.jpg"
            yield Item(name, index[name.partition("/")[0]], file.read_bytes)

    return Dataset("food101", tuple(index), items)


def flowers102(path: Path, split: str, classes: Sequence[str] | None) -> Dataset:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError(f"{path} keeps its labels in .mat files: pip install scipy to read them") from None
    labels = loadmat(path / "imagelabels.mat")["labels"].ravel().astype(int)
    key = {"train": "trnid", "val": "valid", "test": "tstid"}[split]
    numbers = loadmat(path / "setid.mat")[key].ravel().astype(int)

    def items() -> Iterator[Item]:
        for number in numbers:
            file = path / "jpg" / f"image_{number:05d}.jpg"
            yield Item(file.name, int(labels[number - 1]) - 1, file.read_bytes)

    return Dataset("flowers102", classes or (), items)


class _PlainUnpickler(pickle.Unpickler):
    """CIFAR's files are pickles, and a pickle may run anything: this one makes numpy arrays and nothing else."""

    _ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "_frombuffer", "scalar"})

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in self._ALLOWED:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise InputError(f"pickle asks for {module}.{name}: that is no CIFAR file, do not trust it")


def cifar100(path: Path, split: str, classes: Sequence[str] | None) -> Dataset:
    part = "train" if split == "train" else "test"
    binary = path / f"{part}.bin"
    if binary.is_file():
        records = np.frombuffer(binary.read_bytes(), np.uint8)
        if len(records) % 3074:
            raise InputError(f"{binary} is {len(records)} bytes, expected a multiple of 3074: fetch it again")
        records = records.reshape(-1, 3074)
        labels, planes = records[:, 1].astype(int), records[:, 2:]
        names = [f"{part}/{i:05d}" for i in range(len(labels))]
    else:
        table = _unpickle(path / part)
        labels, planes = np.asarray(table[b"fine_labels"], int), np.asarray(table[b"data"], np.uint8)
        names = [f"{part}/{name.decode()}" for name in table[b"filenames"]]
    pixels = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)

    def items() -> Iterator[Item]:
        for i, name in enumerate(names):
            yield Item(name, int(labels[i]), lambda i=i: np.ascontiguousarray(pixels[i]))  # type: ignore[misc]

    return Dataset("cifar100", classes or (), items)


def _unpickle(file: Path) -> dict[bytes, Any]:
    with file.open("rb") as stream:
        try:
            table = _PlainUnpickler(stream, encoding="bytes").load()
        except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, IndexError) as error:
            raise InputError(f"{file} is no CIFAR file: {error}") from None
    if not isinstance(table, dict):
        raise InputError(f"{file} is no CIFAR file: it holds a {type(table).__name__}")
    return table
