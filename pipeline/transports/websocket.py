"""WebSocket: ws:// and wss://, on the HTTP port that a server has anyway.

The same messages as everywhere, over TCP: slower under loss than WebRTC, but it passes every firewall and proxy, and
browsers speak it. `listen` opens an HTTP port of its own; `frankenstream serve` has both on its `--http` port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import clock as clocks
from pipeline.clock import Clock
from pipeline.transports.access import ClientAccess, ServerAccess
from pipeline.transports.asyncio_edge import AsyncioEdge
from pipeline.transports.base import OnEdgeEvent, OnServerEvent, OnTraffic
from pipeline.transports.http_address import HttpAddress
from pipeline.transports.keys import ClientKeys, ServerKeys
from pipeline.transports.link_model import LinkModel
from pipeline.transports.websocket_edge import WebSocketRoute
from pipeline.wire.directory import SessionDirectory
from pipeline.wire.edge_session import EdgeSession

if TYPE_CHECKING:
    from pipeline.transports.http_listener import HttpListener

TAKES_ACCESS = True


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
) -> AsyncioEdge:
    """See transports.base. `keys` are ZeroMQ's and mean nothing here."""
    HttpAddress.parse(url)
    routes = [WebSocketRoute(access or ClientAccess())]
    return AsyncioEdge(url, session, on_event, routes, link=link, on_traffic=on_traffic, clock=clock)


def check_listen(url: str, keys: ServerKeys | None, access: ServerAccess | None = None) -> None:
    """See transports.base."""
    from pipeline.transports.http_listener import check_address  # An edge has no aiohttp.

    check_address(url, access or ServerAccess())


def listen(
    url: str,
    directory: SessionDirectory,
    on_event: OnServerEvent,
    *,
    keys: ServerKeys | None = None,
    clock: Clock = clocks.monotonic,
    access: ServerAccess | None = None,
) -> HttpListener:
    """See transports.base."""
    from pipeline.transports.http_listener import HttpListener

    return HttpListener(url, directory, on_event, access=access or ServerAccess(), clock=clock)
