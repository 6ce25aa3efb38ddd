"""A server's sessions over connections that live in an asyncio loop: WebSocket and WebRTC on an HTTP port.

The loop belongs to whoever serves HTTP; the door's pump runs on it. Connections tell the door what arrives and when
they are gone, the door tells them what to send and when to end. See server_pump.py for the part that all networks have.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Hashable
from typing import Final, Protocol

from pipeline import limits
from pipeline.clock import Clock
from pipeline.transports.base import OnServerEvent, SessionHandle, Traffic
from pipeline.transports.server_pump import Connection, Sent, ServerPump
from pipeline.wire import messages
from pipeline.wire.directory import PeerInfo, SessionDirectory
from pipeline.wire.messages import Goodbye

_STALLED_S: Final = 0.005
_DRAIN_LOOK_S: Final = 0.01
_GOODBYE_TAG: Final = 15
_END_S: Final = 1.0


class DoorConnection(Hashable, Protocol):
    """One connection, as the door sees it. Everything is called on the loop's thread."""

    peer: PeerInfo

    def send(self, data: bytes) -> Sent:
        """Hand over one message."""
        ...

    def finish(self, reason: str) -> None:
        """Deliver what was handed over, then end."""
        ...

    async def gone(self) -> None:
        """Until it has ended."""
        ...


class _Guest:
    """What the door remembers of a connection."""

    __slots__ = ("finishing", "known", "patience")

    def __init__(self, patience: asyncio.TimerHandle) -> None:
        self.known = False
        """It has had a session."""
        self.finishing = False
        self.patience = patience


class StreamDoor:
    """See ServerTransport. Make it on the loop's thread, or anywhere before the loop runs and `attach` it there."""

    def __init__(self, directory: SessionDirectory, on_event: OnServerEvent, clock: Clock, *, url: str) -> None:
        self.url = url
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop
        self._pump = ServerPump(directory, on_event, clock, send=self._send, wake=self._wake)
        self._guests: dict[DoorConnection, _Guest] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self.closed = False
        """Whether no new connections are welcome."""

    def attach(self) -> None:
        """This thread's running loop is the door's from now on."""
        self._loop = asyncio.get_running_loop()
        self._pump.thread = threading.get_ident()

    @property
    def alive(self) -> bool:
        """See ServerTransport."""
        return not self.closed and self._loop.is_running()

    @property
    def stats(self) -> Traffic:
        """What passed so far."""
        return self._pump.stats

    @property
    def full(self) -> bool:
        """Whether there are as many connections as a server may have."""
        return len(self._guests) >= limits.SESSIONS_MAX

    def handles(self) -> list[SessionHandle]:
        """See ServerTransport."""
        return self._pump.handles()

    def close(self, timeout: float = 5.0, *, drain_s: float = 0.0, peer: str = "", retry_after_s: float = 0.0) -> None:
        """See ServerTransport. Not from the loop's own thread."""
        with contextlib.suppress(RuntimeError, TimeoutError):  # The loop has ended; or it takes too long.
            asyncio.run_coroutine_threadsafe(self.end(drain_s, peer, retry_after_s), self._loop).result(
                timeout + drain_s
            )

    async def end(self, drain_s: float = 0.0, peer: str = "", retry_after_s: float = 0.0) -> None:
        """`close`, on the loop."""
        if self.closed:
            return
        self.closed = True
        until = self._clock() + drain_s
        self._pump.stop_credit()
        while self._clock() < until and not self._pump.drained:
            await asyncio.sleep(_DRAIN_LOOK_S)
        self.run()
        self._pump.say_goodbye(peer=peer, retry_after_s=retry_after_s)
        self.run()
        self._pump.end_sessions()
        for connection in list(self._guests):
            self._finish(connection, "the server is stopping")
        leaving = [asyncio.ensure_future(connection.gone()) for connection in list(self._guests)]
        if leaving:
            await asyncio.wait(leaving, timeout=_END_S)
        if self._timer is not None:
            self._timer.cancel()

    # --- From connections -------------------------------------------------------------------------------------

    def welcome(self, connection: DoorConnection) -> None:
        """A connection is open; Hello is due."""
        patience = self._loop.call_later(limits.HELLO_TIMEOUT_MS / 1000.0, self._silent, connection)
        self._guests[connection] = _Guest(patience)

    def received(self, connection: DoorConnection, data: bytes) -> None:
        """A message arrived."""
        guest = self._guests.get(connection)
        if guest is None or guest.finishing:
            return
        self._pump.received(connection, data, lambda: connection.peer)
        self._look_at(connection, guest)
        self._plan()

    def lost(self, connection: DoorConnection, reason: str) -> None:
        """The connection has ended."""
        guest = self._guests.pop(connection, None)
        if guest is not None:
            guest.patience.cancel()
            self._pump.lost(connection, reason)
            self._plan()

    def refuse(self, connection: DoorConnection, goodbye: Goodbye) -> None:
        """End a connection that gets no session."""
        self._pump.directory.refused += 1
        connection.send(messages.encode(goodbye))
        self._finish(connection, goodbye.reason)

    # --- The loop ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Calls of other threads and what is due; then the next look is planned."""
        self._pump.run()
        for connection, guest in list(self._guests.items()):
            self._look_at(connection, guest)
        self._plan()

    def _wake(self) -> None:
        if self._woken:
            return
        self._woken = True
        with contextlib.suppress(RuntimeError):  # The loop has ended.
            self._loop.call_soon_threadsafe(self._wakened)

    def _wakened(self) -> None:
        self._woken = False
        self.run()

    def _plan(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._pump.next_at()
        wait_s = None if at is None else max(0.0, at - self._clock())
        if self._pump.stalled:
            wait_s = _STALLED_S if wait_s is None else min(wait_s, _STALLED_S)
        if wait_s is not None:
            self._timer = self._loop.call_later(wait_s, self.run)

    def _send(self, connection: Connection, data: bytes) -> Sent:
        guest = self._guests.get(connection)  # type: ignore[call-overload]
        if guest is None or guest.finishing:
            return Sent.GONE
        sent: Sent = connection.send(data)  # type: ignore[attr-defined]
        if sent is Sent.YES and len(data) > 1 and data[1] == _GOODBYE_TAG:
            goodbye = messages.decode(data)
            assert isinstance(goodbye, Goodbye)
            self._finish(connection, goodbye.reason)  # type: ignore[arg-type]
        return sent

    def _look_at(self, connection: DoorConnection, guest: _Guest) -> None:
        """A connection whose session has ended, or has moved to another connection, ends."""
        known = self._pump.knows(connection)
        if known:
            guest.known = True
            guest.patience.cancel()
        elif guest.known and not guest.finishing:
            self._finish(connection, "the session is elsewhere")

    def _silent(self, connection: DoorConnection) -> None:
        if not self._pump.knows(connection):
            self._finish(connection, "no Hello")

    def _finish(self, connection: DoorConnection, reason: str) -> None:
        guest = self._guests.get(connection)
        if guest is not None:
            if guest.finishing:
                return
            guest.finishing = True
            guest.patience.cancel()
        connection.finish(reason)


OpenDoor = Callable[[], StreamDoor | None]
"""The door, or None while the server is not ready."""
