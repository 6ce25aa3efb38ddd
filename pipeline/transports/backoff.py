"""When an edge that found no server tries again."""

from __future__ import annotations

from random import Random

from pipeline import limits


class Backoff:
    """Twice as long after each failure, within RECONNECT_MS_MIN and _MAX; ± 20 %, so that edges do not come in step."""

    def __init__(self, random: Random) -> None:
        self.retry_at = float("-inf")
        """No attempt before this (seconds, on the clock of `failed`)."""
        self._wait_ms = limits.RECONNECT_MS_MIN
        self._random = random

    def failed(self, now: float) -> None:
        """An attempt has failed, or a connection has ended."""
        self.retry_at = now + self._wait_ms * self._random.uniform(0.8, 1.2) / 1000.0
        self._wait_ms = min(self._wait_ms * 2, limits.RECONNECT_MS_MAX)

    def forget(self) -> None:
        """A session is open: the next attempt waits as briefly as the first."""
        self._wait_ms = limits.RECONNECT_MS_MIN
