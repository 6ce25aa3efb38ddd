"""The pure pieces of WebRTC: results with repeats, the buffer by age, what our SCTP does otherwise, the watchdog."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("aiortc")

from aiortc.rtcsctptransport import USERDATA_MAX_LENGTH, DataChunk, ForwardTsnChunk

from pipeline import limits
from pipeline.clock import VirtualClock
from pipeline.transports import webrtc_edge
from pipeline.transports.asyncio_edge import Hooks
from pipeline.transports.result_bundles import REPEATS, ResultBundler, ResultReader
from pipeline.transports.send_buffer import SendBuffer
from pipeline.transports.socket_messages import NO_MESSAGE, read, written
from pipeline.transports.webrtc_edge import PART_BYTES, PeerEdge
from pipeline.transports.webrtc_peer import (
    FLIGHT_BYTES_MIN,
    RTO_S_INITIAL,
    RTO_S_MAX,
    RTO_S_MIN,
    LowDelaySctp,
    make_peer,
    open_channels,
    tune,
)
from pipeline.wire import messages
from pipeline.wire.messages import FramePart, JpegFrame, Ping
from pipeline.wire.parity import LENGTH_BYTES
from pipeline.wire.session import Outgoing

# --- Results -------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=600), max_size=40, unique=True), st.data())
def test_every_result_comes_once(results: list[bytes], data: st.DataObject) -> None:
    """Whatever datagrams are lost or doubled: nothing twice, in order within a datagram, nothing that was not sent."""
    bundler, reader = ResultBundler(), ResultReader()
    had: list[bytes] = []
    for result in results:
        datagram = bundler.pack(result)
        for _ in range(data.draw(st.sampled_from([0, 1, 1, 2]))):
            had += reader.unpack(datagram)
    assert len(had) == len(set(had))
    assert had == [result for result in results if result in had]


@given(st.lists(st.binary(min_size=1, max_size=250), min_size=1, max_size=20, unique=True))
def test_losing_as_many_as_are_repeated_loses_nothing(results: list[bytes]) -> None:
    """Small results: only every fourth datagram arrives, and the last."""
    bundler, reader = ResultBundler(), ResultReader()
    had: list[bytes] = []
    for number, result in enumerate(results):
        datagram = bundler.pack(result)
        assert len(datagram) <= limits.DATAGRAM_BYTES_MAX
        if number % (REPEATS + 1) == REPEATS or number == len(results) - 1:
            had += reader.unpack(datagram)
    assert results == had


@given(st.binary(max_size=300))
def test_any_datagram_gives_messages_or_rubbish(datagram: bytes) -> None:
    """Never an error; what does not fit the format is told to the session as no message."""
    for message in ResultReader().unpack(datagram):
        assert message


def test_large_results_go_alone_and_huge_ones_not() -> None:
    """A result beyond a packet has no repeats with it."""
    bundler = ResultBundler()
    bundler.pack(b"small")
    assert len(bundler.pack(b"x" * 3000)) == 3002
    with pytest.raises(ValueError, match="limit 65535"):
        bundler.pack(bytes(70_000))


# --- The channel byte ----------------------------------------------------------------------------------------


def test_channel_byte_must_fit_the_message() -> None:
    """Written and read; another byte, none, or no message is none."""
    ping = messages.encode(Ping(1, 2))
    assert written(ping) == b"\x00" + ping
    assert ping == read(b"\x00" + ping)
    assert written(messages.encode(JpegFrame(1, 2, 3, b"x")))[:1] == b"\x01"
    for wrong in (b"", b"\x00", b"\x01" + ping, b"\x02" + ping, b"\x07" + ping, ping):
        assert read(wrong) == NO_MESSAGE


# --- The buffer ----------------------------------------------------------------------------------------------


def part(frame: int, number: int, parts: int, payload: bytes = b"x" * 100, *, budget_ms: int = 500) -> bytes:
    return messages.encode(FramePart(frame, number, parts, 0, budget_ms * 1000, payload, 1))


def drain(buffer: SendBuffer, now: float) -> tuple[list[tuple[int, int]], list[int | None]]:
    """((frame, part) that go out at `now`, frames that ended)."""
    sent, ended = [], []
    while len(buffer):
        outgoing, gone = buffer.take(now)
        ended += [one.frame for one in gone]
        if outgoing is not None:
            assert isinstance(outgoing.message, FramePart)
            sent.append((outgoing.message.frame, outgoing.message.part))
    return sent, ended


def test_old_frames_do_not_leave() -> None:
    """A frame of which nothing has left ends by name, once; of one that has begun the rest is left out silently."""
    buffer = SendBuffer()
    for number in range(3):
        buffer.add(part(1, number, 3), 10.0)
    first, _ = buffer.take(10.1)
    assert first is not None
    for number in range(3):
        buffer.add(part(2, number, 3), 10.2)
    buffer.add(part(3, 0, 1), 10.6)
    assert drain(buffer, 10.8) == ([(3, 0)], [2])


def test_lossless_frames_never_grow_old() -> None:
    """No budget."""
    buffer = SendBuffer()
    buffer.add(part(1, 0, 1, budget_ms=0), 0.0)
    assert drain(buffer, 1e9) == ([(1, 0)], [])


def test_parts_fit_a_packet() -> None:
    """With the largest numbers that their fields take in practice; a parity part is a little longer than the others."""
    message = FramePart(2**31, 63, 64, 2**31, 2**31, bytes(LENGTH_BYTES + PART_BYTES), 2**31, 3)
    assert len(messages.encode(message)) <= limits.DATAGRAM_BYTES_MAX <= USERDATA_MAX_LENGTH


# --- SCTP ----------------------------------------------------------------------------------------------------


def with_sctp(look: Callable[[Any], None]) -> None:
    """`look` at the SCTP of a fresh peer connection."""

    async def run() -> None:
        peer = make_peer(())
        open_channels(peer)
        tune(peer, loopback=True)
        assert isinstance(peer.sctp, LowDelaySctp)
        look(peer.sctp)
        await peer.close()

    asyncio.run(run())


def test_window_and_timeout_suit_live_frames() -> None:
    """The window never closes below its floor; the timeout follows the round trip within its bounds."""

    def look(sctp: Any) -> None:
        sctp._cwnd = 1200
        assert sctp._cwnd == FLIGHT_BYTES_MIN
        sctp._cwnd = FLIGHT_BYTES_MIN * 2
        assert sctp._cwnd == FLIGHT_BYTES_MIN * 2
        assert sctp._rto == RTO_S_INITIAL
        sctp._update_rto(0.01)
        assert sctp._rto == RTO_S_MIN
        for _ in range(50):
            sctp._update_rto(5.0)
        assert sctp._rto == RTO_S_MAX

    with_sctp(look)


def chunk(tsn: int, **state: bool) -> DataChunk:
    made: Any = DataChunk()
    made.tsn, made.flags, made._abandoned, made._acked, made._in_flight, made._book_size = (
        tsn,
        7,
        False,
        False,
        False,
        0,
    )
    for name, value in state.items():
        setattr(made, name, value)
    return made  # type: ignore[no-any-return]


def test_abandoned_chunks_are_skipped_past_what_the_peer_has() -> None:
    """One FORWARD TSN over several losses, as far as nothing is missing that is still wanted."""

    def look(sctp: Any) -> None:
        sctp._last_sacked_tsn = sctp._advanced_peer_ack_tsn = 9
        states = ["_abandoned", "_acked", "_acked", "_abandoned", "_acked", "", "_abandoned"]
        for tsn, state in enumerate(states, 10):
            sctp._sent_queue.append(chunk(tsn, **({state: True} if state else {})))
        sctp._update_advanced_peer_ack_point()
        assert isinstance(sctp._forward_tsn_chunk, ForwardTsnChunk)
        assert sctp._forward_tsn_chunk.cumulative_tsn == 13
        assert [one.tsn for one in sctp._sent_queue] == [15, 16]

    with_sctp(look)


# --- The watchdog --------------------------------------------------------------------------------------------


class FakeChannel:
    """A data channel whose buffer is what a test says."""

    def __init__(self) -> None:
        self.bufferedAmount = 0
        self.bufferedAmountLowThreshold = 0
        self.readyState = "open"
        self.sent: list[bytes] = []

    def on(self, event: str, handler: object) -> None:
        pass

    def send(self, data: bytes) -> None:
        self.sent.append(data)
        self.bufferedAmount += len(data)


class FakePeer:
    """A peer connection that goes nowhere."""

    sctp = None
    connectionState = "connected"

    def __init__(self) -> None:
        self.channels: list[FakeChannel] = []

    def createDataChannel(self, label: str, **options: object) -> FakeChannel:
        self.channels.append(FakeChannel())
        return self.channels[-1]

    def on(self, event: str, handler: object) -> None:
        pass


def with_edge(look: Callable[[PeerEdge, FakePeer, VirtualClock, list[str], list[Outgoing]], None]) -> None:
    """`look` at an edge's connection over fakes: (connection, peer, clock, reasons of its loss, frames unsent)."""

    async def run() -> None:
        clock, lost, unsent = VirtualClock(), [], []  # type: ignore[var-annotated]
        hooks = Hooks(lambda data: None, lost.append, lambda: None, lambda outgoing, detail: unsent.append(outgoing))
        peer = FakePeer()
        look(PeerEdge(peer, "webrtc+http://h:1", hooks, clock), peer, clock, lost, unsent)  # type: ignore[arg-type]

    asyncio.run(run())


def test_silence_is_an_end() -> None:
    """Nothing from the peer for 6 s, though no end was told."""

    def look(edge: PeerEdge, peer: FakePeer, clock: VirtualClock, lost: list[str], unsent: list[Outgoing]) -> None:
        clock.advance(5.9)
        edge._look()
        assert lost == []
        clock.advance(0.2)
        edge._look()
        assert lost == ["webrtc+http://h:1 has been silent for 6 s"]

    with_edge(look)


def test_a_wedged_association_is_an_end() -> None:
    """Messages come in, but what goes out gets no less for 3 s; progress starts the time anew."""

    def look(edge: PeerEdge, peer: FakePeer, clock: VirtualClock, lost: list[str], unsent: list[Outgoing]) -> None:
        control = peer.channels[0]
        control.bufferedAmount = 500
        for step in range(20):
            clock.advance(0.5)
            edge._received("control", messages.encode(Ping(1, 1)))
            control.bufferedAmount = 500 - min(step, 10)
            edge._look()
            if lost:
                break
        assert lost == ["490 bytes on channel control to webrtc+http://h:1 are stuck"]
        assert step == 17

    with_edge(look)


def test_the_channel_gets_little_and_old_frames_end() -> None:
    """What a channel does not take waits here, and ends as send_failed when its budget is used up."""

    def look(edge: PeerEdge, peer: FakePeer, clock: VirtualClock, lost: list[str], unsent: list[Outgoing]) -> None:
        for frame in range(20):
            assert edge.send(part(frame, 0, 1, bytes(1100)))
        frames = peer.channels[1]
        assert sum(map(len, frames.sent)) <= webrtc_edge._CHANNEL_BYTES + 1150
        assert edge.send(messages.encode(Ping(1, 1)))
        assert len(peer.channels[0].sent) == 1
        clock.advance(0.6)
        frames.bufferedAmount = 0
        edge._send_frames()
        assert len(unsent) == 20 - len(frames.sent)

    with_edge(look)
