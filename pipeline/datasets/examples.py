"""Labelled pictures, one after the other: `Example`, and the `Dataset` that gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from pipeline.datasets.images import Pixels, decode_image
from pipeline.errors import InputError

UNLABELLED = -1


class Example(NamedTuple):
    """One picture: RGB uint8 (height, width, 3), index of its class (UNLABELLED: none), its name in the data set."""

    pixels: Pixels
    label: int
    name: str


class Item(NamedTuple):
    """A picture that has not been read yet."""

    name: str
    label: int
    read: Callable[[], bytes | Pixels]


class Dataset:
    """Examples of one split, in a stable order; may be gone through any number of times.

    `classes` are the data set's own names of the classes, in index order (empty if it has none). `broken` names the
    pictures that the last pass had to skip, with the reason.
    """

    def __init__(self, name: str, classes: Sequence[str], items: Callable[[], Iterable[Item]]) -> None:
        self.name = name
        self.classes = tuple(classes)
        self.broken: list[str] = []
        self._items = items

    def items(self) -> Iterator[Item]:
        """The pictures without reading them."""
        yield from self._items()

    def __iter__(self) -> Iterator[Example]:
        self.broken = []
        for item in self._items():
            try:
                data = item.read()
                pixels = decode_image(data, name=item.name) if isinstance(data, bytes) else data
            except (InputError, OSError) as error:
                self.broken.append(f"{item.name}: {error}")
                continue
            yield Example(pixels, item.label, item.name)


def per_class(items: Iterable[Item], count: int) -> Iterator[Item]:
    """At most `count` items of each class, the first ones."""
    seen: dict[int, int] = {}
    for item in items:
        seen[item.label] = seen.get(item.label, 0) + 1
        if seen[item.label] <= count:
            yield item
