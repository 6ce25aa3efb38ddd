"""How many parts get lost: counted by the server, told with its replies, smoothed by the edge. Pure.

Frames are numbered by `sent`. The server counts the parts (whole frames count as one) that arrived of each, and closes
the count a little after a later frame has overtaken it; what comes still later is of no use and counts as lost. Replies
say up to which frame that is and how many parts it were since Welcome, so a lost reply loses nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from pipeline import limits
from pipeline.wire.assembly import OVERTAKEN_S

LOSS_AT_START: Final = 0.02
"""Taken for lossy until it has shown that it is not, which takes some 300 parts."""
LOSS_PARTS: Final = 200
"""Parts over which the loss is averaged."""


class PartTally:
    """The server's side. Bounded by credit: ordinals beyond what was granted must not come here."""

    def __init__(self) -> None:
        self.settled = 0
        """Frames with an ordinal up to this are counted."""
        self.parts = 0
        """Parts of those that arrived, doubles left out."""
        self._open: dict[int, int] = {}  # ordinal → bits of the parts that are here
        self._overtaken: deque[tuple[float, int]] = deque()  # (when, ordinal of the frame that did it), both rising

    def arrived(self, ordinal: int, part: int, now: float) -> None:
        """A part of the frame with this ordinal (0: it has none) is here."""
        self.settle(now)
        if ordinal <= self.settled:
            return
        if not self._overtaken or ordinal > self._overtaken[-1][1]:
            self._overtaken.append((now, ordinal))
        self._open[ordinal] = self._open.get(ordinal, 0) | 1 << part

    def settle(self, now: float) -> None:
        """Close the counts of frames that were overtaken a while ago."""
        while self._overtaken and self._overtaken[0][0] + OVERTAKEN_S <= now:
            self.settled = self._overtaken.popleft()[1] - 1
        for ordinal in [one for one in self._open if one <= self.settled]:
            self.parts += self._open.pop(ordinal).bit_count()


class LossEstimate:
    """The edge's side: what was sent, and the smoothed share of it that got lost."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new session: nothing was sent."""
        self.share = LOSS_AT_START
        # (ordinal, parts), rising, not told of yet; an old server never tells.
        self._sent: deque[tuple[int, int]] = deque(maxlen=limits.REMEMBERED_FRAMES)
        self._counted = 0

    def sent(self, ordinal: int) -> None:
        """A part of the frame with this ordinal leaves."""
        if self._sent and self._sent[-1][0] == ordinal:
            self._sent[-1] = (ordinal, self._sent[-1][1] + 1)
        else:
            self._sent.append((ordinal, 1))

    def told(self, settled: int, parts: int) -> None:
        """The server has counted the frames up to `settled`: `parts` parts of them since Welcome."""
        left = 0
        while self._sent and self._sent[0][0] <= settled:
            left += self._sent.popleft()[1]
        if not left:
            return  # Told before, or overtaken by a newer reply.
        lost = min(1.0, max(0.0, 1 - (parts - self._counted) / left))
        self._counted = max(self._counted, parts)
        self.share += (lost - self.share) * (1 - (1 - 1 / LOSS_PARTS) ** left)
