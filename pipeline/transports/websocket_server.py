"""The server's end of WebSockets: one handler for /api/v1/stream, whichever HTTP server it is mounted on."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Final

from aiohttp import WSCloseCode, WSMsgType, web

from pipeline import limits
from pipeline.transports.access import ServerAccess
from pipeline.transports.http_address import (
    CLOSE_NO_HELLO,
    CLOSE_PROTOCOL,
    CLOSE_UNAUTHORISED,
    SUBPROTOCOL,
    TOKEN_PROTOCOL,
)
from pipeline.transports.server_pump import Sent
from pipeline.transports.socket_messages import NO_MESSAGE, read, written
from pipeline.transports.stream_door import OpenDoor, StreamDoor
from pipeline.wire.directory import PeerInfo
from pipeline.wire.messages import Goodbye

_QUEUE_MESSAGES: Final = 16
"""Beyond this an answer waits in its session, where it can grow old."""
_HEARTBEAT_S: Final = 5.0
_CLOSE_S: Final = 1.0
_CODES: Final = {
    "protocol": CLOSE_PROTOCOL,
    "limit": CLOSE_PROTOCOL,
    "unauthorised": CLOSE_UNAUTHORISED,
    "no Hello": CLOSE_NO_HELLO,
}


class WebSocketGuest:
    """See DoorConnection."""

    def __init__(self, socket: web.WebSocketResponse, peer: PeerInfo) -> None:
        self.peer = peer
        self._socket = socket
        self._queue: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._code: int | None = None
        self._why = ""
        self._ended = asyncio.Event()

    def send(self, data: bytes) -> Sent:
        """See DoorConnection."""
        if len(self._queue) >= _QUEUE_MESSAGES:
            return Sent.LATER
        self._queue.append(data)
        self._changed.set()
        return Sent.YES

    def finish(self, reason: str) -> None:
        """See DoorConnection."""
        self._code, self._why = _CODES.get(reason, int(WSCloseCode.OK)), reason
        self._changed.set()

    async def gone(self) -> None:
        """See DoorConnection."""
        await self._ended.wait()

    async def write(self) -> None:
        """Until the connection is to end: messages out, in order."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self._changed.wait()
                self._changed.clear()
                while self._queue:
                    await self._socket.send_bytes(written(self._queue.popleft()))
                if self._code is not None:
                    await self._socket.close(code=self._code, message=self._why[:100].encode())
                    return

    def end(self) -> None:
        """The handler returns."""
        self._ended.set()


async def serve_socket(request: web.Request, door: OpenDoor, access: ServerAccess) -> web.StreamResponse:
    """Handler of /api/v1/stream."""
    origin = request.headers.get("Origin", "")
    if not access.lets_in_page(origin, request.host):
        return web.json_response({"error": f"pages of {origin[:200]} may not stream here"}, status=403)
    opened = door()
    if opened is None or opened.closed:
        return web.json_response({"error": "the server is not ready"}, status=503, headers={"Retry-After": "1"})
    if opened.full:
        return web.json_response({"error": f"{limits.SESSIONS_MAX} connections"}, status=503)
    offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if SUBPROTOCOL not in offered:
        return web.json_response({"error": f"expected a WebSocket of subprotocol {SUBPROTOCOL}"}, status=400)
    socket = web.WebSocketResponse(
        protocols=[SUBPROTOCOL],
        max_msg_size=limits.MESSAGE_BYTES_MAX + 2,
        heartbeat=_HEARTBEAT_S,
        compress=False,
        timeout=_CLOSE_S,
    )
    await socket.prepare(request)
    token = token_of(request, offered)
    known = access.accepts(token)
    scheme = "wss" if request.secure else "ws"
    guest = WebSocketGuest(socket, PeerInfo(scheme, request.remote or "", access.key_of(token) if known else b""))
    await _converse(opened, guest, socket, known=known)
    return socket


async def _converse(opened: StreamDoor, guest: WebSocketGuest, socket: web.WebSocketResponse, *, known: bool) -> None:
    writing = asyncio.ensure_future(guest.write())
    opened.welcome(guest)
    if not known:
        opened.refuse(guest, Goodbye("unauthorised", "missing or wrong token: pair this device again, or use --token"))
    reason = "the edge is gone"
    try:
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                opened.received(guest, read(message.data))
            elif message.type is WSMsgType.TEXT:
                opened.received(guest, NO_MESSAGE)
            elif message.type is WSMsgType.ERROR:
                reason = f"the WebSocket broke: {socket.exception()}"
    finally:
        opened.lost(guest, reason)
        if not guest._queue and guest._code is None:
            writing.cancel()
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            await asyncio.wait_for(writing, _CLOSE_S)
        guest.end()


def token_of(request: web.Request, subprotocols: list[str]) -> str:
    """What the client shows: a header from programs, a subprotocol from browsers."""
    header = request.headers.get("Authorization", "")
    if header.startswith("Bearer "):
        return header.removeprefix("Bearer ")
    for name in subprotocols:
        if name.startswith(TOKEN_PROTOCOL):
            return name.removeprefix(TOKEN_PROTOCOL)
    return ""
