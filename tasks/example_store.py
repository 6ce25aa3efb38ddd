"""What a task was taught from: pooled features with their labels, by source. No pixel is ever kept.

    <home>/heads/birds/examples/pictures.<backbone>.safetensors      from `tasks add`
    <home>/heads/birds/examples/capture-0001.<backbone>.safetensors  from `tasks capture`, one label each

A pooled feature is a few thousand bytes that say what is in a frame, not how it looked. The features of a file belong
to one codec and decoder, named in it; `load` leaves out those of another bundle and says so.

Axes: M examples, D pooled features.
"""

from __future__ import annotations

import contextlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import limits
from pipeline.errors import ConfigError, InputError

Float32 = NDArray[np.float32]

FEATURE_MAX = 65_504.0
"""Examples are kept in half precision."""
HELD_OUT_SHARE = 0.2
_STRETCHES = 5
"""What a label's only capture is divided into, so that neighbouring frames mostly lie on one side of a fold."""


@dataclass(frozen=True, eq=False)
class Origin:
    """What features came through: they mean something else behind another encoder, decoder or backbone."""

    backbone: str
    codec_id: str
    synthesis_sha256: str
    feature_width: int


@dataclass(frozen=True, eq=False)
class Examples:
    """Features (M, D) float32 with the index of each one's class, and which belong together (views of one picture).

    `held_out_M`: examples that accuracy is measured on. `captures_M`: the capture that each is a frame of, -1 for
    pictures; None: all are pictures.
    """

    classes: tuple[str, ...]
    pooled_MD: Float32
    labels_M: NDArray[np.int64]
    groups_M: NDArray[np.int64]
    held_out_M: NDArray[np.bool_]
    captures_M: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels_M)

    def counts(self) -> dict[str, int]:
        """Groups (pictures, captured frames) of each class."""
        return _counts(self.classes, self.labels_M, self.groups_M)

    def blocks(self, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        """For `rows`, what must lie on one side of a fold: views of a picture, frames of a capture.

        Frames of one capture are alike, so where its label has nothing else it is divided into stretches of time.
        """
        blocks = self.groups_M[rows]
        if self.captures_M is None:
            return blocks
        labels, captures = self.labels_M[rows], self.captures_M[rows]
        blocks = np.where(captures < 0, blocks, captures + blocks.max(initial=-1) + 1)
        for label in np.unique(labels[captures >= 0]):
            theirs = np.flatnonzero(labels == label)
            if len(np.unique(blocks[theirs])) == 1:
                stretches = np.arange(len(theirs)) * _STRETCHES // len(theirs)
                blocks[theirs] = blocks.max() + 1 + stretches
        return blocks

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """All of `parts`, classes by name in order of first appearance."""
        names = list(dict.fromkeys(name for part in parts for name in part.classes))
        index = {name: number for number, name in enumerate(names)}
        labels = [np.array([index[name] for name in part.classes], np.int64)[part.labels_M] for part in parts]
        groups = _apart([part.groups_M for part in parts])
        captures = _apart([np.full(len(part), -1) if part.captures_M is None else part.captures_M for part in parts])
        return cls(
            tuple(names),
            np.concatenate([part.pooled_MD for part in parts]),
            np.concatenate(labels),
            groups,
            np.concatenate([part.held_out_M for part in parts]),
            captures,
        )


def label_text(text: str) -> str:
    """`text` as a label: NFC, single spaces, printable, not empty; so one label is one class. Raises ConfigError."""
    label = " ".join(unicodedata.normalize("NFC", text).split())
    if not label or len(label) > limits.NAME_CHARS_MAX or not label.isprintable():
        raise ConfigError(f"label is {text[:80]!r}: expected 1 to {limits.NAME_CHARS_MAX} printable characters")
    return label


class ExampleStore:
    """The examples of one task below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_pictures(self, examples: Examples, origin: Origin) -> None:
        """In place of those of an earlier `tasks add`, whole or not at all. Raises InputError, ConfigError."""
        self._save(self.folder / f"pictures.{origin.backbone}.safetensors", examples, origin)

    def save_capture(self, label: str, pooled_MD: Float32, origin: Origin) -> Path:
        """One more capture of one label. Raises InputError, ConfigError."""
        number = 1 + max((int(path.name[8:12]) for path in self.folder.glob("capture-????.*.safetensors")), default=0)
        path = self.folder / f"capture-{number:04d}.{origin.backbone}.safetensors"
        count = len(pooled_MD)
        labels = np.zeros(count, np.int64)
        # Which are held out depends on the other captures: `load` says.
        self._save(path, Examples((label,), pooled_MD, labels, np.arange(count), np.zeros(count, bool)), origin)
        return path

    def load(self, origin: Origin) -> tuple[Examples | None, list[str]]:
        """(all examples that fit `origin`, names of files that do not). None: there are none."""
        parts: list[Examples] = []
        strange: list[str] = []
        for path in self._files(origin):
            part = _read(path, origin)
            if part is None:
                strange.append(path.name)
            elif len(part):
                parts.append(part)
        return (Examples.joined(_held_out(parts)) if parts else None), strange

    def counts(self, origin: Origin) -> dict[str, int]:
        """Those of `load(origin)`, without reading the features."""
        total: Counter[str] = Counter()
        for path in self._files(origin):
            with _opened(path) as file:
                if _fits(file, origin):
                    total.update(_counts(_classes(file), *(file.get_tensor(name) for name in ("labels", "groups"))))
        return dict(total)

    def forget(self, label: str) -> int:
        """Remove the captures of one label; returns how many files went."""
        gone = 0
        for path in self.folder.glob("capture-????.*.safetensors"):
            with _opened(path) as file:
                theirs = _classes(file)
            if theirs == (label,):
                path.unlink()
                gone += 1
        return gone

    def forget_all(self) -> int:
        """Remove the captures of all labels, those of other bundles and damaged ones too; returns how many went."""
        captures = list(self.folder.glob("capture-????.*.safetensors"))
        for path in captures:
            path.unlink()
        return len(captures)

    def _files(self, origin: Origin) -> list[Path]:
        return sorted(self.folder.glob(f"*.{origin.backbone}.safetensors"), key=_pictures_first)

    def _save(self, path: Path, examples: Examples, origin: Origin) -> None:
        from safetensors.numpy import save

        highest = float(np.abs(examples.pooled_MD).max(initial=0.0))
        if not highest <= FEATURE_MAX:  # nor NaN
            raise InputError(
                f"features for {path.name} reach {highest:g}, limit {FEATURE_MAX:g}: nothing is kept of them, look at "
                "the backbone and its precision"
            )
        header = {
            "classes": json.dumps(examples.classes, ensure_ascii=False), "backbone": origin.backbone,
            "codec_id": origin.codec_id, "synthesis_sha256": origin.synthesis_sha256,
        }  # fmt: skip
        arrays = {
            "pooled": examples.pooled_MD.astype(np.float16), "labels": examples.labels_M.astype(np.int32),
            "groups": examples.groups_M.astype(np.int32), "held_out": examples.held_out_M.astype(np.uint8),
        }  # fmt: skip
        draft = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(save(arrays, metadata=header))
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise ConfigError(f"examples cannot be written to {path}: {error.strerror or error}") from None


def _is_pictures(path: Path) -> bool:
    return path.name.startswith("pictures")


def _pictures_first(path: Path) -> tuple[bool, str]:
    return not _is_pictures(path), path.name


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, whose arrays are read only when they are asked for. Raises InputError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            yield file
    except (OSError, SafetensorError):
        raise InputError(f"examples {path} do not read: remove that file") from None


def _classes(file: Any) -> tuple[str, ...]:
    return tuple(json.loads((file.metadata() or {}).get("classes", "[]")))


def _fits(file: Any, origin: Origin) -> bool:
    """Whether these examples came through what `origin` says."""
    header = file.metadata() or {}
    if (header.get("codec_id"), header.get("synthesis_sha256")) != (origin.codec_id, origin.synthesis_sha256):
        return False
    shape = file.get_slice("pooled").get_shape()
    return len(shape) == 2 and shape[1] == origin.feature_width


def _read(path: Path, origin: Origin) -> Examples | None:
    """The examples in a file; None if they came through something else than `origin`."""
    with _opened(path) as file:
        if not _fits(file, origin):
            return None
        pooled, labels, groups, held_out = map(file.get_tensor, ("pooled", "labels", "groups", "held_out"))
        return Examples(
            _classes(file), pooled.astype(np.float32), labels.astype(np.int64), groups.astype(np.int64),
            held_out.astype(bool), None if _is_pictures(path) else np.zeros(len(labels), np.int64),
        )  # fmt: skip


def _held_out(parts: Sequence[Examples]) -> list[Examples]:
    """Of a label with several captures the latest are held out, of an only one its last frames."""
    of_label: dict[str, list[int]] = {}
    for number, part in enumerate(parts):
        if part.captures_M is not None:
            of_label.setdefault(part.classes[0], []).append(number)
    chosen = list(parts)
    for numbers in of_label.values():
        whole = max(1, round(HELD_OUT_SHARE * len(numbers)))
        for place, number in enumerate(numbers):
            count = len(parts[number])
            if len(numbers) > 1:
                held = np.full(count, place >= len(numbers) - whole)
            else:
                held = np.arange(count) >= count - int(HELD_OUT_SHARE * count)
            chosen[number] = replace(parts[number], held_out_M=held)
    return chosen


def _apart(numbers: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """One after the other, those of each part above those of the parts before; negative ones stay."""
    starts = np.cumsum([0, *(int(one.max(initial=-1)) + 1 for one in numbers)])
    return np.concatenate([np.where(one < 0, one, one + start) for one, start in zip(numbers, starts, strict=False)])


def _counts(classes: Sequence[str], labels_M: NDArray[Any], groups_M: NDArray[Any]) -> dict[str, int]:
    """Groups of each class."""
    pairs = np.unique(np.stack([labels_M, groups_M]), axis=1)
    counts = np.bincount(pairs[0], minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def examples_of(task_folder: Path) -> ExampleStore:
    """Those of a task, in the folder that it has in the home folder (HeadStore.place)."""
    return ExampleStore(task_folder / "examples")
