"""memory://: both ends in one process, for tests with a virtual clock and for trying things without a network.

A `MemoryNetwork` is a world of its own: servers by name, edges, and time. With a VirtualClock it is driven step by step
(`run_for`, `run_until`) and everything that happens is a function of the seeds. `memory://NAME` URLs use one network
per process, with the real clock and a thread. The link between an edge and its server is a LinkModel (both ways,
applied in the edge's pump); `cut` takes it down, and what is under way on it is gone.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from random import Random

from pipeline import clock as clocks
from pipeline.clock import Clock, VirtualClock
from pipeline.errors import TransportError
from pipeline.transports.backoff import Backoff
from pipeline.transports.base import EdgeCall, OnEdgeEvent, OnServerEvent, OnTraffic, SessionHandle, Traffic, split_url
from pipeline.transports.edge_pump import EdgePump
from pipeline.transports.keys import ClientKeys, ServerKeys
from pipeline.transports.link_model import LinkModel, SharedLink
from pipeline.transports.server_pump import Connection, Sent, ServerPump
from pipeline.wire.directory import PeerInfo, SessionDirectory
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.states import CLOSED, OPEN

log = logging.getLogger("frankenstream.transports")

_STEPS_MAX = 10_000_000
"""Steps of one `run_until`: more is a loop that makes no progress."""


class MemoryNetwork:
    """Servers by name and edges, on one clock. A VirtualClock is advanced by `run_for` and `run_until`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock if clock is not None else VirtualClock()
        self.servers: dict[str, MemoryServer] = {}
        self.edges: list[MemoryEdge] = []
        self._jobs: deque[Callable[[], None]] = deque()
        self._plans: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._dirty = False

    def listen(self, name: str, directory: SessionDirectory, on_event: OnServerEvent) -> MemoryServer:
        """A server by that name. Raises TransportError if there is one."""
        if name in self.servers:
            raise TransportError(f"memory://{name} is in use by another server: choose another name")
        server = MemoryServer(self, name, directory, on_event)
        self.servers[name] = server
        return server

    def connect(
        self,
        name: str,
        session: EdgeSession,
        on_event: OnEdgeEvent,
        *,
        link: LinkModel | SharedLink | None = None,
        on_traffic: OnTraffic | None = None,
        key: bytes = b"",
        skew_s: float = 0.0,
        part_bytes: int = 0,
    ) -> MemoryEdge:
        """An edge of that server. `key`: what it authenticates with; `skew_s`: its clock minus the network's;
        `part_bytes`: frames go in datagrams of at most so many bytes, each lost on its own (0: whole).
        """
        if part_bytes:
            session.part_bytes = part_bytes
        edge = MemoryEdge(self, name, session, on_event, link, on_traffic, key, skew_s)
        self.edges.append(edge)
        self._wake()
        return edge

    # --- Time -------------------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Plan `action` for a time (clock seconds)."""
        self._plans.append((when, self._number(), action))
        self._plans.sort(key=lambda plan: plan[:2])
        self._wake()

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass."""
        until = self.clock() + seconds
        self.run_until(lambda: False, until=until)

    def run_until(self, done: Callable[[], bool], *, until: float = math.inf) -> bool:
        """Let virtual time pass until `done()` or the time `until`; says whether it is done.

        Ends early if nothing will ever happen any more.
        """
        assert isinstance(self.clock, VirtualClock)
        for _ in range(_STEPS_MAX):
            self._run_due()
            if done():
                return True
            at = self._next_at()
            if at >= until or at == math.inf:
                if until < math.inf:
                    self.clock.advance(max(0.0, until - self.clock()))
                return False
            self.clock.advance(max(0.0, at - self.clock()))
        raise AssertionError("the memory network does not come to rest")

    def _run_due(self) -> None:
        """Everything that is due now, until nothing is."""
        while True:
            self._tick()
            if not self._jobs:
                return
            while self._jobs:
                self._jobs.popleft()()

    def _tick(self) -> None:
        now = self.clock()
        while self._plans and self._plans[0][0] <= now:
            self._plans.pop(0)[2]()
        for server in list(self.servers.values()):
            server.pump.run()
        for edge in list(self.edges):
            edge.run()

    def _next_at(self) -> float:
        times = [plan[0] for plan in self._plans[:1]]
        times += [at for server in self.servers.values() if (at := server.pump.next_at()) is not None]
        times += [edge.next_at() for edge in self.edges]
        return min(times, default=math.inf)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # --- With a thread ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run on the real clock, in a thread of its own."""
        self._thread = threading.Thread(target=self._loop, name="memory network", daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        """Whether time goes on: its thread lives, or the time is virtual."""
        return self._thread is None or self._thread.is_alive()

    def _loop(self) -> None:
        while True:
            with self._changed:
                wait_s = self._next_at() - self.clock()
                if not self._dirty and wait_s > 0:
                    self._changed.wait(None if wait_s == math.inf else wait_s)
                self._dirty = False
            identity = threading.get_ident()
            for pump in [server.pump for server in list(self.servers.values())] + [edge.pump for edge in self.edges]:
                pump.thread = identity
            self._run_due()

    def _wake(self) -> None:
        if self._thread is not None:
            with self._changed:
                self._dirty = True
                self._changed.notify()


class MemoryServer:
    """See ServerTransport."""

    def __init__(self, network: MemoryNetwork, name: str, directory: SessionDirectory, on_event: OnServerEvent) -> None:
        self.url = f"memory://{name}"
        self._network = network
        self._name = name
        self._edges: dict[Connection, MemoryEdge] = {}
        self.pump = ServerPump(directory, on_event, network.clock, send=self._send, wake=network._wake)

    @property
    def alive(self) -> bool:
        """See ServerTransport."""
        return self._network.servers.get(self._name) is self and self._network.runs

    @property
    def stats(self) -> Traffic:
        """What passed so far."""
        return self.pump.stats

    def handles(self) -> list[SessionHandle]:
        """See ServerTransport."""
        return self.pump.handles()

    def close(self, timeout: float = 5.0, *, drain_s: float = 0.0, peer: str = "", retry_after_s: float = 0.0) -> None:
        """See ServerTransport. In virtual time it does not wait: drain by running the network first."""
        closed = threading.Event()
        until = self._network.clock() + drain_s

        def finish() -> None:
            self.pump.stop_credit()
            now = self._network.clock()
            if now < until and not self.pump.drained:
                self._network.at(now + 0.005, finish)
                return
            self.pump.say_goodbye(peer=peer, retry_after_s=retry_after_s)
            self.pump.end_sessions()
            self._network._jobs.append(self.kill)
            self._network._jobs.append(closed.set)

        self._network.at(self._network.clock(), finish)
        if self._network._thread is None:
            self._network._run_due()
        elif threading.current_thread() is not self._network._thread:
            closed.wait(timeout + drain_s)

    def kill(self) -> None:
        """Gone without a word, like a process that was killed."""
        self._network.servers.pop(self._name, None)
        for edge in list(self._edges.values()):
            edge._down(f"{self.url} is gone")
        self._edges.clear()

    def _send(self, connection: Connection, data: bytes) -> Sent:
        edge = self._edges.get(connection)
        if edge is None:
            return Sent.GONE
        self._network._jobs.append(lambda: edge._arrived(connection, data))
        return Sent.YES


class MemoryEdge:
    """See EdgeTransport. In virtual time, `call` runs at once."""

    def __init__(
        self,
        network: MemoryNetwork,
        name: str,
        session: EdgeSession,
        on_event: OnEdgeEvent,
        link: LinkModel | SharedLink | None,
        on_traffic: OnTraffic | None,
        key: bytes,
        skew_s: float,
    ) -> None:
        self.url = f"memory://{name}"
        self.session = session
        self._network = network
        self._name = name
        self._key = key
        self._skew_s = skew_s
        self._connection: int | None = None
        self._server: MemoryServer | None = None
        self._backoff = Backoff(Random(link.seed if link is not None else 0))
        self._clock: Clock = lambda: network.clock() + skew_s
        self.pump = EdgePump(session, on_event, self._clock, wake=network._wake, link=link, on_traffic=on_traffic)

    @property
    def traffic(self) -> Traffic:
        """What passed so far."""
        return self.pump.traffic

    @property
    def closed(self) -> bool:
        """See EdgeTransport."""
        return self not in self._network.edges

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    def call(self, fn: EdgeCall) -> None:
        """See EdgeTransport."""
        if self._network._thread is None and not self.closed:
            fn(self.session, self._clock())
        else:
            self.pump.call(fn)

    def close(self, timeout: float = 2.0, *, drain_s: float = 0.0) -> None:
        """See EdgeTransport. In virtual time it does not wait: run the network on."""
        gone = threading.Event()
        self.call(lambda session, now: session.stop(now, drain_s=drain_s))
        thread = self._network._thread
        if thread is None or threading.current_thread() is thread:
            return
        for _ in range(math.ceil((timeout + drain_s) * 200)):
            if self.closed or gone.wait(0.005):
                return

    def cut(self, seconds: float = 0.0, *, server_notices: bool = True) -> None:
        """Take the link down for `seconds`; what is under way is gone. The server may notice late, by a lost send."""
        server, connection = self._server, self._connection
        self._down("the link was cut")
        self._backoff.retry_at = max(self._backoff.retry_at, self._network.clock() + seconds)
        if server is not None and connection is not None and server_notices:
            server.pump.lost(connection, "the link was cut")

    # --- On the network's thread ------------------------------------------------------------------------------

    def run(self) -> None:
        """What is due now."""
        now = self._network.clock()
        session = self.session
        if self._connection is None and session.wants_connection and now >= self._next_attempt_at():
            self._up_or_retry(now)
        self.pump.run_inbox()
        self.pump.pump(self._send)
        if session.state == OPEN:
            self._backoff.forget()
        if self._connection is not None and not session.uses_connection and self.pump.idle:
            self._hang_up()
            self._backoff.failed(now)
        if session.state == CLOSED and self._connection is None and self in self._network.edges:
            self._network.edges.remove(self)
            self.pump.end()

    def next_at(self) -> float:
        """When `run` has something to do (network clock)."""
        at = self.pump.next_at()
        at = math.inf if at is None else at - self._skew_s
        if self._connection is None and self.session.wants_connection:
            at = min(at, self._next_attempt_at())
        return at

    def _next_attempt_at(self) -> float:
        return max(self._backoff.retry_at, self.session.reconnect_at - self._skew_s)

    def _up_or_retry(self, now: float) -> None:
        name = self._name
        if self.session.peer.startswith("memory://"):
            name = self.session.peer.removeprefix("memory://")
        server = self._network.servers.get(name)
        if server is None:
            self.session.peer = ""
            self._backoff.failed(now)
            self.pump.disconnected(f"nobody listens at memory://{name}")
            return
        self._server = server
        self._connection = self._network._number()
        server._edges[self._connection] = self
        self.pump.connected()

    def _send(self, data: bytes) -> bool:
        server, connection = self._server, self._connection
        if server is None or connection is None:
            return False

        def deliver() -> None:
            if connection in server._edges:
                server.pump.received(connection, data, lambda: PeerInfo("memory", self._name, self._key))

        self._network._jobs.append(deliver)
        return True

    def _arrived(self, connection: Connection, data: bytes) -> None:
        if connection == self._connection:
            self.pump.received(data)

    def _down(self, reason: str) -> None:
        if self._connection is None:
            return
        self._hang_up()
        self._backoff.failed(self._network.clock())
        self.pump.disconnected(reason)

    def _hang_up(self) -> None:
        if self._server is not None and self._connection is not None:
            self._server._edges.pop(self._connection, None)
        self._server = self._connection = None


# --- memory:// URLs ------------------------------------------------------------------------------------------

_process_network: MemoryNetwork | None = None
_process_guard = threading.Lock()


def _network() -> MemoryNetwork:
    global _process_network
    with _process_guard:
        if _process_network is None:
            _process_network = MemoryNetwork(clocks.monotonic)
            _process_network.start()
        return _process_network


def connect(
    url: str,
    session: EdgeSession,
    on_event: OnEdgeEvent,
    *,
    keys: ClientKeys | None = None,
    link: LinkModel | None = None,
    on_traffic: OnTraffic | None = None,
    clock: Clock = clocks.monotonic,
) -> MemoryEdge:
    """See transports.base. `keys` only name the client; nothing is encrypted within a process."""
    key = b"" if keys is None else keys.public
    return _network().connect(split_url(url)[1], session, on_event, link=link, on_traffic=on_traffic, key=key)


def listen(
    url: str,
    directory: SessionDirectory,
    on_event: OnServerEvent,
    *,
    keys: ServerKeys | None = None,
    clock: Clock = clocks.monotonic,
) -> MemoryServer:
    """See transports.base."""
    network = _network()
    server = network.listen(split_url(url)[1], directory, on_event)
    network._wake()
    return server


__all__ = ["MemoryEdge", "MemoryNetwork", "MemoryServer", "connect", "listen"]
