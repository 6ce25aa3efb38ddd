"""Putting FrameParts together again. Pure; bounded by the session's frames in flight and by `size_max`.

A layered bitstream is useful up to its first gap, so an assembly does not wait for a lost part until nothing can be
made of the frame any more: it ends at half of the time that is left when the first part arrives, or soon after a later
frame has overtaken it, and hands on the parts without a gap from the first one. Without part 0 there is nothing to
hand on. Parity parts stand for parts that are missing: as many messages as the frame has parts make it whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline import limits
from pipeline.errors import RemoteProtocolError
from pipeline.wire.messages import FramePart, LimitError
from pipeline.wire.parity import LENGTH_BYTES, PART_BYTES_MAX, restored

WAIT_SHARE = 0.5
"""Share of the time between first part and deadline that an assembly waits for missing parts."""
OVERTAKEN_S = 0.02
"""How long it still waits once a part of a later frame is here: networks reorder by less, as a rule."""


@dataclass(slots=True)
class FrameAssembly:
    """The parts of one frame that are here. Times are monotonic seconds."""

    parts: int
    received_at: float
    deadline: float | None
    parity: int = 0
    size_max: int = limits.PAYLOAD_BYTES_MAX
    ends_at: float = field(init=False)
    _here: dict[int, bytes] = field(default_factory=dict)
    _parity_here: dict[int, bytes] = field(default_factory=dict)
    _size: int = 0

    def __post_init__(self) -> None:
        left = limits.BUDGET_MS_DEFAULT / 1000.0 if self.deadline is None else self.deadline - self.received_at
        self.ends_at = self.received_at + max(0.0, left) * WAIT_SHARE

    def add(self, message: FramePart) -> bool:
        """Take a part; True if the frame is complete.

        Raises RemoteProtocolError if it does not fit the others, LimitError if all together are too large.
        """
        totals = (self.parts, self.parity)
        if (message.parts, message.parity) != totals or message.part >= sum(totals):
            raise RemoteProtocolError(
                f"frame {message.frame} part {message.part} of {message.parts} and {message.parity} does not fit "
                f"{self.parts} parts and {self.parity} of parity: number them from 0 and say the same totals in each"
            )
        size = len(message.bytes)
        if size > LENGTH_BYTES + PART_BYTES_MAX and message.parity:
            raise RemoteProtocolError(f"a part of {size} bytes has parity, limit {PART_BYTES_MAX} bytes")
        if message.part >= self.parts:
            self._check_size(message.frame, size - LENGTH_BYTES)  # that of a part that it can stand for
            self._parity_here.setdefault(message.part - self.parts, message.bytes)
        elif message.part not in self._here:
            self._size += size
            self._check_size(message.frame, self._size)
            self._here[message.part] = message.bytes
        if self._restore():
            self._size = sum(map(len, self._here.values()))
            self._check_size(message.frame, self._size)
        return len(self._here) == self.parts

    def overtaken(self, now: float) -> None:
        """A part of a later frame arrived. Without a deadline there is time to wait."""
        if self.deadline is not None:
            self.ends_at = min(self.ends_at, now + OVERTAKEN_S)

    def prefix(self) -> bytes:
        """The bytes from the start up to the first missing part."""
        pieces = []
        for part in range(self.parts):
            if part not in self._here:
                break
            pieces.append(self._here[part])
        return b"".join(pieces)

    def _restore(self) -> bool:
        """Make up for missing parts; whether there were any, and parity for all of them."""
        if not len(self._here) < self.parts <= len(self._here) + len(self._parity_here):
            return False
        self._here = dict(enumerate(restored(self.parts, self._here, self._parity_here) or ()))
        return True

    def _check_size(self, frame: int, size: int) -> None:
        if size > self.size_max:
            raise LimitError(f"frame {frame} has {size} bytes in parts, limit {self.size_max}: lower the rate")
