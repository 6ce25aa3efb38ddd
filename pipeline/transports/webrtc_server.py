"""The server's end of WebRTC: answers offers, and gives each peer connection to the door as one connection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any, Final

from aiohttp import web
from aiortc import RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import InvalidStateError

from pipeline import limits
from pipeline.transports.access import ServerAccess
from pipeline.transports.base import is_loopback
from pipeline.transports.http_address import SUBPROTOCOL
from pipeline.transports.result_bundles import ResultBundler
from pipeline.transports.server_pump import Sent
from pipeline.transports.socket_messages import NO_MESSAGE
from pipeline.transports.stream_door import OpenDoor, StreamDoor
from pipeline.transports.webrtc_peer import LABELS, candidates_of, flush_and_close, make_peer, tune
from pipeline.wire.directory import PeerInfo
from pipeline.wire.session import channel_of

log = logging.getLogger("frankenstream.transports")

_CONNECT_S: Final = 8.0
"""From answer to open channels."""
_ANSWER_S: Final = 5.0
_RETRY_AFTER_S: Final = 2
_RESULT_BYTES: Final = 16_384
_CONTROL_BYTES: Final = 1_048_576
_REQUIRED: Final = ("ice-ufrag", "ice-pwd", "fingerprint", "setup")
"""Without these aiortc fails in a task of its own, where nobody hears of it."""


class PeerGuest:
    """See DoorConnection."""

    def __init__(self, connection: RTCPeerConnection, door: StreamDoor, peer: PeerInfo) -> None:
        self.peer = peer
        self.connection = connection
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._channels: dict[str, RTCDataChannel] = {}
        self._bundler = ResultBundler()
        self._ended = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._patience = self._loop.call_later(_CONNECT_S, self.finish, "no channels")
        connection.on("datachannel", self._take_channel)
        connection.on("connectionstatechange", self._state_changed)

    @property
    def is_up(self) -> bool:
        """Whether all channels are open."""
        return len(self._channels) == len(LABELS)

    def send(self, data: bytes) -> Sent:
        """See DoorConnection."""
        label = channel_of(data)
        channel = self._channels.get(label)
        if channel is None or channel.readyState != "open":
            return Sent.GONE
        if channel.bufferedAmount > (_RESULT_BYTES if label == "results" else _CONTROL_BYTES):
            return Sent.LATER
        try:
            channel.send(self._bundler.pack(data) if label == "results" else data)
        except (InvalidStateError, ValueError) as error:
            log.warning("a message to %s was not sent: %s", self.peer.address, error)
            return Sent.GONE
        return Sent.YES

    def finish(self, reason: str) -> None:
        """See DoorConnection."""
        if self._ending is None:
            self._ending = self._loop.create_task(self._end(reason))

    async def gone(self) -> None:
        """See DoorConnection."""
        await self._ended.wait()

    async def _end(self, reason: str) -> None:
        self._patience.cancel()
        await flush_and_close(self.connection)
        self._door.lost(self, reason)
        self._channels.clear()
        self._ended.set()

    def _take_channel(self, channel: RTCDataChannel) -> None:
        label = channel.label
        if label not in LABELS or label in self._channels or channel.protocol != SUBPROTOCOL:
            self.finish("a channel that is none of ours")
            return
        self._channels[label] = channel
        channel.on("message", lambda data: self._received(label, data))
        channel.on("close", lambda: self.finish("the edge closed the connection"))
        if self.is_up:
            self._patience.cancel()
            self._door.welcome(self)

    def _received(self, label: str, data: Any) -> None:
        if not self.is_up:
            return  # Only a hostile edge sends before its channels are open.
        fits = isinstance(data, bytes) and channel_of(data) == label
        self._door.received(self, data if fits else NO_MESSAGE)

    def _state_changed(self) -> None:
        if self.connection.connectionState in ("failed", "closed"):
            self.finish("the edge is gone")


class Peers:
    """All peer connections of one HTTP port."""

    def __init__(self, door: OpenDoor, access: ServerAccess) -> None:
        self._door = door
        self._access = access
        self._guests: set[PeerGuest] = set()
        self._answering = 0

    async def answer(self, request: web.Request, token: str) -> web.Response:
        """POST /api/v1/webrtc/offer; the token and the origin were looked at."""
        door = self._door()
        if door is None or door.closed:
            return _error(503, "the server is not ready", retry=True)
        if door.full or self._connecting >= limits.PEERS_CONNECTING_MAX:
            return _error(429, f"{self._connecting} offers are being answered: try again", retry=True)
        self._answering += 1
        try:
            return await self._answer(request, token, door)
        finally:
            self._answering -= 1

    async def close(self) -> None:
        """End every peer connection."""
        for guest in list(self._guests):
            guest.finish("the server is stopping")
        await asyncio.gather(*(guest.gone() for guest in list(self._guests)))

    @property
    def _connecting(self) -> int:
        return self._answering + sum(not guest.is_up for guest in self._guests)

    async def _answer(self, request: web.Request, token: str, door: StreamDoor) -> web.Response:
        try:
            offer = _offer(await request.read())
        except web.HTTPRequestEntityTooLarge:
            return _error(400, f"the offer is larger than {limits.SDP_BYTES_MAX} bytes")
        except ValueError as error:
            return _error(400, str(error))
        connection = make_peer(self._access.ice_servers)
        scheme = "webrtc+https" if request.secure else "webrtc+http"
        peer = PeerInfo(scheme, request.remote or "", self._access.key_of(token))
        try:
            async with asyncio.timeout(_ANSWER_S):
                await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
                tune(connection, loopback=is_loopback(request.remote or ""))
                guest = PeerGuest(connection, door, peer)
                self._keep(guest)
                await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # A hostile description can raise anything within aiortc.
            log.info("an offer from %s was refused: %s: %s", peer.address, type(error).__name__, error)
            with contextlib.suppress(Exception):
                await connection.close()
            return _error(400, "no usable offer: expected the SDP of one data channel connection")
        return web.json_response({"type": "answer", "sdp": connection.localDescription.sdp})

    def _keep(self, guest: PeerGuest) -> None:
        self._guests.add(guest)
        task = asyncio.ensure_future(guest.gone())
        task.add_done_callback(lambda _: self._guests.discard(guest))


def _offer(body: bytes) -> str:
    """The SDP. Raises ValueError with one line for people."""
    if len(body) > limits.SDP_BYTES_MAX:
        raise ValueError(f"the offer is {len(body)} bytes, limit {limits.SDP_BYTES_MAX}")
    try:
        wish = json.loads(body)
        kind, sdp = wish["type"], wish["sdp"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError('the body is no offer: send {"type": "offer", "sdp": "…"}') from None
    if kind != "offer" or not isinstance(sdp, str):
        raise ValueError('the body is no offer: send {"type": "offer", "sdp": "…"}')
    media = [line.split(" ")[0] for line in sdp.splitlines() if line.startswith("m=")]
    if media != ["m=application"]:
        raise ValueError(f"the offer has media {media[:5]}, expected one m=application")
    lacking = [name for name in _REQUIRED if f"\na={name}:" not in sdp]
    if lacking:
        raise ValueError(f"the offer lacks {', '.join(lacking)}")
    if candidates_of(sdp) > limits.ICE_CANDIDATES_MAX:
        raise ValueError(f"the offer has {candidates_of(sdp)} candidates, limit {limits.ICE_CANDIDATES_MAX}")
    return sdp


def _error(status: int, line: str, *, retry: bool = False) -> web.Response:
    headers = {"Retry-After": str(_RETRY_AFTER_S)} if retry else {}
    return web.json_response({"error": line}, status=status, headers=headers)
