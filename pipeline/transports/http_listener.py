"""An HTTP port of its own for streams: what `listen("ws://…")` and `listen("webrtc+http://…")` open.

`StreamRoutes` are the routes themselves; `frankenstream serve` mounts them on its admin port instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from pipeline import clock as clocks
from pipeline import limits
from pipeline.clock import Clock
from pipeline.errors import TransportError
from pipeline.transports.access import ServerAccess
from pipeline.transports.base import OnServerEvent, SessionHandle, Traffic, is_loopback
from pipeline.transports.http_address import OFFER_PATH, STREAM_PATH, WEBRTC_PATH, HttpAddress
from pipeline.transports.http_thread import HttpThread
from pipeline.transports.stream_door import OpenDoor, StreamDoor
from pipeline.transports.websocket_server import serve_socket, token_of
from pipeline.wire.directory import SessionDirectory

log = logging.getLogger("frankenstream.transports")

_SHUTDOWN_S: Final = 0.5

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StreamRoutes:
    """The routes of WebSocket and WebRTC. `door` gives the sessions, None while the server is not ready."""

    def __init__(self, door: OpenDoor, access: ServerAccess) -> None:
        self._door = door
        self._access = access
        self._peers: Any = None

    def table(self) -> list[web.RouteDef]:
        """For `Application.add_routes`."""
        return [
            web.get(STREAM_PATH, self._socket),
            web.get(WEBRTC_PATH, self._for_pages(self._ice_servers)),
            web.post(OFFER_PATH, self._for_pages(self._offer)),
            *(web.options(path, self._for_pages(self._ask_first)) for path in (WEBRTC_PATH, OFFER_PATH)),
        ]

    async def close(self) -> None:
        """End every peer connection."""
        if self._peers is not None:
            await self._peers.close()

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        return await serve_socket(request, self._door, self._access)

    def _for_pages(self, handler: Handler) -> Handler:
        """`handler`, whose answers the pages of other sites that may stream here can read (CORS)."""

        async def handle(request: web.Request) -> web.StreamResponse:
            response = await handler(request)
            origin = request.headers.get("Origin", "")
            if origin in self._access.origins:
                response.headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})
            return response

        return handle

    async def _ask_first(self, request: web.Request) -> web.StreamResponse:
        """A browser asks whether a page of another site may send what it wants to."""
        headers = {"Access-Control-Allow-Methods": "GET, POST",
                   "Access-Control-Allow-Headers": "Authorization, Content-Type"}  # fmt: skip
        return self._foreign(request) or web.Response(status=204, headers=headers)

    async def _ice_servers(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        servers = [
            {"urls": server.url, **({"username": server.user, "credential": server.password} if server.user else {})}
            for server in self._access.ice_servers
        ]
        return web.json_response({"ice_servers": servers, "webrtc": importlib.util.find_spec("aiortc") is not None})

    async def _offer(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if self._peers is None:
            try:
                module = importlib.import_module("pipeline.transports.webrtc_server")
            except ModuleNotFoundError as error:
                line = f"no WebRTC here, {error.name} is missing: pip install 'frankenstream[webrtc]', or use WebSocket"
                return web.json_response({"error": line, "webrtc": False}, status=503)
            self._peers = module.Peers(self._door, self._access)
        answer: web.StreamResponse = await self._peers.answer(request, token_of(request, []))
        return answer

    def _foreign(self, request: web.Request) -> web.Response | None:
        origin = request.headers.get("Origin", "")
        if not self._access.lets_in_page(origin, request.host):
            return web.json_response({"error": f"pages of {origin[:200]} may not stream here"}, status=403)
        return None

    def _refusal(self, request: web.Request) -> web.Response | None:
        if (refusal := self._foreign(request)) is not None:
            return refusal
        if not self._access.accepts(token_of(request, [])):
            return web.json_response({"error": "missing or wrong token: pair again, or use --token"}, status=401)
        return None


class HttpListener:
    """See ServerTransport: a thread with a loop, an HTTP port and a StreamDoor."""

    def __init__(
        self,
        url: str,
        directory: SessionDirectory,
        on_event: OnServerEvent,
        *,
        access: ServerAccess,
        clock: Clock = clocks.monotonic,
    ) -> None:
        self._address = check_address(url, access)
        self._door = StreamDoor(directory, on_event, clock, url=url)
        self._routes = StreamRoutes(lambda: self._door, access)
        self._thread = HttpThread(
            f"server {url}", self._application, self._routes.close,
            host="127.0.0.1" if self._address.host == "localhost" else self._address.host,
            port=self._address.port, tls=access.tls, shutdown_s=_SHUTDOWN_S,
        )  # fmt: skip
        try:
            port = self._thread.start()
        except OSError as error:
            raise TransportError(f"{url} is in use by another program or cannot be opened: {error.strerror}") from None
        self.url = self._address.with_port(port)
        self._door.url = self.url

    @property
    def alive(self) -> bool:
        """See ServerTransport."""
        return self._thread.alive

    @property
    def stats(self) -> Traffic:
        """What passed so far."""
        return self._door.stats

    def handles(self) -> list[SessionHandle]:
        """See ServerTransport."""
        return self._door.handles()

    def close(self, timeout: float = 5.0, *, drain_s: float = 0.0, peer: str = "", retry_after_s: float = 0.0) -> None:
        """See ServerTransport."""
        if self._thread.alive:
            self._door.close(timeout, drain_s=drain_s, peer=peer, retry_after_s=retry_after_s)
            self._thread.stop(timeout)

    def _application(self) -> web.Application:
        self._door.attach()
        app = web.Application(client_max_size=limits.SDP_BYTES_MAX)
        app.add_routes(self._routes.table())
        return app


def check_address(url: str, access: ServerAccess) -> HttpAddress:
    """Raises TransportError for what can be said beforehand."""
    address = HttpAddress.parse(url, any_port=True)
    if not is_loopback(address.host) and not access.required:
        raise TransportError(
            f"{url} can be reached from other machines, which takes a token: set one (--stream-token), "
            "or listen on 127.0.0.1"
        )
    if address.tls and access.tls is None:
        raise TransportError(f"{url} takes a certificate: set one (--tls), or use the scheme without s")
    return address
