"""Frames that wait for a channel, by age: what is too old never leaves, and what waits stays small. Pure.

The buffer of a data channel knows no age: on a slow link it would hold seconds of old frames. So it gets only a little
at a time, and the rest waits here, where a part leaves nothing behind when its frame's budget is used up.
"""

from __future__ import annotations

from collections import deque

from pipeline.wire import messages
from pipeline.wire.messages import Frame, FramePart, JpegFrame
from pipeline.wire.session import Outgoing

_US = 1e-6


class SendBuffer:
    """First in, first out; times are monotonic seconds."""

    def __init__(self) -> None:
        self._waiting: deque[Outgoing] = deque()
        self._begun: int | None = None
        """The frame of which a part has left."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, data: bytes, now: float) -> None:
        """A message of channel `frames`; it says itself how long it is worth sending."""
        message = messages.decode(data)
        assert isinstance(message, Frame | FramePart | JpegFrame)
        left = None if not message.budget_us else (message.budget_us - message.age_at_send_us) * _US
        outgoing = Outgoing("frames", message, data, None if left is None else now + left, message.frame)
        self._waiting.append(outgoing)

    def take(self, now: float) -> tuple[Outgoing | None, list[Outgoing]]:
        """(the next one to send, one message of each frame that ended here without a part having left)."""
        ended: dict[int, Outgoing] = {}
        while self._waiting:
            first = self._waiting.popleft()
            if first.expires_at is None or now < first.expires_at:
                self._begun = first.frame
                return first, list(ended.values())
            if first.frame is not None and first.frame != self._begun:
                ended[first.frame] = first
        return None, list(ended.values())
