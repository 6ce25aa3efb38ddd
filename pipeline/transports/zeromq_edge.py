"""The edge's end of ZeroMQ: a thread that keeps a DEALER connected.

Each attempt gets a fresh socket, so nothing that was meant for one connection can leave on the next; libzmq's own
reconnecting is off. The socket's monitor says when the handshake is done, refused, or the connection gone.

The thread waits in poll(2) on the sockets' signal descriptors, not in zmq_poll, which takes three system calls more per
message. Such a descriptor only says that something has changed, and any call on the socket may swallow that: so the
thread never waits before ZMQ_EVENTS said, after the last send, that there is nothing to read.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import select
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from pipeline import limits
from pipeline.clock import Clock
from pipeline.errors import TransportError
from pipeline.transports.base import (
    OnEdgeEvent,
    OnTraffic,
    is_loopback,
    split_host_port,
    split_url,
)
from pipeline.transports.edge_thread import EdgeThread
from pipeline.transports.keys import ClientKeys
from pipeline.transports.link_model import LinkModel
from pipeline.transports.waker import Waker
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.states import CLOSED

_LINGER_MS = 200
_BLOCKED_MS = 2
_NEVER_MS = 86_400_000
_ATTEMPT_S = 5.0
_HANDSHAKES_FAILED_MAX = 3
"""Hang-ups during the handshake, in a row, after which a wrong key is the likely reason."""

_monitor_numbers = itertools.count()

# As plain integers: pyzmq's enums cost more than the calls that they are for.
_EVENTS, _RCVMORE, _POLLIN = int(zmq.EVENTS), int(zmq.RCVMORE), int(zmq.POLLIN)

_UP = zmq.EVENT_HANDSHAKE_SUCCEEDED
_DOWN = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


class ZeroMQEdge(EdgeThread):
    """See EdgeTransport."""

    def __init__(
        self,
        url: str,
        session: EdgeSession,
        on_event: OnEdgeEvent,
        *,
        keys: ClientKeys | None,
        link: LinkModel | None,
        on_traffic: OnTraffic | None,
        clock: Clock,
    ) -> None:
        _check_url(url)
        self._waker = Waker()
        super().__init__(url, session, on_event, wake=self._waker.wake, link=link, on_traffic=on_traffic, clock=clock)
        self._keys = keys
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[Any] | None = None
        self._monitor: zmq.Socket[Any] | None = None
        self._poll = select.poll()
        self._up = False
        self._attempt_until = math.inf
        self._handshakes_failed = 0
        self._thread.start()

    # --- The thread -------------------------------------------------------------------------------------------

    def _live(self) -> None:
        self._poll.register(self._waker.fileno(), select.POLLIN)
        while not self._finished():
            self._step()

    def _release(self) -> None:
        self._hang_up()
        self._context.destroy(linger=_LINGER_MS)
        self._waker.close()

    def _interrupt(self) -> None:
        self._waker.wake()

    def _finished(self) -> bool:
        if self._abandoned:
            return True
        return self.session.state == CLOSED and (not self._up or (self._pump.idle and not self.session.uses_connection))

    def _step(self) -> None:
        now = self._clock()
        session = self.session
        if self._socket is None and session.wants_connection and now >= self._attempt_at():
            self._open(now)
            self._move_messages()  # It may have succeeded or failed already.
        for descriptor, _ in self._poll.poll(0 if session.state == CLOSED else self._timeout_ms(now)):
            if descriptor == self._waker.fileno():
                self._waker.clear()
            elif self._monitor is not None and descriptor == self._monitor.fileno():
                self._move_messages()  # What came before the end still counts.
                self._watch()
        if self._socket is not None and not self._up and now >= self._attempt_until:
            self._lost(f"{self.url} did not answer within {_ATTEMPT_S:.0f} s")
        self._move_messages()
        if self._up and not session.uses_connection and self._pump.idle:
            self._hang_up()
            self._backoff.failed(self._clock())
        self._forget_failures()

    def _attempt_at(self) -> float:
        return max(self._backoff.retry_at, self.session.reconnect_at)

    def _timeout_ms(self, now: float) -> int | None:
        at = self._pump.next_at()
        at = math.inf if at is None else at
        if self._socket is None:
            if self.session.wants_connection:
                at = min(at, self._attempt_at())
        elif not self._up:
            at = min(at, self._attempt_until)
        elif self._pump.blocked:
            return _BLOCKED_MS
        if at == math.inf:
            return None
        return max(0, math.ceil((at - now) * 1000))

    def _move_messages(self) -> None:
        """In and out until there is nothing to read and nothing to send."""
        self._receive()
        self._pump.run_inbox()
        self._pump.pump(self._send)
        while self._receive():
            self._pump.pump(self._send)

    def _receive(self) -> bool:
        """Take one message; False if there is none."""
        socket = self._socket
        if socket is None or not int(socket.getsockopt(_EVENTS)) & _POLLIN:
            return False
        data = socket.recv(zmq.NOBLOCK)
        while socket.getsockopt(_RCVMORE):
            socket.recv(zmq.NOBLOCK)
            data = b"\xc1"  # No message of this protocol has parts; this byte is never valid msgpack.
        self._pump.received(data)
        return True

    def _send(self, data: bytes) -> bool:
        if self._socket is None or not self._up:
            return False
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    # --- The connection ---------------------------------------------------------------------------------------

    def _open(self, now: float) -> None:
        url = self.session.peer or self.url
        socket = self._context.socket(zmq.DEALER)
        _set_options(socket, self._keys)
        address = f"inproc://edge-monitor-{next(_monitor_numbers)}"
        socket.monitor(address, _UP | _DOWN | _REFUSED)
        monitor = self._context.socket(zmq.PAIR)
        monitor.linger = 0
        monitor.connect(address)
        self._socket, self._monitor = socket, monitor
        for polled in (socket, monitor):
            self._poll.register(polled.fileno(), select.POLLIN)
        self._attempt_until = now + _ATTEMPT_S
        try:
            _check_url(url)
            socket.connect(_zmq_url(url))
        except (TransportError, zmq.ZMQError) as error:
            self._lost(f"{url} cannot be reached: {error}")
        self._watch()  # A descriptor signals nothing before the first look.

    def _watch(self) -> None:
        """What the monitor says about the connection."""
        while self._monitor is not None:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            kind, value = int(event["event"]), int(event["value"])
            if kind == _UP:
                self._up = True
                self._handshakes_failed = 0
                self._attempt_until = math.inf
                self._pump.connected()
            elif kind & _REFUSED:
                self._handshake_failed(kind, value)
            elif kind & _DOWN:
                what = "is gone" if self._up else "does not answer"
                self._lost(f"{self.session.peer or self.url} {what}")

    def _handshake_failed(self, kind: int, value: int) -> None:
        mismatch = kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
        self._handshakes_failed += 1
        detail = ""
        if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            detail = "the server does not know this client's key: put the client's .key file into its clients folder"
        elif self._keys is None and (mismatch or self._handshakes_failed >= _HANDSHAKES_FAILED_MAX):
            detail = "the server asks for keys and this edge has none: make them with `frankenstream keys`"
        elif mismatch:
            detail = "this edge has keys and the server has none: start the server with keys, or the edge without"
        elif self._keys is not None and self._handshakes_failed >= _HANDSHAKES_FAILED_MAX:
            detail = (
                "the handshake fails: the key file given for the server is not this server's (copy its server.key), "
                "or this edge has keys and the server has none"
            )
        if detail:
            self._hang_up()
            self.session.refused("unauthorised", f"{self.url}: {detail}", self._clock())
        else:
            self._lost(f"{self.url} hung up during the handshake")

    def _hang_up(self) -> None:
        if self._socket is None or self._monitor is None:
            return
        for socket in (self._socket, self._monitor):
            self._poll.unregister(socket.fileno())
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disable_monitor()
        self._socket.close(_LINGER_MS)
        self._monitor.close(0)
        self._socket = self._monitor = None
        self._up = False
        self._attempt_until = math.inf


def _set_options(socket: zmq.Socket[Any], keys: ClientKeys | None) -> None:
    socket.linger = _LINGER_MS
    socket.sndhwm = socket.rcvhwm = limits.TRANSPORT_QUEUE_MESSAGES
    socket.maxmsgsize = limits.MESSAGE_BYTES_MAX
    # Never, in effect: -1 would make libzmq throw away what arrived before the connection ended (a Goodbye, results).
    socket.reconnect_ivl = _NEVER_MS
    socket.handshake_ivl = int(_ATTEMPT_S * 1000)
    socket.heartbeat_ivl = 2_000
    socket.heartbeat_timeout = 6_000
    socket.ipv6 = True
    if keys is not None:
        socket.curve_serverkey = keys.server_public
        socket.curve_publickey = keys.public
        socket.curve_secretkey = keys.secret


def _check_url(url: str) -> None:
    if split_url(url)[0] == "ipc":
        return
    host, port = split_host_port(url)
    if port == 0 or host == "*":
        raise TransportError(f"{url!r} names no server, expected a host and a port above 0")


def _zmq_url(url: str) -> str:
    scheme, _ = split_url(url)
    if scheme == "ipc":
        return url
    host, port = split_host_port(url)
    if host == "localhost" and is_loopback(host):
        host = "127.0.0.1"
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
