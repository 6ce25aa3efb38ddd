"""The edge's end of WebRTC: it opens the three channels, makes the offer, and notices when nothing moves any more."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from typing import Any, Final

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import InvalidStateError

from pipeline import limits
from pipeline.clock import Clock
from pipeline.transports.access import ClientAccess, untrusted
from pipeline.transports.asyncio_edge import Hooks, NoWay, OpenFailed, Turned
from pipeline.transports.base import is_loopback
from pipeline.transports.http_address import OFFER_PATH, HttpAddress
from pipeline.transports.result_bundles import ResultReader
from pipeline.transports.send_buffer import SendBuffer
from pipeline.transports.socket_messages import NO_MESSAGE
from pipeline.transports.webrtc_peer import flush_and_close, make_peer, open_channels, tune
from pipeline.wire.session import channel_of

PART_BYTES: Final = limits.DATAGRAM_BYTES_MAX - 32
"""Of the bitstream in a FramePart; the rest is the message's other fields."""
_SIGNAL_S: Final = 5.0
_CONNECT_S: Final = 6.0
_LOOK_S: Final = 0.5
_SILENT_S: Final = 6.0
"""Both sessions ping once a second: without any message for so long, the connection is dead."""
_STUCK_S: Final = 3.0
"""Bytes that wait and do not get fewer for so long: the association is wedged."""
_CHANNEL_BYTES: Final = 8_192
"""What the frames channel gets ahead; the rest waits in our own buffer, by age."""
_CONTROL_BYTES: Final = 1_048_576
_ANSWER_BYTES: Final = 65_536


class WebRtcRoute:
    """See Route."""

    name = "webrtc"
    part_bytes = PART_BYTES

    def __init__(self, access: ClientAccess, clock: Clock) -> None:
        self._access = access
        self._clock = clock

    async def open(self, url: str, hooks: Hooks) -> PeerEdge:
        """See Route."""
        address = HttpAddress.parse(url)
        peer = make_peer(self._access.ice_servers)
        try:
            connection = PeerEdge(peer, url, hooks, self._clock)
            tune(peer, loopback=is_loopback(address.host))
            await peer.setLocalDescription(await peer.createOffer())
            offer = json.dumps({"type": "offer", "sdp": peer.localDescription.sdp})
            status, answer = await asyncio.to_thread(self._signal, address, url, offer)
            description = _answer(url, status, answer)
            try:
                await peer.setRemoteDescription(description)
            except Exception as error:  # aiortc's parser raises many kinds.
                raise OpenFailed(f"{url} gave an answer that is no use: {error}") from None
            await connection.wait_open()
        except BaseException:
            await peer.close()
            raise
        connection.begin()
        return connection

    def _signal(self, address: HttpAddress, url: str, offer: str) -> tuple[int, bytes]:
        """POST the offer: (status, body)."""
        connection: http.client.HTTPConnection
        if address.tls:
            context = self._access.tls()
            connection = http.client.HTTPSConnection(address.host, address.port, timeout=_SIGNAL_S, context=context)
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=_SIGNAL_S)
        headers = {"Content-Type": "application/json"}
        if self._access.token:
            headers["Authorization"] = f"Bearer {self._access.token}"
        try:
            connection.request("POST", OFFER_PATH, offer.encode(), headers)
            response = connection.getresponse()
            return response.status, response.read(_ANSWER_BYTES)
        except ssl.SSLCertVerificationError as error:
            raise Turned(untrusted(url, error)) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or error or type(error).__name__
            raise OpenFailed(f"{url} does not answer: {reason}") from None
        finally:
            connection.close()


def _answer(url: str, status: int, body: bytes) -> RTCSessionDescription:
    """The description in the server's answer. Raises OpenFailed, NoWay, Turned."""
    try:
        answer: Any = json.loads(body)
        line = str(answer.get("error", ""))[:300]
    except (ValueError, AttributeError):
        answer, line = {}, ""
    if status in (401, 403):
        raise Turned(f"{url}: {line or f'HTTP {status}'}")
    if status == 404:
        raise NoWay("the server has no WebRTC")
    if status == 503 and answer.get("webrtc") is False:
        raise NoWay(line)
    if status != 200 or answer.get("type") != "answer" or not isinstance(answer.get("sdp"), str):
        raise OpenFailed(f"{url} answers HTTP {status}: {line or 'is it a FrankenStream server?'}")
    return RTCSessionDescription(answer["sdp"], "answer")


class PeerEdge:
    """See EdgeConnection."""

    def __init__(self, peer: RTCPeerConnection, url: str, hooks: Hooks, clock: Clock) -> None:
        self._peer = peer
        self._url = url
        self._hooks = hooks
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._channels = open_channels(peer)
        self._buffer = SendBuffer()
        self._reader = ResultReader()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._down_said = False
        self._heard_at = clock()
        self._waiting: dict[str, tuple[int, float]] = {}
        self._watchdog: asyncio.TimerHandle | None = None
        self._listen()

    async def wait_open(self) -> None:
        """Until all channels are open. Raises NoWay."""
        try:
            await asyncio.wait_for(self._opened, _CONNECT_S)
        except TimeoutError:
            raise NoWay(f"no UDP path to the server within {_CONNECT_S:.0f} s") from None

    def begin(self) -> None:
        """The edge has taken the connection."""
        self._heard_at = self._clock()
        self._watchdog = self._loop.call_later(_LOOK_S, self._look)

    # --- From the edge ----------------------------------------------------------------------------------------

    def send(self, data: bytes) -> bool:
        """See EdgeConnection."""
        if self._down_said:
            return False
        if channel_of(data) == "frames":
            self._buffer.add(data, self._clock())
            self._send_frames()
            return True
        channel = self._channels["control"]
        if channel.bufferedAmount > _CONTROL_BYTES:
            return False
        return self._give(channel, data)

    async def close(self) -> None:
        """See EdgeConnection."""
        self._down_said = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        await flush_and_close(self._peer)

    def _send_frames(self) -> None:
        channel = self._channels["frames"]
        while len(self._buffer) and channel.bufferedAmount < _CHANNEL_BYTES:
            outgoing, ended = self._buffer.take(self._clock())
            for one in ended:
                self._hooks.unsent(one, "the channel did not take it in time")
            if outgoing is None:
                return
            if not self._give(channel, outgoing.data):
                self._hooks.unsent(outgoing, "the channel is closed")

    def _give(self, channel: Any, data: bytes) -> bool:
        try:
            channel.send(data)
        except (InvalidStateError, ValueError):  # Closing; or larger than the peer takes.
            return False
        return True

    # --- From the peer ----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        for label, channel in self._channels.items():
            channel.on("open", self._maybe_open)
            channel.on("close", lambda: self._down(f"{self._url} closed the connection"))
            channel.on("message", lambda data, label=label: self._received(label, data))
        self._channels["frames"].bufferedAmountLowThreshold = _CHANNEL_BYTES // 2
        self._channels["frames"].on("bufferedamountlow", self._send_frames)
        self._channels["control"].on("bufferedamountlow", lambda: self._hooks.writable())
        self._peer.on("connectionstatechange", self._state_changed)

    def _maybe_open(self) -> None:
        if all(channel.readyState == "open" for channel in self._channels.values()) and not self._opened.done():
            self._opened.set_result(None)

    def _state_changed(self) -> None:
        state = self._peer.connectionState
        if state == "failed" and not self._opened.done():
            self._opened.set_exception(NoWay("no UDP path to the server: every candidate pair failed"))
        elif state in ("failed", "closed"):
            self._down(f"{self._url} is gone")

    def _received(self, label: str, data: Any) -> None:
        if self._down_said:
            return
        self._heard_at = self._clock()
        if not isinstance(data, bytes):
            self._hooks.received(NO_MESSAGE)
            return
        for message in self._reader.unpack(data) if label == "results" else [data]:
            self._hooks.received(message if channel_of(message) == label else NO_MESSAGE)

    def _look(self) -> None:
        """The watchdog: an association can wedge without any end being told."""
        now = self._clock()
        if now - self._heard_at > _SILENT_S:
            self._down(f"{self._url} has been silent for {_SILENT_S:.0f} s")
            return
        for label, channel in self._channels.items():
            amount = channel.bufferedAmount
            before, since = self._waiting.get(label, (0, now))
            since = now if amount == 0 or amount < before else since
            self._waiting[label] = (amount, since)
            if now - since > _STUCK_S:
                self._down(f"{amount} bytes on channel {label} to {self._url} are stuck")
                return
        self._send_frames()
        self._watchdog = self._loop.call_later(_LOOK_S, self._look)

    def _down(self, reason: str) -> None:
        if not self._down_said:
            self._down_said = True
            self._hooks.lost(reason)
