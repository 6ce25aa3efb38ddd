"""Heads that come and go while the server runs: safetensors and TOML over the admin interface (DESIGN chapter 8).

    curl -F head=@birds.toml -F arrays=@birds.safetensors http://127.0.0.1:8080/api/v1/tasks

The TOML is a bundle's head entry (task, backbone, classes, labels); `names` lists the labels where `labels` names no
label set of the catalogue. Uploaded heads live as long as the server; to keep one, put it into a bundle.
"""

from __future__ import annotations

import msgspec

from pipeline.bundle.manifest import HeadEntry, parse_toml
from pipeline.bundle.tensors import head_arrays
from pipeline.errors import BundleError, ConfigError
from tasks import HeadStack, TaskHead, load_catalogue


class UploadedHead(HeadEntry, frozen=True, kw_only=True):
    """A head entry that may bring its own labels."""

    names: list[str] = []
    """One label for each class, in order of index; empty: those of the catalogue's label set `labels`."""


def read_head(toml: bytes, arrays: bytes, *, tag_of: dict[str, str], widths: dict[str, int]) -> TaskHead:
    """A head for one of the backbones that are served. Raises BundleError if anything does not fit.

    `tag_of`: backbone names and aliases → tags; `widths`: tag → feature width.
    """
    entry = parse_toml(toml, UploadedHead, path="head")
    tag = tag_of.get(entry.backbone, "")
    if tag not in widths:
        raise BundleError(f"head {entry.task} is for backbone {entry.backbone!r}, served are {', '.join(widths)}")
    entry = msgspec.structs.replace(entry, backbone=tag)
    weight, bias = head_arrays(arrays, shape=(entry.classes, widths[tag]), path=entry.arrays_path)
    return TaskHead(
        entry.task, tag, weight, bias, _labels(entry), version=entry.version, title=entry.title or entry.task
    )


def with_head(heads: HeadStack, head: TaskHead) -> HeadStack:
    """`heads` with `head` at the end, in place of one of the same name."""
    kept = [heads.head(name) for name in heads.names if name != head.name]
    return HeadStack([*kept, head], backbone=heads.backbone, feature_width=heads.feature_width)


def without_head(heads: HeadStack, name: str) -> HeadStack:
    """`heads` without the one called `name`. Raises ConfigError if there is none."""
    if name not in heads.names:
        raise ConfigError(f"there is no task {name!r} on {heads.backbone}: known are {', '.join(heads.names)}")
    kept = [heads.head(other) for other in heads.names if other != name]
    return HeadStack(kept, backbone=heads.backbone, feature_width=heads.feature_width)


def _labels(entry: UploadedHead) -> tuple[str, ...]:
    if entry.names:
        return tuple(entry.names)
    try:
        return tuple(load_catalogue(entry.labels).labels)
    except ConfigError as error:
        raise BundleError(f"head {entry.task} has labels {entry.labels!r}: {error}; or give them as `names`") from None
