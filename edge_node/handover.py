"""From the capture thread to the encode thread: the newest frame wins; in lossless replay every frame gets its turn."""

from __future__ import annotations

import threading
from collections import deque

from pipeline.frame import Frame


class Handover:
    """Frames between two threads. Live: holds one, the newest. Lossless: holds all (the capture thread bounds them)."""

    def __init__(self, *, lossless: bool) -> None:
        self._lossless = lossless
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, frame: Frame) -> Frame | None:
        """Hand over `frame`; returns the one that it supersedes, if any."""
        with self._changed:
            superseded = self._frames.popleft() if self._frames and not self._lossless else None
            self._frames.append(frame)
            self._changed.notify()
        return superseded

    def take(self) -> Frame | None:
        """The next frame, waiting for it; None: closed, and nothing is left."""
        with self._changed:
            while not self._frames and not self._closed:
                self._changed.wait()
            return self._frames.popleft() if self._frames else None

    def close(self) -> None:
        """No more frames come; those that are here can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
