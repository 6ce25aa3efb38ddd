"""What happened on the server, for people and programs that watch: the last events, numbered, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

EVENTS_KEPT = 256


@dataclass(frozen=True, slots=True)
class Event:
    """`kind` is session, task, lesson or server; `what` a word for it (opened, closed, added, …)."""

    number: int
    at: float
    """Unix time, in seconds."""
    kind: str
    what: str
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"number": self.number, "at": self.at, "kind": self.kind, "what": self.what, **self.facts}


class EventLog:
    """The last EVENTS_KEPT events. Thread-safe; a reader that was away too long sees by the numbers what it missed."""

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._lock = threading.Lock()
        self._next = 1

    def post(self, kind: str, what: str, **facts: Any) -> None:
        """Something happened."""
        with self._lock:
            self._events.append(Event(self._next, round(self._wall_clock(), 3), kind, what, facts))
            self._next += 1

    def after(self, number: int) -> list[Event]:
        """Events with a larger number, oldest first."""
        with self._lock:
            return [event for event in self._events if event.number > number]

    @property
    def last(self) -> int:
        """Number of the newest event; 0: none yet."""
        with self._lock:
            return self._next - 1
