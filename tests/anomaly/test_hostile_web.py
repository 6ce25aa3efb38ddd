"""Hostile clients on the HTTP port: a clear error or a quiet close, memory flat, other sessions unharmed."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("aiortc")

from aiortc import RTCPeerConnection, RTCSessionDescription
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

from pipeline import limits
from pipeline.transports.webrtc_peer import make_peer, open_channels, tune
from pipeline.wire import messages
from pipeline.wire.events import Answered, Connected
from pipeline.wire.messages import Goodbye, Hello
from tests.pipeline.transports.streams import AnsweringServer, StreamingEdge, eventually
from tests.pipeline.wire.pairs import CODEC_ID

HELLO = messages.encode(Hello(1, CODEC_ID))


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    """With an edge on it, which must not notice anything."""
    with AnsweringServer("ws://127.0.0.1:0") as server, StreamingEdge(server.url) as edge:
        edge.wait_for(Connected)
        yield server
        edge.send()
        edge.wait_for(Answered)
        assert len(edge.of(Connected)) == 1


def place(server: AnsweringServer) -> tuple[str, int]:
    host, _, port = server.url.partition("://")[2].rpartition(":")
    return host, int(port)


def web_socket(server: AnsweringServer) -> ClientConnection:
    return open_socket(f"{server.url}/api/v1/stream", subprotocols=["frankenstream.v1"], compression=None)  # type: ignore[list-item]


def ending(client: ClientConnection) -> tuple[list[Any], int]:
    """(messages until the end, close code)."""
    had: list[Any] = []
    try:
        while True:
            data = client.recv(timeout=20)
            had.append(messages.decode(bytes(data[1:])) if isinstance(data, bytes) else data)
    except ConnectionClosed as closed:
        return had, closed.rcvd.code if closed.rcvd else 1006


@pytest.mark.parametrize(
    "rubbish",
    [
        b"", b"\x00", b"\x00\xc1", b"\x03" + HELLO, b"\x01" + HELLO, b"\xff" * 3000, HELLO, os.urandom(100_000), "text",
        b"\x00" + HELLO[:-1],
    ],
)  # fmt: skip
@pytest.mark.parametrize("after_hello", [False, True])
def test_rubbish_on_a_web_socket(server: AnsweringServer, rubbish: bytes | str, after_hello: bool) -> None:
    """Goodbye says what was wrong, then the close code for protocol errors."""
    with web_socket(server) as client:
        if after_hello:
            client.send(b"\x00" + HELLO)
            client.recv(timeout=20)
        client.send(rubbish)
        had, code = ending(client)
    assert (had[-1].reason, code) == ("protocol", 1002)


def test_a_silent_web_socket_is_closed(server: AnsweringServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open, and no Hello."""
    monkeypatch.setattr(limits, "HELLO_TIMEOUT_MS", 100)
    with web_socket(server) as client:
        assert ending(client) == ([], 4408)


def test_a_message_of_100_megabytes_is_not_read(server: AnsweringServer) -> None:
    """Close code 1009 at its header; nothing of its size is ever held."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with socket.create_connection(place(server), 20) as raw:
        key = base64.b64encode(os.urandom(16)).decode()
        raw.sendall(
            f"GET /api/v1/stream HTTP/1.1\r\nHost: {place(server)[0]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: frankenstream.v1\r\n\r\n".encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += raw.recv(4096)
        assert answer.startswith(b"HTTP/1.1 101")
        try:
            raw.sendall(b"\x82\xff" + (100 * 2**20).to_bytes(8, "big") + bytes(4))
            for _ in range(100):
                raw.sendall(bytes(2**20))
        except OSError:
            pass  # The server has had enough.
        raw.settimeout(20)
        said = b""
        try:
            while piece := raw.recv(4096):
                said += piece
        except OSError:
            pass
    assert said == b"" or (1009).to_bytes(2, "big") in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000


def offer(client: http.client.HTTPConnection, body: bytes) -> tuple[int, Any]:
    client.request("POST", "/api/v1/webrtc/offer", body, {"Content-Type": "application/json"})
    answer = client.getresponse()
    return answer.status, json.loads(answer.read())


def real_offer() -> str:
    """The SDP that an edge sends."""

    async def make() -> str:
        peer = make_peer(())
        open_channels(peer)
        tune(peer, loopback=True)
        await peer.setLocalDescription(await peer.createOffer())
        sdp = peer.localDescription.sdp
        await peer.close()
        return str(sdp)

    return asyncio.run(make())


def test_malformed_offers_are_refused(server: AnsweringServer) -> None:
    """HTTP 400 and one line, whatever is in them."""
    good = real_offer()
    lines = good.split("\r\n")
    bodies = [
        b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 50_000, b'{"type": "offer"}', b'{"type": "offer", "sdp": 7}',
        json.dumps({"type": "answer", "sdp": good}).encode(), json.dumps({"type": "offer", "sdp": ""}).encode(),
        json.dumps({"type": "offer", "sdp": good + "a=x:" + "y" * 70_000}).encode(),
        json.dumps({"type": "offer", "sdp": good.replace("m=application", "m=audio")}).encode(),
        json.dumps({"type": "offer", "sdp": good + good[good.index("m=application"):]}).encode(),
        json.dumps({"type": "offer", "sdp": good + "a=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n" * 40}).encode(),
        *(
            json.dumps(
                {"type": "offer", "sdp": "\r\n".join(line for line in lines if not line.startswith(start))}
            ).encode()
            for start in ("m=", "a=ice-ufrag", "a=fingerprint")
        ),
        *(json.dumps({"type": "offer", "sdp": good[:cut]}).encode() for cut in range(0, good.index("a=ice-ufrag"), 40)),
        json.dumps({"type": "offer", "sdp": good.replace("a=sctp-port:5000", "a=sctp-port:x")}).encode(),
        json.dumps({"type": "offer", "sdp": "m=application " + "\x00" * 100}).encode(),
    ]  # fmt: skip
    client = http.client.HTTPConnection(*place(server), timeout=20)
    for body in bodies:
        status, answer = offer(client, body)
        assert (status, bool(answer["error"])) == (400, True), body[:200]
    client.close()


def test_a_thousand_offers(server: AnsweringServer) -> None:
    """The first few are answered and wait for their peers; the others are told to wait. Then all is as before."""
    body = json.dumps({"type": "offer", "sdp": real_offer()}).encode()
    client = http.client.HTTPConnection(*place(server), timeout=30)
    statuses = [offer(client, body)[0] for _ in range(1000)]
    client.close()
    assert {200, 429} == set(statuses)
    assert statuses.count(200) == limits.PEERS_CONNECTING_MAX


async def _peer(server: AnsweringServer, labels: tuple[str, ...] = ("control", "frames", "results")) -> Any:
    """A client that opens channels by these labels: (peer, channels, gone)."""
    peer = make_peer(())
    channels = {label: peer.createDataChannel(label, protocol="frankenstream.v1") for label in labels}
    tune(peer, loopback=True)
    opened, gone = asyncio.Event(), asyncio.Event()
    for channel in channels.values():
        channel.on("open", lambda: opened.set() if all(one.readyState == "open" for one in channels.values()) else None)
        channel.on("close", gone.set)
    await peer.setLocalDescription(await peer.createOffer())
    body = json.dumps({"type": "offer", "sdp": peer.localDescription.sdp}).encode()

    def send() -> tuple[int, Any]:
        client = http.client.HTTPConnection(*place(server), timeout=20)
        try:
            return offer(client, body)
        finally:
            client.close()

    _, answer = await asyncio.to_thread(send)
    await peer.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
    await asyncio.wait_for(opened.wait(), 20)
    return peer, channels, gone


def test_silent_channels_are_closed(server: AnsweringServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three open, and no Hello."""
    monkeypatch.setattr(limits, "HELLO_TIMEOUT_MS", 100)

    async def run() -> None:
        peer, _, gone = await _peer(server)
        await asyncio.wait_for(gone.wait(), 20)
        await peer.close()

    asyncio.run(run())


@pytest.mark.parametrize("labels", [("control", "other"), ("control", "control")])
def test_strange_channels_end_the_connection(server: AnsweringServer, labels: tuple[str, ...]) -> None:
    """By a label that is not ours, or twice."""

    async def run() -> None:
        peer: RTCPeerConnection
        peer, _, gone = await _peer(server, labels[:1])
        peer.createDataChannel(labels[1], protocol="frankenstream.v1")
        await asyncio.wait_for(gone.wait(), 20)
        await peer.close()

    asyncio.run(run())


@pytest.mark.parametrize("rubbish", [b"\xc1", b"\x00" * 2000, os.urandom(60_000), "text", HELLO])
@pytest.mark.parametrize("label", ["control", "frames", "results"])
def test_rubbish_on_a_channel(server: AnsweringServer, label: str, rubbish: bytes | str) -> None:
    """Goodbye says so, then the connection ends. Hello belongs on control: elsewhere it is rubbish too."""
    if (label, rubbish) == ("control", HELLO):
        rubbish = messages.encode(Goodbye("done")) + b"x"
    goodbyes: list[Any] = []

    async def run() -> None:
        peer, channels, gone = await _peer(server)
        channels["control"].on("message", lambda data: goodbyes.append(messages.decode(data)))
        channels[label].send(rubbish)
        await asyncio.wait_for(gone.wait(), 20)
        await peer.close()

    asyncio.run(run())
    assert [goodbye.reason for goodbye in goodbyes] == ["protocol"]


def test_a_channel_message_without_end_is_aborted(server: AnsweringServer) -> None:
    """Reassembly holds the receive window at most, then the association is gone."""

    async def run() -> None:
        peer, channels, gone = await _peer(server)
        peer.sctp._remote_max_message_size = 0  # A peer that keeps no limit.
        channels["control"].send(bytes(8 * 2**20))
        await asyncio.wait_for(gone.wait(), 60)
        await peer.close()

    asyncio.run(run())
    eventually(lambda: len(server.directory) == 1)
