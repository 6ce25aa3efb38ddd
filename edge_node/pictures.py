"""What every source has in common: `Source`, and how it speaks to people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
