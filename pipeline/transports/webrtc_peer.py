"""What both ends of a WebRTC connection share: the peer connection, its SCTP, its three channels.

aiortc's SCTP is made for bulk data. Some of its choices stand in the way of live frames and are changed here, for our
own connections only (`LowDelaySctp`):

- The retransmission timeout is never below 1 s (3 s at first): a lost packet at the end of a burst, or a handshake,
  stalls everything for as long. Here it follows the measured round trip, from 300 ms on (500 ms at first).
- The congestion window begins with 3 packets and falls to 1 after a timeout: the last part of a 4 kB frame then waits a
  whole round trip. Here it is never below FLIGHT_BYTES_MIN. That is safe because frames are limited above: by credit
  (4 frames under way), by rate control, and by age; nothing is sent again after its lifetime.
- The point up to which abandoned chunks are skipped stops at every chunk that the peer has: each lost packet then takes
  a round trip of its own, and at 10 % loss the queue of sent chunks grows without end, its round-trip estimate with it.
  Here the point passes over what the peer has said it has.
- Reassembly takes whatever a peer sends. Here an association that holds more than the receive window is aborted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import Any, Final

from aiortc import RTCConfiguration, RTCDataChannel, RTCIceServer, RTCPeerConnection
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport

from pipeline import limits
from pipeline.transports.access import IceServer
from pipeline.transports.http_address import SUBPROTOCOL

FLIGHT_BYTES_MIN: Final = 262_144
"""About sixty frames of the default bundle at its highest rate."""
RTO_S_INITIAL: Final = 0.5
RTO_S_MIN: Final = 0.3
RTO_S_MAX: Final = 2.0
CHANNEL_MESSAGE_BYTES_MAX: Final = 524_288
"""Largest message on a data channel; a bundle part has 262,144 bytes and its header."""
LABELS: Final = ("control", "frames", "results")
FLUSH_S: Final = 0.5

for _name in ("aiortc", "aioice"):  # They tell every candidate pair at INFO.
    logging.getLogger(_name).setLevel(logging.WARNING)


class LowDelaySctp(RTCSctpTransport):
    """See the module. An RTCSctpTransport becomes one by taking this class (`tune`); the properties stand in front of
    its plain attributes, which stay in its `__dict__`.
    """

    @property
    def _cwnd(self) -> int:
        return max(int(self.__dict__["_cwnd"]), FLIGHT_BYTES_MIN)

    @_cwnd.setter
    def _cwnd(self, size: int) -> None:
        self.__dict__["_cwnd"] = size

    @property
    def _rto(self) -> float:
        if self._srtt is None or self._rttvar is None:
            return RTO_S_INITIAL
        return float(max(RTO_S_MIN, min(self._srtt + 4 * self._rttvar, RTO_S_MAX)))

    @_rto.setter
    def _rto(self, seconds: float) -> None:
        pass  # Worked out from _srtt and _rttvar.

    def _update_advanced_peer_ack_point(self) -> None:
        super()._update_advanced_peer_ack_point()
        waiting = len(self._sent_queue)
        moved = False
        while self._sent_queue and (self._sent_queue[0]._abandoned or self._sent_queue[0]._acked):
            chunk = self._sent_queue.popleft()
            if chunk._abandoned:
                self._advanced_peer_ack_tsn, moved = chunk.tsn, True
        if self._t3_handle is not None and 0 < len(self._sent_queue) < waiting:
            self._t3_restart()  # The earliest outstanding chunk is another one now.
        if moved:
            super()._update_advanced_peer_ack_point()  # Makes the FORWARD TSN.

    @classmethod
    def getCapabilities(cls) -> RTCSctpCapabilities:
        return RTCSctpCapabilities(maxMessageSize=CHANNEL_MESSAGE_BYTES_MAX)

    async def _receive_data_chunk(self, chunk: Any) -> None:
        await super()._receive_data_chunk(chunk)
        if self._advertised_rwnd < 0:
            await self._abort()
            self._set_state(self.State.CLOSED)


def make_peer(ice_servers: tuple[IceServer, ...]) -> RTCPeerConnection:
    """A peer connection that asks only the given servers (none: aiortc would ask a public one)."""
    servers = [RTCIceServer(one.url, one.user or None, one.password or None) for one in ice_servers]
    return RTCPeerConnection(RTCConfiguration(iceServers=servers))


def tune(peer: RTCPeerConnection, *, loopback: bool) -> None:
    """After the first channel or the remote description; before the local description is set.

    `loopback`: the other end is on this machine; then its loopback address is the only candidate (aioice has none).
    """
    assert peer.sctp is not None
    peer.sctp.__class__ = LowDelaySctp
    if loopback:
        ice: Any = peer.sctp.transport.transport.iceGatherer._connection
        gather = ice.get_component_candidates

        @functools.wraps(gather)
        async def on_loopback(component: int, addresses: list[str], **more: Any) -> Any:
            return await gather(component=component, addresses=["127.0.0.1"], **more)

        ice.get_component_candidates = on_loopback


def open_channels(peer: RTCPeerConnection) -> dict[str, RTCDataChannel]:
    """The edge opens all three."""
    return {
        "control": peer.createDataChannel("control", protocol=SUBPROTOCOL),
        "frames": peer.createDataChannel(
            "frames", ordered=False, maxPacketLifeTime=limits.FRAME_LIFETIME_MS, protocol=SUBPROTOCOL
        ),
        "results": peer.createDataChannel("results", ordered=False, maxRetransmits=0, protocol=SUBPROTOCOL),
    }


async def flush_and_close(peer: RTCPeerConnection) -> None:
    """What was handed over goes out (for at most FLUSH_S), then the connection is closed."""
    sctp: Any = peer.sctp
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_S):
            while (
                sctp is not None and sctp.state == "connected" and peer.connectionState == "connected"
                and (sctp._data_channel_queue or sctp._outbound_queue or sctp._sent_queue)
            ):  # fmt: skip
                await asyncio.sleep(0.005)
    with contextlib.suppress(Exception):
        await peer.close()


def candidates_of(sdp: str) -> int:
    """How many candidates a description has."""
    return sdp.count("a=candidate:")
