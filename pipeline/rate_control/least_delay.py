"""The least one-way delay of late: what a way costs without queues."""

from __future__ import annotations

from collections import deque
from typing import Final

BASE_WINDOW_S: Final = 10.0
"""How long a least one-way delay counts at least, and half as long again at most: the way may change."""


class LeastDelay:
    """The least of the samples of the last BASE_WINDOW_S or a little more (two halves of it and the one begun)."""

    def __init__(self) -> None:
        self._halves: deque[tuple[float, float]] = deque(maxlen=3)

    def add(self, delay_s: float, now: float) -> None:
        half = BASE_WINDOW_S / 2
        if not self._halves or now - self._halves[-1][0] >= half:
            self._halves.append((now, delay_s))
        elif delay_s < self._halves[-1][1]:
            self._halves[-1] = (self._halves[-1][0], delay_s)

    @property
    def value(self) -> float | None:
        return min((delay for _, delay in self._halves), default=None)
