"""The server's end of ZeroMQ: a thread around a ROUTER.

ROUTER_MANDATORY makes sending to an edge that is gone an error, so a lost edge is noticed with the next message to
it (a Ping a second at the latest). With keys, a ZAP handler (ZeroMQ RFC 27) on the same thread admits the known ones
and names the client's key on every message.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import select
import socket as sockets
import threading
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils import z85

from pipeline import limits
from pipeline.clock import Clock
from pipeline.errors import TransportError
from pipeline.transports.base import OnServerEvent, SessionHandle, Traffic, is_loopback, split_host_port, split_url
from pipeline.transports.keys import ServerKeys
from pipeline.transports.server_pump import Connection, Sent, ServerPump
from pipeline.transports.waker import Waker
from pipeline.wire.directory import PeerInfo, SessionDirectory

log = logging.getLogger("frankenstream.transports")

# As plain integers: pyzmq's enums cost more than the calls that they are for.
_EVENTS, _RCVMORE, _POLLIN = int(zmq.EVENTS), int(zmq.RCVMORE), int(zmq.POLLIN)

_LINGER_MS = 200
_STALLED_MS = 5
_NO_MESSAGE = b"\xc1"
"""A byte that is never valid msgpack: stands for messages in several parts, which this protocol has not."""


class ZeroMQServer:
    """See ServerTransport."""

    def __init__(
        self,
        url: str,
        directory: SessionDirectory,
        on_event: OnServerEvent,
        *,
        keys: ServerKeys | None,
        clock: Clock,
    ) -> None:
        self._scheme = check_address(url, keys)
        self._keys = keys
        self._clock = clock
        self._context: zmq.Context[Any] = zmq.Context()
        self._zap = self._listen_zap(keys)
        self._router = self._bind(url)
        self.url = url if self._scheme == "ipc" else _endpoint(self._router)
        self._waker = Waker()
        self._pump = ServerPump(directory, on_event, clock, send=self._send, wake=self._waker.wake)
        self._closing: Callable[[float], bool] | None = None
        self._thread = threading.Thread(target=self._run, name=f"server {self.url}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """See ServerTransport."""
        return self._thread.is_alive()

    @property
    def stats(self) -> Traffic:
        """What passed so far."""
        return self._pump.stats

    def handles(self) -> list[SessionHandle]:
        """See ServerTransport."""
        return self._pump.handles()

    def close(self, timeout: float = 5.0, *, drain_s: float = 0.0, peer: str = "", retry_after_s: float = 0.0) -> None:
        """See ServerTransport."""
        until = self._clock() + drain_s

        def finished(now: float) -> bool:
            self._pump.stop_credit()
            if now < until and not self._pump.drained:
                return False
            self._pump.say_goodbye(peer=peer, retry_after_s=retry_after_s)
            return True

        self._closing = finished
        self._waker.wake()
        if threading.get_ident() != self._pump.thread:
            self._thread.join(timeout + drain_s)

    # --- The thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._pump.thread = threading.get_ident()
        poll = select.poll()
        for polled in (self._router, self._waker, self._zap):
            if polled is not None:
                poll.register(polled.fileno(), select.POLLIN)
        try:
            self._look()  # A descriptor signals nothing before the first look.
            while self._closing is None or not self._closing(self._clock()):
                self._step(poll)
        except Exception:
            log.exception("the server's transport failed")
        finally:
            self._pump.run()
            self._pump.end_sessions()
            self._router.close(_LINGER_MS)
            self._context.destroy(linger=_LINGER_MS)
            self._waker.close()

    def _step(self, poll: select.poll) -> None:
        for descriptor, _ in poll.poll(self._timeout_ms()):
            if descriptor == self._waker.fileno():
                self._waker.clear()
        self._look()

    def _look(self) -> None:
        if self._zap is not None:
            self._answer_zap(self._zap)
        # See zeromq_edge: never wait before there is nothing to read after the last send.
        more = True
        while more:
            received = 0
            while received < limits.TRANSPORT_QUEUE_MESSAGES and self._receive():
                received += 1
            sent = self._pump.stats.sent_messages
            self._pump.run()
            more = received == limits.TRANSPORT_QUEUE_MESSAGES or sent != self._pump.stats.sent_messages

    def _timeout_ms(self) -> int | None:
        if self._closing is not None or self._pump.stalled:
            return _STALLED_MS
        at = self._pump.next_at()
        return None if at is None else max(0, math.ceil((at - self._clock()) * 1000))

    def _receive(self) -> bool:
        """Take one message; False if there is none."""
        router = self._router
        if not int(router.getsockopt(_EVENTS)) & _POLLIN:
            return False
        connection = router.recv(zmq.NOBLOCK)
        if self._pump.knows(connection):
            data, peer = router.recv(zmq.NOBLOCK), _nobody
        else:
            frame = router.recv(zmq.NOBLOCK, copy=False)
            data, peer = frame.bytes, self._introduce(frame)
        while router.getsockopt(_RCVMORE):
            router.recv(zmq.NOBLOCK)
            data = _NO_MESSAGE
        self._pump.received(connection, data, peer)
        return True

    def _introduce(self, frame: zmq.Frame) -> Callable[[], PeerInfo]:
        def peer() -> PeerInfo:
            address = _property(frame, "Peer-Address")
            key = _property(frame, "User-Id").encode() if self._keys is not None else b""
            return PeerInfo(self._scheme, address, key)

        return peer

    def _send(self, connection: Connection, data: bytes) -> Sent:
        assert isinstance(connection, bytes)
        try:
            self._router.send(connection, zmq.SNDMORE | zmq.NOBLOCK)
            self._router.send(data, zmq.NOBLOCK)
        except zmq.Again:
            return Sent.LATER
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                log.warning("sending failed: %s", error)
            return Sent.GONE
        return Sent.YES

    # --- Opening ----------------------------------------------------------------------------------------------

    def _bind(self, url: str) -> zmq.Socket[Any]:
        router: zmq.Socket[Any] = self._context.socket(zmq.ROUTER)
        router.linger = _LINGER_MS
        router.router_mandatory = 1
        router.sndhwm = router.rcvhwm = limits.TRANSPORT_QUEUE_MESSAGES
        router.maxmsgsize = limits.MESSAGE_BYTES_MAX
        router.handshake_ivl = limits.HELLO_TIMEOUT_MS
        router.heartbeat_ivl = 2_000
        router.heartbeat_timeout = 6_000
        router.backlog = limits.SESSIONS_MAX
        if self._keys is not None:
            router.zap_domain = b"frankenstream"
            router.curve_server = 1
            router.curve_publickey = self._keys.public
            router.curve_secretkey = self._keys.secret
        try:
            router.ipv6 = ":" in url.removeprefix("tcp://").rpartition(":")[0]
            router.bind(_bind_url(url))
        except zmq.ZMQError as error:
            router.close(0)
            self._context.destroy(linger=0)
            raise TransportError(_bind_error(url, error)) from None
        return router

    def _listen_zap(self, keys: ServerKeys | None) -> zmq.Socket[Any] | None:
        if keys is None:
            return None
        zap: zmq.Socket[Any] = self._context.socket(zmq.REP)
        zap.linger = 0
        zap.bind("inproc://zeromq.zap.01")
        return zap

    def _answer_zap(self, zap: zmq.Socket[Any]) -> None:
        while int(zap.getsockopt(_EVENTS)) & _POLLIN:
            self._answer_request(zap)

    def _answer_request(self, zap: zmq.Socket[Any]) -> None:
        """ZAP: version, request id, domain, address, routing id, mechanism, credentials."""
        assert self._keys is not None
        parts = zap.recv_multipart()
        version, request = parts[0], parts[1]
        key = z85.encode(parts[6]) if len(parts) > 6 and parts[5] == b"CURVE" and len(parts[6]) == 32 else b""
        if key in self._keys.clients:
            zap.send_multipart([version, request, b"200", b"OK", key, b""])
            return
        log.warning("refused the client key %s from %s", key.decode(), parts[3].decode("ascii", "replace"))
        zap.send_multipart([version, request, b"400", b"unknown client key", b"", b""])


def _endpoint(socket: zmq.Socket[Any]) -> str:
    """Where the socket is bound, with the real port."""
    endpoint = socket.get(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.rstrip(b"\0").decode()


def _nobody() -> PeerInfo:
    raise AssertionError("a known connection is not asked who it is")


def _property(frame: zmq.Frame, name: str) -> str:
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""


def check_address(url: str, keys: ServerKeys | None) -> str:
    """The scheme. Raises TransportError."""
    scheme, rest = split_url(url)
    if scheme == "ipc":
        if _answers(rest):
            raise TransportError(f"{url} is in use by another server: stop that one or choose another path")
        return scheme
    host, _ = split_host_port(url)
    if keys is None and not is_loopback(host):
        raise TransportError(
            f"{url} can be reached from other machines, which takes keys: make them with `frankenstream keys`, "
            "or listen on 127.0.0.1"
        )
    return scheme


def try_address(url: str) -> None:
    """Bind to `url` for a moment. Raises TransportError as `listen` would."""
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    try:
        socket.ipv6 = ":" in url.removeprefix("tcp://").rpartition(":")[0]
        socket.bind(_bind_url(url))
    except zmq.ZMQError as error:
        raise TransportError(_bind_error(url, error)) from None
    finally:
        context.destroy(linger=0)


def _answers(path: str) -> bool:
    """Whether somebody listens on the Unix socket; libzmq would silently take it away from them."""
    if not os.path.exists(path):
        return False
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0


def _bind_url(url: str) -> str:
    scheme, _ = split_url(url)
    if scheme == "ipc":
        return url
    host, port = split_host_port(url)
    host = "127.0.0.1" if host == "localhost" else host
    port_text = str(port) if port else "*"
    return f"tcp://[{host}]:{port_text}" if ":" in host else f"tcp://{host}:{port_text}"


def _bind_error(url: str, error: zmq.ZMQError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{url} is in use by another program: stop that one or choose another port"
    if error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL):
        return f"{url} is no address of this machine: listen on one of its own, or on 127.0.0.1"
    if error.errno == errno.EACCES:
        return f"{url} may not be opened by this user: choose a port above 1023"
    return f"{url} cannot be listened on: {error.strerror}"
