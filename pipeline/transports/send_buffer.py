"""Frames that wait for a channel, by age: what is too old never leaves, and what waits stays small. Pure.

The buffer of a data channel knows no age: on a slow link it would hold seconds of old frames. So it gets only a little
at a time, and the rest waits here, where a part leaves nothing behind when its frame's budget is used up.

On a lossy link the parts without which nothing of a frame decodes (those that hold its first layer) are sent once more,
after the frame's other parts, so that one burst does not take both. Doubled parts change nothing at the server.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from pipeline.codec.bitstream import parse_header
from pipeline.errors import BitstreamError
from pipeline.wire import messages
from pipeline.wire.messages import Frame, FramePart, JpegFrame
from pipeline.wire.session import Outgoing

VITAL_PARTS_MAX: Final = 3
"""More would cost more than they save: then the frame is too large for this link."""
_US = 1e-6


class SendBuffer:
    """First in, first out; times are monotonic seconds."""

    def __init__(self) -> None:
        self._waiting: deque[Outgoing] = deque()
        self._vital: list[Outgoing] = []
        self._vital_parts = 0
        self._begun: int | None = None
        """The frame of which a part has left."""
        self.repeated_bytes = 0
        """Of the parts that were added twice."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, data: bytes, now: float, *, lossy: bool = False) -> None:
        """A message of channel `frames`; it says itself how long it is worth sending."""
        message = messages.decode(data)
        assert isinstance(message, Frame | FramePart | JpegFrame)
        left = None if not message.budget_us else (message.budget_us - message.age_at_send_us) * _US
        outgoing = Outgoing("frames", message, data, None if left is None else now + left, message.frame)
        self._waiting.append(outgoing)
        if lossy and isinstance(message, FramePart):
            self._repeat(outgoing, message)

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

    def _repeat(self, outgoing: Outgoing, message: FramePart) -> None:
        if message.part == 0:
            self._vital, self._vital_parts = [], vital_parts(message.bytes)
        if message.part < self._vital_parts:
            self._vital.append(outgoing)
        if message.part == message.parts - 1:
            self._waiting.extend(self._vital)
            self.repeated_bytes += sum(len(one.data) for one in self._vital)
            self._vital = []


def vital_parts(first: bytes) -> int:
    """How many parts hold the first layer, by the bytes of part 0; at most VITAL_PARTS_MAX."""
    try:
        header, size = parse_header(first)
    except BitstreamError:
        return 1
    end = size + 2 * header.lengths[0]
    return min(-(-end // len(first)), VITAL_PARTS_MAX)
