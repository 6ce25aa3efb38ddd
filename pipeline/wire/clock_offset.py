"""What the other side's clock says, and when to ask: pings, the sample of least round trip, its error.

As in NTP (RFC 5905, chapter 8 and its clock filter): of the samples of the last 30 s the one of least round trip is
the least disturbed by queues; its offset is wrong by at most half of that round trip. Both clocks are monotonic and
in seconds; they have nothing in common but their rate. Reset on reconnect, since the way may be another. Pure.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from pipeline import limits


@dataclass(frozen=True, slots=True)
class ClockSample:
    """One Ping and its Pong. Times are seconds; `offset_s` is the peer's clock minus ours."""

    taken_at: float
    offset_s: float
    round_trip_s: float


class ClockOffset:
    """The peer's clock, estimated from the best sample of the last CLOCK_WINDOW_MS."""

    def __init__(self) -> None:
        # Round trips increase from left to right: a new sample removes every worse one, the left end is the best.
        self._samples: deque[ClockSample] = deque()

    def reset(self) -> None:
        """Forget everything: another connection, another way."""
        self._samples.clear()

    def add(self, sent_at: float, received_at: float, replied_at: float, now: float) -> None:
        """A Pong came: our clock at sending and now, the peer's clock in between. All in seconds."""
        round_trip_s = max(0.0, (now - sent_at) - max(0.0, replied_at - received_at))
        offset_s = ((received_at - sent_at) + (replied_at - now)) / 2
        while self._samples and self._samples[-1].round_trip_s >= round_trip_s:
            self._samples.pop()
        self._samples.append(ClockSample(now, offset_s, round_trip_s))
        horizon = now - limits.CLOCK_WINDOW_MS / 1000.0
        while self._samples[0].taken_at < horizon:
            self._samples.popleft()

    @property
    def best(self) -> ClockSample | None:
        """The sample that counts, or None before the first Pong."""
        return self._samples[0] if self._samples else None

    @property
    def offset_s(self) -> float | None:
        """The peer's clock minus ours, in seconds."""
        return self._samples[0].offset_s if self._samples else None

    @property
    def error_s(self) -> float | None:
        """How far `offset_s` can be off, in seconds (±)."""
        return self._samples[0].round_trip_s / 2 if self._samples else None

    @property
    def one_way_s(self) -> float:
        """Estimated time of a small message in one direction, in seconds; 0 while unknown."""
        return self._samples[0].round_trip_s / 2 if self._samples else 0.0


class PingSchedule:
    """When to ping: PINGS_AT_CONNECT in quick succession, then one every PING_INTERVAL_MS. Knows which are out."""

    _OUTSTANDING_MAX = 64

    def __init__(self) -> None:
        self.next_at = float("inf")
        self._quick_left = 0
        self._number = 0
        self._outstanding: OrderedDict[int, float] = OrderedDict()

    def start(self, now: float) -> None:
        """A connection is up."""
        self._quick_left = limits.PINGS_AT_CONNECT
        self.next_at = now

    def stop(self) -> None:
        """The connection is gone; Pongs that are still out mean nothing any more."""
        self.next_at = float("inf")
        self._outstanding.clear()

    def due(self, now: float) -> bool:
        """Whether a ping is due; if so, the next one is scheduled."""
        if now < self.next_at:
            return False
        self._quick_left = max(0, self._quick_left - 1)
        interval_ms = limits.PING_INTERVAL_AT_CONNECT_MS if self._quick_left else limits.PING_INTERVAL_MS
        self.next_at = now + interval_ms / 1000.0
        return True

    def sent(self, now: float) -> int:
        """A ping is handed to the transport; returns its number."""
        self._number += 1
        self._outstanding[self._number] = now
        if len(self._outstanding) > self._OUTSTANDING_MAX:
            self._outstanding.popitem(last=False)
        return self._number

    def answered(self, ping: int) -> float | None:
        """When ping number `ping` was sent; None if it is not out (doubled, late, or made up)."""
        return self._outstanding.pop(ping, None)
