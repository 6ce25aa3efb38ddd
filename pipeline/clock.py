"""Monotonic time in seconds. Pure code never imports this: it is handed `now`."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Returns monotonic seconds. The real one is `monotonic`; tests pass a `VirtualClock`."""

monotonic: Clock = time.monotonic


class VirtualClock:
    """A clock that moves only when told to.

    >>> clock = VirtualClock()
    >>> clock.advance(0.5)
    >>> clock()
    0.5
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds` (≥ 0)."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back by {-seconds} s")
        self._now += seconds
