"""Heads that come and go while the server runs: safetensors and TOML over the admin interface (DESIGN chapter 8).

    curl -F head=@birds.toml -F arrays=@birds.safetensors http://127.0.0.1:8080/api/v1/tasks

The files are described in tasks.head_file; `names` lists the labels where `labels` names no label set of the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import BundleError, ConfigError
from tasks import Head, HeadStack
from tasks.head_file import HeadFiles, read_head_entry
from tasks.head_file import read_head as read_files


def read_head(toml: bytes, arrays: bytes, *, tag_of: dict[str, str], widths: dict[str, int]) -> Head:
    """A head for one of the backbones that are served. Raises BundleError if anything does not fit.

    `tag_of`: backbone names and aliases → tags; `widths`: tag → feature width.
    """
    entry = read_head_entry(toml)
    tag = tag_of.get(entry.backbone, "")
    if tag not in widths:
        raise BundleError(f"head {entry.task} is for backbone {entry.backbone!r}, served are {', '.join(widths)}")
    return read_files(HeadFiles(toml, arrays), backbone=tag, feature_width=widths[tag])


def with_head(heads: HeadStack, *new: Head) -> HeadStack:
    """`heads` with those of `new` at the end, in place of ones of the same names."""
    names = {head.name for head in new}
    return _stack(heads, [*(heads.head(name) for name in heads.names if name not in names), *new])


def without_head(heads: HeadStack, name: str) -> HeadStack:
    """`heads` without the one called `name`. Raises ConfigError if there is none."""
    if name not in heads.names:
        raise ConfigError(f"there is no task {name!r} on {heads.backbone}: known are {', '.join(heads.names)}")
    return _stack(heads, [heads.head(other) for other in heads.names if other != name])


def _stack(like: HeadStack, heads: Iterable[Head]) -> HeadStack:
    return HeadStack(heads, backbone=like.backbone, feature_width=like.feature_width)
