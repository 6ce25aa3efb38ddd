"""WebRTC: webrtc+http:// and webrtc+https://, three data channels, signalling on the server's HTTP port.

For browsers and for edges behind NAT: UDP, so that a lost packet holds up nothing but itself, and a way through home
routers. It costs about ten times the CPU of ZeroMQ. Where UDP is blocked, the edge goes over to WebSocket on the same
port, says so, and tries again later.
"""

from __future__ import annotations

from pipeline import clock as clocks
from pipeline.clock import Clock
from pipeline.transports.access import ClientAccess
from pipeline.transports.asyncio_edge import AsyncioEdge, Hooks, Route
from pipeline.transports.base import OnEdgeEvent, OnTraffic
from pipeline.transports.http_address import HttpAddress
from pipeline.transports.keys import ClientKeys
from pipeline.transports.link_model import LinkModel
from pipeline.transports.webrtc_edge import WebRtcRoute
from pipeline.transports.websocket import check_listen, listen
from pipeline.transports.websocket_edge import WebSocketConnection, WebSocketRoute
from pipeline.wire.edge_session import EdgeSession

__all__ = ["TAKES_ACCESS", "check_listen", "connect", "listen"]  # One HTTP port takes both kinds of edges.

TAKES_ACCESS = True


class _FallbackRoute(WebSocketRoute):
    """WebSocket on the HTTP port of a webrtc+http(s) URL."""

    async def open(self, url: str, hooks: Hooks) -> WebSocketConnection:
        """See Route."""
        address = HttpAddress.parse(url)
        scheme = "wss" if address.tls else "ws"
        return await super().open(f"{scheme}://{address.authority}", hooks)


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
    access = access or ClientAccess()
    routes: list[Route] = [WebRtcRoute(access, clock)]
    if access.fallback:
        routes.append(_FallbackRoute(access))
    return AsyncioEdge(url, session, on_event, routes, link=link, on_traffic=on_traffic, clock=clock)
