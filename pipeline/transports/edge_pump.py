"""The part of an edge transport that is the same for every network: calls in, events and messages out, the link model.

Everything but `call` runs on the transport's thread.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from collections.abc import Callable

from pipeline.clock import Clock
from pipeline.transports.base import EdgeCall, OnEdgeEvent, OnTraffic, Traffic
from pipeline.transports.link_model import Link, LinkModel, SharedLink
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.session import Outgoing, channel_of

log = logging.getLogger("frankenstream.transports")

Send = Callable[[bytes], bool]
"""Hand a message to the network; False: it takes nothing now, try again when it is writable."""


class EdgePump:
    """Moves messages between one EdgeSession and a network."""

    def __init__(
        self,
        session: EdgeSession,
        on_event: OnEdgeEvent,
        clock: Clock,
        *,
        wake: Callable[[], None],
        link: LinkModel | SharedLink | None = None,
        on_traffic: OnTraffic | None = None,
    ) -> None:
        self.session = session
        self.traffic = Traffic()
        self.thread: int | None = None
        """Identity of the transport's thread; calls from it run at once."""
        self._on_event = on_event
        self._on_traffic = on_traffic
        self._clock = clock
        self._wake = wake
        self._inbox: deque[EdgeCall] = deque()
        self._ending = threading.RLock()
        self._ended = False
        self._timer_at: float | None = None
        self._unsent: Outgoing | None = None
        self._link = None if link is None else _DelayedLink(link)

    def call(self, fn: EdgeCall) -> None:
        """Run `fn` on the transport's thread (at once if this is it). Thread-safe."""
        if threading.get_ident() == self.thread:
            fn(self.session, self._clock())
            return
        with self._ending:
            if self._ended:
                fn(self.session, self._clock())
                self._emit()
                return
            self._inbox.append(fn)
        self._wake()

    def end(self) -> None:
        """The transport's thread ends. Later calls run on their callers' threads: what they capture is counted too."""
        with self._ending:
            self._ended = True
            self.run_inbox()
            self._emit()

    def run_inbox(self) -> None:
        """Run what other threads have asked for."""
        while self._inbox:
            fn = self._inbox.popleft()
            try:
                fn(self.session, self._clock())
            except Exception:
                log.exception("a call on the edge's transport failed")

    @property
    def blocked(self) -> bool:
        """Whether a message waits for the network to be writable."""
        return self._unsent is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way out."""
        return self._unsent is None and (self._link is None or not self._link.going)

    def connected(self) -> None:
        """The network is up."""
        self.traffic.connections += 1
        self._drop_link()
        self.session.connected(self._clock())

    def disconnected(self, reason: str) -> None:
        """The network is down."""
        self._unsent = None
        self._drop_link()
        self.session.disconnected(reason, self._clock())

    def received(self, data: bytes) -> None:
        """A message arrived."""
        now = self._clock()
        if self._link is None:
            self._take(data, now)
        else:
            self._link.arrived(data, now)

    def pump(self, send: Send) -> None:
        """Timers, events and messages, until there is nothing left to do now."""
        session = self.session
        now = self._clock()
        if self._link is not None:
            for data in self._link.take_down(now):
                self._take(data, now)
        if self._timer_at is not None and self._timer_at <= now:
            session.timer(now)
        while self._emit() or self._send_one(send):
            pass
        self._timer_at = session.timer_at()

    def next_at(self) -> float | None:
        """When `pump` is to run next even if nothing arrives."""
        timer_at = self._timer_at
        if self._link is None:
            return timer_at
        link_at = self._link.next_at(self._clock())
        return link_at if timer_at is None else min(timer_at, link_at)

    def _take(self, data: bytes, now: float) -> None:
        self.traffic.received_messages += 1
        self.traffic.received_bytes += len(data)
        if self._on_traffic is not None:
            self._on_traffic("down", channel_of(data), data, now)
        self.session.receive_data(data, now)

    def _emit(self) -> bool:
        """Tell the owner; whether there was anything to tell."""
        told = False
        while (event := self.session.next_event()) is not None:
            told = True
            try:
                self._on_event(event)
            except Exception:
                log.exception("the owner of the edge session failed on %s", type(event).__name__)
        return told

    def _send_one(self, send: Send) -> bool:
        now = self._clock()
        outgoing = self._unsent
        if outgoing is not None and outgoing.expires_at is not None and now >= outgoing.expires_at:
            self._unsent = None
            self.session.unsent(outgoing, "the network did not take it in time", now)
            return True
        if self._link is not None:
            return self._send_through_link(self._link, send, now)
        if outgoing is None:
            outgoing = self.session.poll_send(now)
            if outgoing is None:
                return False
        if not send(outgoing.data):
            self._unsent = outgoing
            return False
        self._unsent = None
        self._count(outgoing, now)
        return True

    def _send_through_link(self, link: _DelayedLink, send: Send, now: float) -> bool:
        for data in link.take_up(now):
            if not send(data):
                break  # The model is slower than the network; what is refused here is lost like on any link.
        if not link.takes(now):
            return False
        outgoing = self.session.poll_send(now)
        if outgoing is None:
            return False
        link.send(outgoing, now)
        self._count(outgoing, now)
        return True

    def _count(self, outgoing: Outgoing, now: float) -> None:
        self.traffic.sent_messages += 1
        self.traffic.sent_bytes += len(outgoing.data)
        if self._on_traffic is not None:
            self._on_traffic("up", outgoing.channel, outgoing.data, now)

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.clear()


class _DelayedLink:
    """A LinkModel around a network that is faster than it: messages are held until the model says they arrive."""

    def __init__(self, model: LinkModel | SharedLink) -> None:
        self._up: Link = model.up()
        self._down: Link = model.down()
        self._going: list[tuple[float, int, bytes]] = []
        self._coming: list[tuple[float, int, bytes]] = []
        self._order = 0

    def clear(self) -> None:
        self._going.clear()
        self._coming.clear()

    @property
    def going(self) -> bool:
        return bool(self._going)

    def takes(self, now: float) -> bool:
        return self._up.ready_at(now) <= now

    def send(self, outgoing: Outgoing, now: float) -> None:
        self._hold(self._going, self._up, outgoing.data, now, reliable=outgoing.channel == "control")

    def arrived(self, data: bytes, now: float) -> None:
        self._hold(self._coming, self._down, data, now, reliable=channel_of(data) != "results")

    def take_up(self, now: float) -> list[bytes]:
        return self._take(self._going, now)

    def take_down(self, now: float) -> list[bytes]:
        return self._take(self._coming, now)

    def next_at(self, now: float) -> float:
        times = [queue[0][0] for queue in (self._going, self._coming) if queue]
        if not self.takes(now):
            times.append(self._up.ready_at(now))
        return min(times, default=float("inf"))

    def _hold(
        self, queue: list[tuple[float, int, bytes]], link: Link, data: bytes, now: float, *, reliable: bool
    ) -> None:
        for arrival in link.carry(len(data), now, reliable=reliable):
            self._order += 1
            heapq.heappush(queue, (arrival, self._order, data))

    @staticmethod
    def _take(queue: list[tuple[float, int, bytes]], now: float) -> list[bytes]:
        taken = []
        while queue and queue[0][0] <= now:
            taken.append(heapq.heappop(queue)[2])
        return taken
