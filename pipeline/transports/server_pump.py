"""The part of a server transport that is the same for every network: connections, sessions, timers, calls, events.

One pump per listening transport, one thread per pump. Everything but `call` on a handle runs on that thread. Sessions
live in a SessionDirectory that several pumps may share; a session whose edge comes back through another transport is
handed over from thread to thread (`_release` there, `_admit` here), so it always belongs to exactly one.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from enum import Enum
from itertools import count
from typing import Final

from pipeline import limits
from pipeline.clock import Clock
from pipeline.errors import RemoteProtocolError
from pipeline.transports.base import OnServerEvent, ServerCall, SessionHandle, Traffic
from pipeline.wire import messages
from pipeline.wire.directory import PeerInfo, Refusal, SessionDirectory
from pipeline.wire.messages import Goodbye, Hello
from pipeline.wire.server_session import ServerSession
from pipeline.wire.session import NEVER, Outgoing, channel_of, one_line, reason_of
from pipeline.wire.states import CLOSED, OPEN, WAITING

log = logging.getLogger("frankenstream.transports")

Connection = Hashable
"""What the network calls one connection: a ROUTER's routing id, a number, …"""


class Sent(Enum):
    """What became of a message that was handed to the network."""

    YES = "yes"
    LATER = "later"
    """It takes nothing for this connection now; try again soon."""
    GONE = "gone"
    """There is no such connection any more."""


Send = Callable[[Connection, bytes], Sent]

_LAST_WORDS_S: Final = limits.GOODBYE_TIMEOUT_MS / 1000.0
_FAILED: Final = "the server failed at this session: its log says why"
_FAILED_S: Final = 1.0
"""When an edge whose session ended like this may begin another one."""


class Handle:
    """See SessionHandle."""

    __slots__ = ("_pump", "connection", "leaves_at", "peer", "session", "timer_at", "unsent")

    def __init__(self, pump: ServerPump, session: ServerSession, peer: PeerInfo, connection: Connection | None) -> None:
        self._pump = pump
        self.session = session
        self.peer = peer
        self.connection = connection
        self.timer_at = NEVER
        self.unsent: Outgoing | None = None
        self.leaves_at = NEVER
        """Until then the network may take the last words of a session that needs no connection any more."""

    @property
    def id(self) -> str:
        """Session id."""
        return self.session.session_id

    def call(self, fn: ServerCall) -> None:
        """See SessionHandle."""
        self._pump.post(self, fn)

    def take_back(self, reason: str, now: float) -> None:
        """What the network has not taken goes back to the session, where an answer waits for the edge to come back."""
        outgoing, self.unsent = self.unsent, None
        if outgoing is not None:
            self.session.unsent(outgoing, reason, now)


class ServerPump:
    """Moves messages between a network with many connections and the sessions of a directory."""

    def __init__(
        self,
        directory: SessionDirectory,
        on_event: OnServerEvent,
        clock: Clock,
        *,
        send: Send,
        wake: Callable[[], None],
    ) -> None:
        self.directory = directory
        self.stats = Traffic()
        self.thread: int | None = None
        """Identity of the transport's thread; calls from it run at once."""
        self._on_event = on_event
        self._clock = clock
        self._send = send
        self._wake = wake
        self._inbox: deque[Callable[[], None]] = deque()
        self._connections: dict[Connection, Handle] = {}
        self._handles: dict[int, Handle] = {}
        self._timers: list[tuple[float, int, Handle]] = []
        self._order = count()
        self._touched: list[Handle] = []
        self._stalled: set[Handle] = set()

    # --- From other threads -----------------------------------------------------------------------------------

    def post(self, handle: Handle, fn: ServerCall) -> None:
        """Run `fn` on the session of `handle`, on this pump's thread (at once if this is it)."""
        if threading.get_ident() == self.thread:
            self._run(handle, fn)
        else:
            self._post(lambda: self._run(handle, fn))

    def _post(self, job: Callable[[], None]) -> None:
        self._inbox.append(job)
        self._wake()

    def handles(self) -> list[SessionHandle]:
        """The sessions that live here."""
        return list(self._handles.values())

    # --- From the network -------------------------------------------------------------------------------------

    def knows(self, connection: Connection) -> bool:
        """Whether the connection has a session."""
        return connection in self._connections

    def received(self, connection: Connection, data: bytes, peer: Callable[[], PeerInfo]) -> None:
        """A message arrived; `peer` is asked who it is when the connection is new."""
        self.stats.received_messages += 1
        self.stats.received_bytes += len(data)
        self.stats.bytes_by_channel["up", channel_of(data)] += len(data)
        handle = self._connections.get(connection)
        if handle is None:
            self._open(connection, data, peer(), self._clock())
        else:
            self._pump(handle, lambda session, now: session.receive_data(data, now))

    def lost(self, connection: Connection, reason: str) -> None:
        """The network says that a connection is gone."""
        handle = self._connections.pop(connection, None)
        if handle is not None and handle.connection == connection:
            handle.connection = None
            handle.take_back(reason, self._clock())
            self._pump(handle, lambda session, now: session.disconnected(reason, now))

    # --- The loop ---------------------------------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Whether a connection takes nothing at the moment: run again in a few milliseconds."""
        return bool(self._stalled)

    def run(self) -> None:
        """Calls of other threads, due timers, stalled connections."""
        while self._inbox:
            self._inbox.popleft()()
        now = self._clock()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers))
        for at, _, handle in due:
            if handle.timer_at == at and handle._pump is self:
                handle.timer_at = NEVER
                self._pump(handle, lambda session, now: session.timer(now))
        stalled, self._stalled = self._stalled, set()
        for handle in stalled:
            self._pump(handle)
        while self._touched:
            self._pump(self._touched.pop())

    def next_at(self) -> float | None:
        """When `run` has something to do even if nothing arrives."""
        return self._timers[0][0] if self._timers else None

    def _run(self, handle: Handle, fn: ServerCall) -> None:
        if handle._pump is not self:
            handle._pump.post(handle, fn)  # The session has moved.
            return
        try:
            fn(handle.session, self._clock())
        except Exception:
            log.exception("a call on session %s failed", handle.id)
        self._touched.append(handle)

    def _pump(self, handle: Handle, fn: ServerCall | None = None) -> None:
        """`fn` on a session, then what it caused. A session that fails at it is ended, and no other."""
        if handle._pump is not self:
            return  # The session has moved.
        try:
            if fn is not None:
                fn(handle.session, self._clock())
            self._drive(handle)
        except Exception:
            log.exception("session %s failed and is ended", handle.id)
            self._give_up(handle)

    def _give_up(self, handle: Handle) -> None:
        try:
            handle.session.goodbye("error", _FAILED, self._clock(), retry_after_s=_FAILED_S)
            self._drive(handle)
        except Exception:
            log.exception("session %s could not say Goodbye", handle.id)
            self._remove(handle)

    def _drive(self, handle: Handle) -> None:
        """Events and messages of one session until there is nothing left to do now; then its next timer."""
        while self._emit(handle) or self._send_one(handle):
            pass
        session = handle.session
        if handle.unsent is None or session.state in (WAITING, OPEN):
            handle.leaves_at = NEVER
        elif handle.leaves_at == NEVER:
            handle.leaves_at = self._clock() + _LAST_WORDS_S
        elif self._clock() >= handle.leaves_at:
            self._hang_up(handle, "the edge does not read")
        if session.state == CLOSED and handle.unsent is None:
            self._remove(handle)
            return
        if handle.connection is not None and handle.unsent is None and not session.uses_connection:
            self._hang_up(handle, "")
        timer_at = session.timer_at()
        if timer_at is not None and timer_at < handle.timer_at:
            handle.timer_at = timer_at
            heapq.heappush(self._timers, (timer_at, next(self._order), handle))

    def _emit(self, handle: Handle) -> bool:
        """Tell the owner; whether there was anything to tell."""
        told = False
        while (event := handle.session.next_event()) is not None:
            told = True
            try:
                self._on_event(handle, event)
            except Exception:
                log.exception("the server failed on %s of session %s", type(event).__name__, handle.id)
        return told

    def _send_one(self, handle: Handle) -> bool:
        """Hand one message to the network; False if there is none or it takes none."""
        now = self._clock()
        if handle.connection is None:
            handle.take_back("the edge is gone", now)
            return False
        outgoing = handle.unsent = handle.unsent or handle.session.poll_send(now)
        if outgoing is None:
            return False
        if outgoing.expires_at is not None and now >= outgoing.expires_at:
            handle.take_back("the network did not take it in time", now)
            return True
        sent = self._send(handle.connection, outgoing.data)
        if sent is Sent.YES:
            handle.unsent = None
            self.stats.sent_messages += 1
            self.stats.sent_bytes += len(outgoing.data)
            self.stats.bytes_by_channel["down", outgoing.channel] += len(outgoing.data)
            return True
        if sent is Sent.LATER:
            self._stalled.add(handle)
            return False
        self.lost(handle.connection, "the edge is gone")
        return False

    def _hang_up(self, handle: Handle, reason: str) -> None:
        """Forget the connection of a session."""
        if handle.connection is not None:
            self._connections.pop(handle.connection, None)
            handle.connection = None
        handle.take_back(reason, self._clock())

    def _remove(self, handle: Handle) -> None:
        self._hang_up(handle, "the session is over")
        if self._handles.pop(id(handle.session), None) is not None:
            with self.directory.guard:
                self.directory.forget(handle.session)
        handle.timer_at = NEVER

    # --- Opening ----------------------------------------------------------------------------------------------

    def _open(self, connection: Connection, data: bytes, peer: PeerInfo, now: float) -> None:
        """The first message of a connection."""
        try:
            message = messages.decode(data)
        except RemoteProtocolError as error:
            self.directory.refused += 1
            self._refuse(connection, Goodbye(reason_of(error), one_line(str(error))))
            return
        self._admit(connection, message, peer, now)

    def _admit(self, connection: Connection, message: messages.Message, peer: PeerInfo, now: float) -> None:
        directory = self.directory
        with directory.guard:
            session = directory.find(message, peer) if isinstance(message, Hello) else None
            home = self if session is None else directory.home(session)
            if session is not None and isinstance(home, ServerPump) and home is not self:
                self._fetch(home, session, lambda: self._admit(connection, message, peer, self._clock()))
                return
            try:
                outcome = directory.admit(peer, message, now, home=self)
            except Exception:
                log.exception("a session could not be opened")
                outcome = Refusal(Goodbye("error", _FAILED, retry_after_s=_FAILED_S))
        if isinstance(outcome, Refusal):
            self._refuse(connection, outcome.goodbye)
            return
        handle = self._handles.get(id(outcome))
        if handle is None:
            handle = Handle(self, outcome, peer, connection)
            self._handles[id(outcome)] = handle
        elif handle.connection is not None:
            self._connections.pop(handle.connection, None)
        handle.take_back("the edge connected again", now)
        handle.peer = peer
        handle.connection = connection
        self._connections[connection] = handle
        self.stats.connections += 1
        self._pump(handle)

    def _refuse(self, connection: Connection, goodbye: Goodbye) -> None:
        self._send(connection, messages.encode(goodbye))

    def _fetch(self, home: ServerPump, session: ServerSession, then: Callable[[], None]) -> None:
        """Have `home` give `session` up on its thread, take it over on this one, then go on."""

        def adopt(handle: Handle | None) -> None:
            if handle is not None:
                self._handles[id(session)] = handle
            then()

        home._post(lambda: home._release(session, self, adopt))

    def _release(self, session: ServerSession, target: ServerPump, adopt: Callable[[Handle | None], None]) -> None:
        handle = self._handles.pop(id(session), None)
        if handle is not None:
            reason = "the edge came back through another transport"
            self._hang_up(handle, reason)
            session.disconnected(reason, self._clock())
            self._emit(handle)
            handle.timer_at = NEVER
            with self.directory.guard:
                self.directory.move(session, target)
            handle._pump = target
        target._post(lambda: adopt(handle))

    # --- Closing ----------------------------------------------------------------------------------------------

    def stop_credit(self) -> None:
        """Draining begins: no new sessions, no more frames."""
        self.directory.draining = True
        for handle in list(self._handles.values()):
            handle.session.credit.window = 0

    @property
    def drained(self) -> bool:
        """Whether no session has a frame under way."""
        return not any(handle.session.account.in_flight for handle in self._handles.values())

    def say_goodbye(self, *, peer: str, retry_after_s: float) -> None:
        """Every connected edge gets a token with which it may come back."""
        for handle in list(self._handles.values()):
            if handle.session.state == OPEN:
                self._pump(
                    handle,
                    lambda session, now: session.goodbye(
                        "draining",
                        "this server is stopping",
                        now,
                        resumable=True,
                        peer=peer,
                        retry_after_s=retry_after_s,
                    ),
                )

    def end_sessions(self) -> None:
        """What is left ends here, counted."""
        for handle in list(self._handles.values()):
            handle.connection = None
            self._pump(handle, lambda session, now: session.goodbye("draining", "this server has stopped", now))
