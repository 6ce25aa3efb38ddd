"""What every edge transport with a thread of its own does alike: calls, closing, backing off, ending in order."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from random import Random
from typing import Final

from pipeline.clock import Clock
from pipeline.transports.backoff import Backoff
from pipeline.transports.base import EdgeCall, OnEdgeEvent, OnTraffic, Traffic
from pipeline.transports.edge_pump import EdgePump
from pipeline.transports.link_model import LinkModel
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.states import CLOSED, OPEN

log = logging.getLogger("frankenstream.transports")

HANG_UP_S: Final = 1.0


class EdgeThread(ABC):
    """See EdgeTransport. A subclass starts `_thread` when it is ready; everything with a line below runs there."""

    def __init__(
        self,
        url: str,
        session: EdgeSession,
        on_event: OnEdgeEvent,
        *,
        wake: Callable[[], None],
        link: LinkModel | None,
        on_traffic: OnTraffic | None,
        clock: Clock,
    ) -> None:
        self.url = url
        self.session = session
        self._clock = clock
        self._pump = EdgePump(session, on_event, clock, wake=wake, link=link, on_traffic=on_traffic)
        self._backoff = Backoff(Random())
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name=f"edge {url}", daemon=True)

    @property
    def traffic(self) -> Traffic:
        """What passed so far."""
        return self._pump.traffic

    @property
    def closed(self) -> bool:
        """See EdgeTransport."""
        return not self._thread.is_alive()

    def call(self, fn: EdgeCall) -> None:
        """See EdgeTransport."""
        self._pump.call(fn)

    def close(self, timeout: float = 2.0, *, drain_s: float = 0.0) -> None:
        """See EdgeTransport."""
        self._pump.call(lambda session, now: session.stop(now, drain_s=drain_s))
        if threading.get_ident() == self._pump.thread:
            return
        self._thread.join(timeout + drain_s)
        if self._thread.is_alive():
            self._abandoned = True
            self._interrupt()
            self._thread.join(HANG_UP_S)

    @abstractmethod
    def _interrupt(self) -> None:
        """Make the thread look, whatever it waits for: it has been abandoned. Thread-safe."""

    @abstractmethod
    def _live(self) -> None:
        """Until the session is closed and its last messages have left, or `_abandoned`."""

    @abstractmethod
    def _hang_up(self) -> None:
        """End the connection, if there is one."""

    @abstractmethod
    def _release(self) -> None:
        """Give back what the thread holds."""

    def _run(self) -> None:
        self._pump.thread = threading.get_ident()
        try:
            self._live()
        except Exception as error:
            log.exception("the edge's transport failed")
            self.session.refused("error", f"the edge's transport failed: {error}", self._clock())
        finally:
            self._pump.run_inbox()
            if self.session.state != CLOSED:
                self.session.refused("done", "the edge gave up closing in order", self._clock())
            self._pump.pump(lambda data: True)
            self._pump.end()
            self._release()

    def _lost(self, reason: str) -> None:
        self._hang_up()
        self._backoff.failed(self._clock())
        self.session.peer = ""
        self._pump.disconnected(reason)

    def _forget_failures(self) -> None:
        if self.session.state == OPEN:
            self._backoff.forget()
