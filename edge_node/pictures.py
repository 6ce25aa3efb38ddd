"""What every source has in common: `Source`, and how it speaks to people."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from pipeline.frame import Picture

Notify = Callable[[str], None]
"""Takes one line for people."""

FPS_DEFAULT = 30.0
"""Assumed where a source does not say its rate, in frames a second."""


class Source(Protocol):
    """An opened source. Iterating gives pictures; `close` (from any thread) ends the iteration after the next one."""

    name: str
    """For people: file name, camera, URL without password."""
    fps: float
    """Nominal rate, in frames a second."""
    live: bool
    """True: frames happen whether or not somebody looks, so the newest counts. False: they can be paced and awaited."""

    def __iter__(self) -> Iterator[Picture]: ...

    def close(self) -> None: ...


_USER_AND_PASSWORD = re.compile(r"(?<=://)(?!(\[[^\]@]*\]|[^/?#@:\[]+)(:\d{1,5})?([/?#]|$)).*@")
"""Up to the last @, since passwords hold anything, except where host and port come first: then the @ is in the path."""


def short_name(place: str) -> str:
    """A file's name, or a URL without user and password."""
    if "://" in place:
        return _USER_AND_PASSWORD.sub("", place, count=1)
    return Path(place).name or place
