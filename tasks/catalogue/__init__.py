"""Label sets, one TOML file a task: what the classes are called, for people, in index order.

    format = 1
    name = "food101"
    title = "Food-101"
    source = "…"    licence = "…"    citation = "…"
    classes = 101
    [labels]
    apple_pie = "apple pie"          # the class's own name in the data set = what people read

The order of the lines is the order of the indices. Users' own catalogues have the same form and lie anywhere.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline import limits
from pipeline.errors import ConfigError

__all__ = ["Catalogue", "catalogue_names", "load_catalogue", "read_catalogue"]

_FOLDER = Path(__file__).parent
_TEXTS = ("name", "title", "source", "licence", "citation")


@dataclass(frozen=True)
class Catalogue:
    """The label set of one task.

    `labels[i]` is what people read for class i; `keys[i]` is the data set's own name of it (a folder name, a synset).
    Both are unique.
    """

    name: str
    title: str
    source: str
    licence: str
    citation: str
    labels: tuple[str, ...]
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def catalogue_names() -> tuple[str, ...]:
    """Names of the catalogues that ship with FrankenStream."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


@cache
def load_catalogue(name: str) -> Catalogue:
    """The shipped catalogue `name`. Raises ConfigError for an unknown one."""
    if name not in catalogue_names():
        raise ConfigError(f"there is no catalogue {name!r}: known are {', '.join(catalogue_names())}")
    return read_catalogue(_FOLDER / f"{name}.toml")


def read_catalogue(path: Path) -> Catalogue:
    """Read and check a catalogue file. Raises ConfigError, which names the file and what is wrong in it."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"catalogue {path} cannot be read: {error}") from None
    if table.get("format") != 1:
        raise ConfigError(f"catalogue {path} has format {table.get('format')!r}, expected 1: update FrankenStream")
    texts = {field: table.get(field, "") for field in _TEXTS}
    wrong = [field for field, text in texts.items() if not isinstance(text, str)]
    if wrong or not texts["name"]:
        raise ConfigError(f"catalogue {path} needs texts for {', '.join(_TEXTS)}: look at {', '.join(wrong) or 'name'}")
    labels = table.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise ConfigError(f'catalogue {path} has no [labels]: one line a class, key = "name", in index order')
    return Catalogue(**texts, keys=tuple(labels), labels=_checked(path, list(labels.values()), table.get("classes")))


def _checked(path: Path, labels: list[object], classes: object) -> tuple[str, ...]:
    if classes is not None and classes != len(labels):
        raise ConfigError(f"catalogue {path} has {len(labels)} labels, its `classes` says {classes}: correct one")
    seen: dict[str, int] = {}
    names: list[str] = []
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip() or len(label) > limits.NAME_CHARS_MAX:
            raise ConfigError(
                f"catalogue {path}: label {index} is {label!r}, expected 1 to {limits.NAME_CHARS_MAX} characters"
            )
        first = seen.setdefault(label.casefold(), index)
        if first != index:
            raise ConfigError(f"catalogue {path}: labels {first} and {index} are both {label!r}: make them different")
        names.append(label)
    return tuple(names)
