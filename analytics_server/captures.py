"""Captures: the pooled features of a live session's next frames, for teaching a head from what a camera sees.

Nothing is kept here: the features go to whoever asked, over the admin interface, and pixels never reach a server that
gets latents. While no capture runs, the engines' threads pay one look at an empty tuple for each batch.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from analytics_server.work import FrameWork
from pipeline import limits
from pipeline.clock import Clock
from pipeline.errors import ConfigError

Float32 = NDArray[np.float32]


class Capture:
    """One capture: `frames` features of `session` on `backbone`, at least `every_s` apart. `done` holds (M, D)."""

    def __init__(self, session: str, backbone: str, frames: int, every_s: float) -> None:
        self.session, self.backbone, self.frames, self.every_s = session, backbone, frames, every_s
        self.done: Future[Float32] = Future()
        self._rows: list[Float32] = []
        self._next_at = -np.inf
        self._lock = threading.Lock()

    def offer(self, pooled_D: Float32, now: float) -> None:
        """A feature of its session. Takes it unless it has enough or took one a moment ago."""
        with self._lock:
            if self.done.done() or now < self._next_at or not np.isfinite(pooled_D).all():
                return
            self._next_at = now + self.every_s
            self._rows.append(pooled_D.copy())
            if len(self._rows) == self.frames:
                self.done.set_result(np.stack(self._rows))

    def finish(self) -> None:
        """No more is wanted: whoever waits gets what there is."""
        with self._lock:
            if not self.done.done():
                self.done.set_result(np.zeros((0, 0), np.float32))

    def so_far(self) -> Float32:
        """What it has, (M, D); M may be 0."""
        with self._lock:
            return np.stack(self._rows) if self._rows else np.zeros((0, 0), np.float32)


class Captures:
    """All captures of a server. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._running: tuple[Capture, ...] = ()
        self._closed = False

    def __len__(self) -> int:
        return len(self._running)

    def start(self, session: str, backbone: str, frames: int, every_s: float) -> Capture:
        """Begin one. Raises ConfigError beyond the limits."""
        if not 1 <= frames <= limits.CAPTURE_FRAMES_MAX:
            raise ConfigError(f"frames is {frames}, expected 1 to {limits.CAPTURE_FRAMES_MAX}")
        capture = Capture(session, backbone, frames, every_s)
        with self._lock:
            if self._closed:
                raise ConfigError("the server is stopping: capture later")
            if len(self._running) >= limits.CAPTURES_MAX:
                raise ConfigError(f"{len(self._running)} captures run, limit {limits.CAPTURES_MAX}: wait for one")
            self._running = (*self._running, capture)
        return capture

    def close(self) -> None:
        """The server stops: nobody waits any longer."""
        with self._lock:
            self._closed = True
        for capture in self._running:
            capture.finish()

    def end(self, capture: Capture) -> None:
        """It is over, complete or not."""
        with self._lock:
            self._running = tuple(one for one in self._running if one is not capture)

    def on_features(self, backbone: str, works: Sequence[FrameWork], pooled_BD: Float32) -> None:
        """A batch was computed (engine threads)."""
        for capture in self._running:
            if capture.backbone != backbone:
                continue
            now = self._clock()
            for work, pooled_D in zip(works, pooled_BD, strict=True):
                # Pictures of unmodified clients give other features than latents do.
                if work.kind == "latent" and work.session.session_id == capture.session:
                    capture.offer(pooled_D, now)
