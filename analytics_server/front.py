"""What the HTTP port has for edges and phones: streams (WebSocket, WebRTC), pairing, the web page.

    GET  /api/v1/stream           a WebSocket is a session's connection (docs/protocol.md)
    POST /api/v1/webrtc/offer     so is a peer connection
    GET  /api/v1/webrtc           ICE servers
    POST /api/v1/pairings         admin: a link that pairs one device, {"code", "link", "valid_s"}
    POST /api/v1/pair             {"code": …} → {"token": …}, once
    GET  /, /…                    the page

Streams have tokens of their own (tokens.py); only /api/v1/pairings takes the admin's.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aiohttp import web

from analytics_server.page import WEB_FOLDER, Page, is_page
from analytics_server.tokens import INVITATION_S, TokenBook
from pipeline.clock import Clock
from pipeline.transports.access import IceServer, ServerAccess
from pipeline.transports.base import OnServerEvent
from pipeline.transports.http_address import OFFER_PATH, STREAM_PATH, WEBRTC_PATH
from pipeline.transports.http_listener import StreamRoutes
from pipeline.transports.stream_door import StreamDoor
from pipeline.wire.directory import SessionDirectory

_PAIR_PATH: Final = "/api/v1/pair"
_STREAM_PATHS: Final = (STREAM_PATH, OFFER_PATH, WEBRTC_PATH)


@dataclass(frozen=True)
class FrontSettings:
    """How the HTTP port takes streams. `token`: what edges show, empty: none on loopback, paired devices only beyond.
    `secret`: makes the tokens of paired devices, empty: a new one at each start. `origins`: foreign pages that may
    stream. `link_url`: what pairing links begin with, empty: the port's own URL.
    """

    token: str = field(default="", repr=False)
    secret: bytes = field(default=b"", repr=False)
    origins: tuple[str, ...] = ()
    ice_servers: tuple[IceServer, ...] = ()
    tls: ssl.SSLContext | None = None
    link_url: str = ""
    web_folder: Path = WEB_FOLDER


class Front:
    """`url` gives the port's own URL once it is known; beyond `loopback` streaming takes a token. ConfigError."""

    def __init__(
        self, settings: FrontSettings, *, url: Callable[[], str], loopback: bool, admin_token: str = ""
    ) -> None:
        self.book = TokenBook(settings.token, secret=settings.secret)
        self.tls = settings.tls
        required = bool(settings.token) or not loopback

        def accepts(token: str) -> bool:
            """The administrator may stream too."""
            if not required or self.book.accepts(token):
                return True
            return bool(admin_token) and hmac.compare_digest(token.encode("utf-8", "replace"), admin_token.encode())

        self._access = ServerAccess(accepts, required, settings.origins, settings.ice_servers, settings.tls)
        self._url = url
        self._link_url = settings.link_url
        self._page = Page(settings.web_folder)
        self._door: StreamDoor | None = None
        self._streams = StreamRoutes(lambda: self._door, self._access)

    def table(self) -> list[web.RouteDef]:
        """For `Application.add_routes`, after all others."""
        return [
            *self._streams.table(),
            web.post("/api/v1/pairings", self._invite),
            web.post(_PAIR_PATH, self._pair),
            *self._page.table(),
        ]

    def is_open(self, request: web.Request) -> bool:
        """Whether the admin's token is not asked for."""
        return request.path in (*_STREAM_PATHS, _PAIR_PATH) or is_page(request.method, request.path)

    def judges_origin(self, request: web.Request) -> bool:
        """Whether the route itself looks at which page asks."""
        return request.path in _STREAM_PATHS

    def open_door(
        self, loop: asyncio.AbstractEventLoop, directory: SessionDirectory, on_event: OnServerEvent, clock: Clock
    ) -> StreamDoor:
        """Let streams in; `loop` is the one that serves HTTP. Not from its thread."""
        scheme = "wss" if self.tls else "ws"
        door = StreamDoor(directory, on_event, clock, url=f"{scheme}://{self._url().partition('://')[2]}")

        async def attach() -> None:
            door.attach()
            self._door = door

        asyncio.run_coroutine_threadsafe(attach(), loop).result()
        return door

    async def close(self) -> None:
        """The HTTP port closes."""
        if self._door is not None:
            await self._door.end()
        await self._streams.close()

    def link(self) -> str:
        """A new link that pairs one device. The code is behind `#`: browsers do not send that part to anybody."""
        return f"{self._link_url or self._url()}/#pair={self.book.invite()}"

    async def _invite(self, request: web.Request) -> web.StreamResponse:
        link = self.link()
        return web.json_response(
            {"code": link.rpartition("=")[2], "link": link, "valid_s": INVITATION_S},
            status=201,
            headers={"Cache-Control": "no-store"},
        )

    async def _pair(self, request: web.Request) -> web.StreamResponse:
        try:
            wish = await request.json()
            code = wish["code"]
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError):
            return web.json_response({"error": 'the body is no pairing: send {"code": "…"}'}, status=400)
        token = self.book.redeem(code) if isinstance(code, str) else None
        if token is None:
            line = "this pairing link was used or is too old: make a new one on the server (frankenstream pair)"
            return web.json_response({"error": line}, status=403)
        return web.json_response({"token": token}, headers={"Cache-Control": "no-store"})
