"""Answers of a server session on their way out: waiting, leaving, and (lossless) remembered. Pure.

An answer gets its send time and its credit when it leaves. One whose frame nobody waits for any more is left out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

import msgspec

from pipeline import limits
from pipeline.wire.messages import Dropped, Result


class Reply(msgspec.Struct, frozen=True):
    """The answer to one frame."""

    frame: int
    build: Callable[[int, int, int], Result | Dropped]
    """(sent_at_us, sent_frames_max, credit_valid_ms) → message."""
    expires_at: float


class Replies:
    """Answers that wait for the network."""

    def __init__(self) -> None:
        self._waiting: deque[Reply] = deque()
        self._leaving: Reply | None = None
        self._remembered: OrderedDict[int, Reply] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, reply: Reply, *, remember: bool) -> None:
        """An answer is ready; `remember`: its frame may come again (lossless)."""
        self._waiting.append(reply)
        if remember:
            self._remembered[reply.frame] = reply
            if len(self._remembered) > limits.FRAMES_IN_FLIGHT_MAX:
                self._remembered.popitem(last=False)

    def take(self, now: float) -> Reply | None:
        """The next answer that is still wanted."""
        while self._waiting:
            reply = self._waiting.popleft()
            if now < reply.expires_at:
                self._leaving = reply
                return reply
        return None

    def put_back(self, frame: int | None) -> None:
        """The network did not take the answer that left last."""
        if self._leaving is not None and self._leaving.frame == frame:
            self._waiting.appendleft(self._leaving)
            self._leaving = None

    def repeat(self, frame: int) -> None:
        """The frame came again: its answer may have been lost with a connection."""
        reply = self._remembered.get(frame)
        if reply is not None and all(waiting.frame != frame for waiting in self._waiting):
            self._waiting.append(reply)

    def clear(self) -> None:
        """The session is over."""
        self._waiting.clear()
        self._remembered.clear()
        self._leaving = None
