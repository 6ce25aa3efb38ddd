"""The counts of frames: every captured frame ends in exactly one counted state (DESIGN principle 4).

Edge (authoritative):  captured = answered + unchanged + Σ dropped[cause] + in_flight
Server:                received = answered + Σ dropped[server causes] + in_flight

`unchanged` is a frame that was not sent because its latent is that of an answered one, whose answer is repeated.
The first terminal state of a frame is final: a later result counts as `late_results`, a second one as `duplicates`.
Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections import OrderedDict

from pipeline import limits

EDGE_CAUSES: tuple[str, ...] = ("superseded", "too_old", "encode_failed", "send_failed", "lost")
SERVER_CAUSES: tuple[str, ...] = ("shed", "deadline", "incomplete", "undecodable", "engine_failed")
COMMON_CAUSES: tuple[str, ...] = ("disconnected", "stopped")
CAUSES: tuple[str, ...] = EDGE_CAUSES + SERVER_CAUSES + COMMON_CAUSES


UNCHANGED = "unchanged"
"""State of a frame that was not sent because an earlier answer holds for it. Not a drop."""


class FrameAccount:
    """Counts frames of one session on one side.

    `entered` is `captured` on the edge and `received` on the server. Terminal states of the last REMEMBERED_FRAMES
    frames are remembered, so that duplicates and late results are told apart.
    """

    def __init__(self) -> None:
        self.entered = 0
        self.answered = 0
        self.unchanged = 0
        self.dropped: dict[str, int] = {}
        self.late_results = 0
        self.duplicates = 0
        self.in_flight: set[int] = set()
        self._ended: OrderedDict[int, str] = OrderedDict()

    def enter(self, frame: int) -> bool:
        """A frame was captured (edge) or received (server). False, and counted as duplicate, if it is known already."""
        if frame in self.in_flight or frame in self._ended:
            self.duplicates += 1
            return False
        self.entered += 1
        self.in_flight.add(frame)
        return True

    def answer(self, frame: int) -> bool:
        """A result for `frame`. True if it is the frame's terminal state."""
        if frame in self.in_flight:
            self.answered += 1
            self._end(frame, "answered")
            return True
        if self._ended.get(frame) == "answered":
            self.duplicates += 1
        elif frame in self._ended:
            self.late_results += 1
        return False

    def repeat(self, frame: int) -> bool:
        """`frame` gets an earlier frame's answer. True if that is its terminal state."""
        if frame not in self.in_flight:
            return False
        self.unchanged += 1
        self._end(frame, UNCHANGED)
        return True

    def drop(self, frame: int, cause: str) -> bool:
        """`frame` is dropped for `cause`. True if that is its terminal state."""
        assert cause in CAUSES, cause
        if frame not in self.in_flight:
            return False
        self.dropped[cause] = self.dropped.get(cause, 0) + 1
        self._end(frame, cause)
        return True

    def drop_all(self, cause: str) -> list[int]:
        """Drop everything in flight; returns the frames, in order."""
        frames = sorted(self.in_flight)
        for frame in frames:
            self.drop(frame, cause)
        return frames

    def ended(self, frame: int) -> str | None:
        """Terminal state of a remembered frame: "answered", "unchanged", a cause, or None."""
        return self._ended.get(frame)

    @property
    def balanced(self) -> bool:
        """Whether the count equation holds. False is a bug of ours."""
        return self.entered == self.answered + self.unchanged + sum(self.dropped.values()) + len(self.in_flight)

    def _end(self, frame: int, state: str) -> None:
        self.in_flight.discard(frame)
        self._ended[frame] = state
        if len(self._ended) > limits.REMEMBERED_FRAMES:
            self._ended.popitem(last=False)
