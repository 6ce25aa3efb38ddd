"""A live source that may vanish: waits for its return and says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from edge_node.pictures import Notify
from pipeline.clock import Clock, monotonic
from pipeline.errors import InputError
from pipeline.frame import Picture

RETRY_S = (0.5, 1.0, 2.0, 5.0)
"""Pauses between tries to get a lost source back, in seconds; the last one repeats."""


class LiveSource:
    """Pictures of a device or stream, over as many connections as it takes.

    `connect` opens one and returns its pictures; they end, or raise InputError, when it is lost. It is called once
    here, so that a camera that is not there is an InputError at start. `wait(seconds)` is True when the source was
    closed meanwhile.
    """

    live = True

    def __init__(
        self,
        name: str,
        fps: float,
        connect: Callable[[], Iterator[Picture]],
        notify: Notify,
        *,
        wait: Callable[[float], bool] | None = None,
        clock: Clock = monotonic,
    ) -> None:
        self.name = name
        self.fps = fps
        self._connect = connect
        self._notify = notify
        self._closed = threading.Event()
        self._wait = wait if wait is not None else self._closed.wait
        self._clock = clock
        self._opened: Iterator[Picture] | None = connect()

    def __iter__(self) -> Iterator[Picture]:
        while not self._closed.is_set():
            pictures = self._opened if self._opened is not None else self._reconnect()
            self._opened = None
            if pictures is None:
                return
            yield from self._until_lost(pictures)

    def close(self) -> None:
        self._closed.set()

    def _until_lost(self, pictures: Iterator[Picture]) -> Iterator[Picture]:
        reason = "no more frames"
        try:
            for picture in pictures:
                yield picture
                if self._closed.is_set():
                    return
        except InputError as error:
            reason = str(error)
        finally:
            close = getattr(pictures, "close", None)
            if close is not None:
                close()
        if not self._closed.is_set():
            self._notify(f"{self.name} is lost ({reason}): waiting for it to come back")

    def _reconnect(self) -> Iterator[Picture] | None:
        """The pictures of the next connection, however long it takes; None: closed meanwhile."""
        lost_at = self._clock()
        for attempt in range(1_000_000_000):
            if self._wait(RETRY_S[min(attempt, len(RETRY_S) - 1)]) or self._closed.is_set():
                return None
            try:
                pictures = self._connect()
            except InputError:
                continue
            self._notify(f"{self.name} is back after {self._clock() - lost_at:.1f} s")
            return pictures
        return None
