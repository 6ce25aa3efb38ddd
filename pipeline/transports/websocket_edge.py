"""The edge's end of a WebSocket: the protocol core of `websockets` over an asyncio socket.

One binary message is a channel byte and a message (docs/protocol.md). What the socket does not take waits in the pump,
where it can grow old; only a small buffer lies in front of the kernel's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from pipeline import limits
from pipeline.transports.access import ClientAccess, untrusted
from pipeline.transports.asyncio_edge import Hooks, OpenFailed, Turned
from pipeline.transports.http_address import CLOSE_PROTOCOL, SUBPROTOCOL, HttpAddress
from pipeline.transports.socket_messages import read, written

_ATTEMPT_S: Final = 5.0
_BUFFER_BYTES: Final = 65_536
"""More than this in front of the kernel's buffer: it takes nothing now."""
_SILENT_S: Final = 6.0
"""Both sessions ping once a second: without any byte for so long, the connection is dead."""
_LOOK_S: Final = 1.0
_CLOSE_S: Final = 0.5


class WebSocketRoute:
    """See Route."""

    name = "websocket"
    part_bytes = 0

    def __init__(self, access: ClientAccess) -> None:
        self._access = access

    async def open(self, url: str, hooks: Hooks) -> WebSocketConnection:
        """See Route."""
        address = HttpAddress.parse(url)
        loop = asyncio.get_running_loop()
        context = self._access.tls() if address.tls else None
        connection = WebSocketConnection(address, self._access.token, hooks)
        with contextlib.ExitStack() as failed:
            failed.callback(connection.abort)
            try:
                async with asyncio.timeout(_ATTEMPT_S):
                    await loop.create_connection(lambda: connection, address.host, address.port, ssl=context)
                    await connection.opened
            except TimeoutError:
                raise OpenFailed(f"{url} did not answer within {_ATTEMPT_S:.0f} s") from None
            except ssl.SSLCertVerificationError as error:
                raise Turned(untrusted(url, error)) from None
            except ssl.SSLError as error:
                raise OpenFailed(f"{url} speaks no TLS here ({error.reason}): use ws:// or another port") from None
            except OSError as error:
                raise OpenFailed(f"{url} does not answer: {error.strerror or error}") from None
            failed.pop_all()
        return connection


class WebSocketConnection(asyncio.Protocol):
    """See EdgeConnection."""

    def __init__(self, address: HttpAddress, token: str, hooks: Hooks) -> None:
        self._address = address
        self._hooks = hooks
        self._token = token
        self._web = ClientProtocol(
            parse_uri(address.web_socket),
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            max_size=limits.MESSAGE_BYTES_MAX + 1,
        )
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._gone = asyncio.Event()
        self._pieces: list[bytes] = []
        self._paused = False
        self._closing = False
        self._heard_at = self._loop.time()
        self._watchdog: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    # --- From the edge ----------------------------------------------------------------------------------------

    def send(self, data: bytes) -> bool:
        """See EdgeConnection."""
        if self._paused or self._web.state is not State.OPEN:
            return False
        self._web.send_binary(written(data))
        self._flush()
        return True

    async def close(self) -> None:
        """See EdgeConnection."""
        self._closing = True
        if self._web.state is State.OPEN:
            self._web.send_close(CloseCode.NORMAL_CLOSURE)
            self._flush()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), _CLOSE_S)
        self.abort()

    def abort(self) -> None:
        """End at once; no hook is called any more."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    # --- From the socket --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is up."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        request = self._web.connect()
        request.headers["User-Agent"] = "frankenstream edge"
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        self._web.send_request(request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes."""
        self._heard_at = self._loop.time()
        self._web.receive_data(data)
        self._flush()
        self._take()

    def eof_received(self) -> None:
        """asyncio: the server sends nothing more."""
        self._web.receive_eof()
        self._flush()
        self._take()

    def pause_writing(self) -> None:
        """asyncio: the buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """asyncio: the buffer is empty again."""
        self._paused = False
        self._hooks.writable()

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio: the socket is gone."""
        self._gone.set()
        if self._watchdog is not None:
            self._watchdog.cancel()
        if not self.opened.done():
            self.opened.set_exception(OpenFailed(self._refusal()))
            return
        self._down(self._reason())

    def _take(self) -> None:
        for event in self._web.events_received():
            if isinstance(event, Response):
                self._answered()
            elif isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
                self._pieces.append(bytes(event.data) if event.opcode is not Opcode.TEXT else b"\xff")
                if event.fin:
                    message, self._pieces = b"".join(self._pieces), []
                    if not self._closing:
                        self._hooks.received(read(message))

    def _answered(self) -> None:
        if self.opened.done():
            return
        if self._web.state is State.OPEN:
            self.opened.set_result(None)
            self._watchdog = self._loop.call_later(_LOOK_S, self._look)
        elif self._web.handshake_exc is not None:
            self.opened.set_exception(OpenFailed(self._refusal()))

    def _look(self) -> None:
        if self._loop.time() - self._heard_at > _SILENT_S:
            self._down(f"{self._address.web_socket} has been silent for {_SILENT_S:.0f} s")
            self.abort()
        else:
            self._watchdog = self._loop.call_later(_LOOK_S, self._look)

    def _down(self, reason: str) -> None:
        if not self._closing:
            self._closing = True
            self._hooks.lost(reason)

    def _flush(self) -> None:
        assert self._transport is not None
        for data in self._web.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.close()

    def _refusal(self) -> str:
        place, error = self._address.web_socket, self._web.handshake_exc
        if isinstance(error, InvalidStatus):
            status = error.response.status_code
            return f"{place} answers HTTP {status}: is it the HTTP port of a FrankenStream server?"
        return f"{place} is no WebSocket of a FrankenStream server" + (f": {error}" if error else "")

    def _reason(self) -> str:
        code = self._web.close_code
        if code in (None, CloseCode.ABNORMAL_CLOSURE):
            return f"{self._address.web_socket} is gone"
        what = "the protocol was broken" if code == CLOSE_PROTOCOL else self._web.close_reason or "closed"
        return f"{self._address.web_socket} closed the connection ({code}: {what})"
