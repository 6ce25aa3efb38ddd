"""An edge over connections that live in an asyncio loop: WebSocket and WebRTC, and going over from one to the other.

One thread with one loop. A *route* knows how to open one kind of connection; the first of the given routes is the one
that the URL names, the others are taken where it finds no way (`NoWay`). Everything else, reconnecting with backoff,
resuming, timers, messages in and out, is the same for all of them and stands here once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pipeline.clock import Clock
from pipeline.errors import FrankenError
from pipeline.transports.base import OnEdgeEvent, OnTraffic
from pipeline.transports.edge_thread import HANG_UP_S, EdgeThread
from pipeline.transports.link_model import LinkModel
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.session import Outgoing
from pipeline.wire.states import CLOSED

log = logging.getLogger("frankenstream.transports")

_BLOCKED_S: Final = 0.005
"""A connection that took no message is asked again after this."""
FALLBACK_S: Final = 300.0
"""After this long on another route, the next reconnection tries the one that the URL names again."""


class OpenFailed(Exception):
    """Nobody there, or not ready: try again later."""


class NoWay(OpenFailed):
    """This kind of connection cannot be made from here, though the server is there: take the next route."""


class Turned(Exception):
    """The server does not want this edge (wrong certificate, foreign origin): no use in trying again."""


class EdgeConnection(Protocol):
    """A connection that is open. Everything is called on the loop's thread."""

    def send(self, data: bytes) -> bool:
        """Hand over one message; False: it takes nothing now."""
        ...

    async def close(self) -> None:
        """Deliver what was handed over, then end; no hook is called any more."""
        ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a connection tells its edge, on the loop's thread. Nothing more comes after `lost`."""

    received: Callable[[bytes], None]
    lost: Callable[[str], None]
    writable: Callable[[], None]
    unsent: Callable[[Outgoing, str], None]
    """A frame that `send` took did not leave in time."""


class Route(Protocol):
    """One kind of connection."""

    name: str
    part_bytes: int
    """Frames go in parts of at most so many bytes; 0: whole."""

    async def open(self, url: str, hooks: Hooks) -> EdgeConnection:
        """Connect to the server at `url`. Raises OpenFailed, NoWay, Turned."""
        ...


class AsyncioEdge(EdgeThread):
    """See EdgeTransport."""

    def __init__(
        self,
        url: str,
        session: EdgeSession,
        on_event: OnEdgeEvent,
        routes: Sequence[Route],
        *,
        link: LinkModel | None,
        on_traffic: OnTraffic | None,
        clock: Clock,
    ) -> None:
        super().__init__(url, session, on_event, wake=self._wake, link=link, on_traffic=on_traffic, clock=clock)
        self.route = routes[0].name
        """The kind of connection in use."""
        self.why = ""
        """Why it is not the one that the URL names; empty if it is."""
        self._routes = tuple(routes)
        self._at = 0
        self._fell_back_at = float("-inf")
        self._whole_part_bytes = session.part_bytes
        self._loop = asyncio.new_event_loop()
        self._connection: EdgeConnection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self._number = 0
        self._ended = asyncio.Event()
        self._thread.start()

    # --- The thread -------------------------------------------------------------------------------------------

    def _live(self) -> None:
        self._loop.run_until_complete(self._live_in_loop())

    def _release(self) -> None:
        self._loop.close()

    def _interrupt(self) -> None:
        self._wake(force=True)

    async def _live_in_loop(self) -> None:
        self._tick()
        await self._ended.wait()
        if self._timer is not None:
            self._timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._opening
        self._hang_up()
        if self._closing:
            await asyncio.wait(self._closing, timeout=HANG_UP_S)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _wake(self, *, force: bool = False) -> None:
        """Thread-safe; many wakes before the loop looks cost one call."""
        if self._woken and not force:
            return
        self._woken = True
        with contextlib.suppress(RuntimeError):  # The loop has ended.
            self._loop.call_soon_threadsafe(self._wakened)

    def _wakened(self) -> None:
        self._woken = False  # Before looking: a wake from here on makes another call.
        self._tick()

    def _tick(self) -> None:
        """Everything that is due now; then the next look is planned."""
        if self._ended.is_set():
            return
        self._pump.run_inbox()
        self._pump.pump(self._send)
        session = self.session
        self._forget_failures()
        if self._connection is not None and not session.uses_connection and self._pump.idle:
            self._hang_up()
            self._backoff.failed(self._clock())
        if self._opening is not None and not session.wants_connection and session.state == CLOSED:
            self._opening.cancel()
        if self._abandoned or (session.state == CLOSED and self._connection is None):
            self._ended.set()
            return
        self._plan()

    def _plan(self) -> None:
        now = self._clock()
        at = self._pump.next_at()
        at = float("inf") if at is None else at
        if self._connection is not None and self._pump.blocked:
            at = min(at, now + _BLOCKED_S)
        if self._connection is None and self._opening is None and self.session.wants_connection:
            open_at = max(self._backoff.retry_at, self.session.reconnect_at)
            if open_at <= now:
                self._opening = self._loop.create_task(self._open())
            else:
                at = min(at, open_at)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at == float("inf") else self._loop.call_later(max(0.0, at - now), self._tick)

    def _send(self, data: bytes) -> bool:
        return self._connection is not None and self._connection.send(data)

    # --- The connection ---------------------------------------------------------------------------------------

    async def _open(self) -> None:
        if self._at and self._clock() - self._fell_back_at > FALLBACK_S:
            self._take_route(0, "")
        self._number += 1
        route = self._routes[self._at]
        try:
            connection = await route.open(self.session.peer or self.url, self._hooks(self._number))
        except asyncio.CancelledError:
            self._opening = None
            raise
        except Turned as error:
            self._opening = None
            self.session.refused("unauthorised", str(error), self._clock())
        except NoWay as error:
            self._opening = None
            self._next_route(str(error))
        except (OpenFailed, FrankenError) as error:
            self._opening = None
            self._lost(str(error))
        except Exception as error:
            log.exception("opening a connection failed")
            self._opening = None
            self._lost(f"{self.session.peer or self.url} cannot be reached: {error}")
        else:
            self._opening = None
            self._connection = connection
            self.session.part_bytes = route.part_bytes or self._whole_part_bytes
            self._pump.connected()
        self._tick()

    def _hooks(self, number: int) -> Hooks:
        """Of connection `number`: what an earlier one still says means nothing."""

        def received(data: bytes) -> None:
            if number == self._number and self._connection is not None:
                self._pump.received(data)
                self._tick()

        def lost(reason: str) -> None:
            if number == self._number and self._connection is not None:
                self._pump.pump(self._send)  # What came before the end still counts.
                if self._connection is not None:
                    self._lost(reason)
                self._tick()

        def writable() -> None:
            if number == self._number and self._pump.blocked:
                self._tick()

        def unsent(outgoing: Outgoing, detail: str) -> None:
            if number == self._number:
                self.session.unsent(outgoing, detail, self._clock())
                self._wake()

        return Hooks(received, lost, writable, unsent)

    def _next_route(self, reason: str) -> None:
        if self._at + 1 < len(self._routes):
            self._fell_back_at = self._clock()
            self._take_route(self._at + 1, reason)
            self._backoff.retry_at = self._clock()
            log.warning("%s: %s: using %s instead", self.url, reason, self.route)
        else:
            self._lost(reason)

    def _take_route(self, at: int, why: str) -> None:
        self._at, self.why = at, why
        self.route = self._routes[at].name

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            task = self._loop.create_task(connection.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
