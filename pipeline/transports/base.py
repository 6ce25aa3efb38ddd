"""Transports: pumps that move messages between a Session and the world, found by the scheme of a URL.

    connect(url, session, on_event)      an edge: one thread, reconnects with backoff and resumes
    listen(url, directory, on_event)     a server: one thread for all its sessions

A session belongs to its transport's thread. Others reach it with `call(fn)`: `fn(session, now)` runs on that thread,
then what it caused is sent. `on_event` is called on that thread too; it must not block.

Schemes: `memory://NAME`, `tcp://HOST:PORT`, `ipc://PATH`, `ws(s)://HOST:PORT`, `webrtc+http(s)://HOST:PORT`; others
through the entry points `frankenstream.transports` (name = scheme, value = module with `connect` and `listen` of these
signatures; `access` is passed only to modules that say TAKES_ACCESS).
"""

from __future__ import annotations

import importlib
import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any, Final, Protocol

from pipeline import clock as clocks
from pipeline.clock import Clock
from pipeline.errors import TransportError
from pipeline.transports.access import ClientAccess, ServerAccess
from pipeline.transports.keys import ClientKeys, ServerKeys
from pipeline.transports.link_model import LinkModel
from pipeline.wire.directory import PeerInfo, SessionDirectory
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.events import EdgeEvent, ServerEvent
from pipeline.wire.server_session import ServerSession

ENTRY_POINTS: Final = "frankenstream.transports"

BUILT_IN: Final[dict[str, str]] = {
    "tcp": "pipeline.transports.zeromq",
    "ipc": "pipeline.transports.zeromq",
    "memory": "pipeline.transports.memory",
    "ws": "pipeline.transports.websocket",
    "wss": "pipeline.transports.websocket",
    "webrtc+http": "pipeline.transports.webrtc",
    "webrtc+https": "pipeline.transports.webrtc",
}

EdgeCall = Callable[[EdgeSession, float], object]
ServerCall = Callable[[ServerSession, float], object]
OnEdgeEvent = Callable[[EdgeEvent], None]
OnTraffic = Callable[[str, str, bytes, float], None]
"""(direction "up" or "down", channel, message bytes, now): every message of an edge, for recordings."""


class SessionHandle(Protocol):
    """One session on the server, for other threads."""

    @property
    def id(self) -> str:
        """Session id."""
        ...

    @property
    def peer(self) -> PeerInfo:
        """Who is connected now, or was last."""
        ...

    @property
    def session(self) -> ServerSession:
        """The session itself: read its counts from anywhere, call its methods only on its thread."""
        ...

    def call(self, fn: ServerCall) -> None:
        """Run `fn(session, now)` on the transport's thread, then send what it caused. Thread-safe."""
        ...


OnServerEvent = Callable[[SessionHandle, ServerEvent], None]


@dataclass(slots=True)
class Traffic:
    """What passed, in messages and bytes (of encoded messages), and how often a connection was made."""

    sent_messages: int = 0
    sent_bytes: int = 0
    received_messages: int = 0
    received_bytes: int = 0
    connections: int = 0
    bytes_by_channel: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(direction "up" or "down", channel) → bytes. Servers only: an edge hears of each message with `on_traffic`."""


class EdgeTransport(Protocol):
    """An edge's connection to a server, kept up until closed."""

    url: str
    session: EdgeSession
    traffic: Traffic

    @property
    def closed(self) -> bool:
        """Whether the session is closed and the thread has ended."""
        ...

    def call(self, fn: EdgeCall) -> None:
        """Run `fn(session, now)` on the transport's thread, then send what it caused. Thread-safe."""
        ...

    def close(self, timeout: float = 2.0, *, drain_s: float = 0.0) -> None:
        """Stop the session (answers under way may come for `drain_s`), join the thread within `timeout` seconds."""
        ...


class ServerTransport(Protocol):
    """A server's door for one URL."""

    url: str
    """With the real port."""

    @property
    def alive(self) -> bool:
        """Whether it still takes messages: neither closed nor failed."""
        ...

    @property
    def stats(self) -> Traffic:
        """What passed so far."""
        ...

    def handles(self) -> list[SessionHandle]:
        """The sessions that live here."""
        ...

    def close(self, timeout: float = 5.0, *, drain_s: float = 0.0, peer: str = "", retry_after_s: float = 0.0) -> None:
        """Give no more credit, wait up to `drain_s` for answers under way, say Goodbye with a token, end the thread."""
        ...


def connect(
    url: str,
    session: EdgeSession,
    on_event: OnEdgeEvent,
    *,
    keys: ClientKeys | None = None,
    link: LinkModel | None = None,
    on_traffic: OnTraffic | None = None,
    clock: Clock = clocks.monotonic,
    access: ClientAccess | None = None,
) -> EdgeTransport:
    """Connect `session` to the server at `url` and keep it connected. Raises TransportError for a bad URL.

    `keys`: of ZeroMQ; `access`: token and trust of WebSocket and WebRTC.

    `link` puts a modelled link in between, both ways. A server that is not there is no error: the session waits.
    """
    module = _module(url)
    transport: EdgeTransport = module.connect(
        url, session, on_event, keys=keys, link=link, on_traffic=on_traffic, clock=clock, **_access(module, access)
    )
    return transport


def listen(
    url: str,
    directory: SessionDirectory,
    on_event: OnServerEvent,
    *,
    keys: ServerKeys | None = None,
    clock: Clock = clocks.monotonic,
    access: ServerAccess | None = None,
) -> ServerTransport:
    """Serve at `url`. Several may share one `directory` (made with a lock as its guard).

    Raises TransportError: address in use, no such interface, beyond loopback without keys.
    """
    module = _module(url)
    transport: ServerTransport = module.listen(
        url, directory, on_event, keys=keys, clock=clock, **_access(module, access)
    )
    return transport


def check_listen(url: str, keys: ServerKeys | None = None, access: ServerAccess | None = None) -> None:
    """What can be said of `listen(url)` beforehand, so that nothing slow is built in vain. Raises TransportError."""
    module = _module(url)
    check = getattr(module, "check_listen", None)  # optional for further transports
    if check is not None:
        check(url, keys, **_access(module, access))


def split_url(url: str) -> tuple[str, str]:
    """(scheme, rest). Raises TransportError."""
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme or not rest:
        raise TransportError(f"{url!r} is no transport URL, expected for example tcp://127.0.0.1:5555")
    return scheme, rest


def split_host_port(url: str) -> tuple[str, int]:
    """Host (without brackets) and port of a tcp:// URL; `*` as port is 0. Raises TransportError."""
    _, rest = split_url(url)
    host, separator, port_text = rest.rpartition(":")
    port_text = "0" if port_text == "*" else port_text
    if not separator or not host or not port_text.isdecimal() or int(port_text) > 65_535:
        raise TransportError(f"{url!r} has no host and port from 0 to 65535, expected for example tcp://127.0.0.1:5555")
    return host.removeprefix("[").removesuffix("]"), int(port_text)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def schemes() -> tuple[str, ...]:
    """All schemes that can be used here."""
    others = {point.name for point in metadata.entry_points(group=ENTRY_POINTS)} - set(BUILT_IN)
    return (*BUILT_IN, *sorted(others))


def _access(module: ModuleType, access: object) -> dict[str, Any]:
    return {"access": access} if getattr(module, "TAKES_ACCESS", False) else {}


def _module(url: str) -> ModuleType:
    scheme, _ = split_url(url)
    if scheme in BUILT_IN:
        try:
            return importlib.import_module(BUILT_IN[scheme])
        except ModuleNotFoundError as error:
            extra = "webrtc" if scheme.startswith("webrtc") else "server"
            raise TransportError(f"{url} needs {error.name}: pip install 'frankenstream[{extra}]'") from None
    for point in metadata.entry_points(group=ENTRY_POINTS, name=scheme):
        module: ModuleType = point.load()
        return module
    raise TransportError(f"{url!r} has scheme {scheme!r}, expected one of {', '.join(schemes())}")
