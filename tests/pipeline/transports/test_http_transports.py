"""WebSocket and WebRTC over real sockets on loopback: the laws of every transport, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiortc")

from frankenstream.tls import local_certificate, server_context
from pipeline.errors import ConfigError, TransportError
from pipeline.transports import LinkModel, connect, listen, websocket_edge
from pipeline.transports import webrtc_edge as webrtc_edges
from pipeline.transports.access import ClientAccess, IceServer, ServerAccess
from pipeline.transports.asyncio_edge import AsyncioEdge, Hooks, OpenFailed
from pipeline.wire import EdgeSession
from pipeline.wire.events import Answered, Closed, Connected, Disconnected, SessionOpened
from tests.pipeline.transports.streams import PATIENCE_S, AnsweringServer, StreamingEdge, eventually, make_directory


@pytest.fixture(params=["ws", "webrtc+http"])
def url(request: pytest.FixtureRequest) -> str:
    return f"{request.param}://127.0.0.1:0"


def no_signal_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """UDP is blocked, in effect: neither side learns of an address of the other (the SDP lies in JSON)."""
    real = webrtc_edges.WebRtcRoute._signal

    def strip(text: str) -> str:
        return "\\r\\n".join(line for line in text.split("\\r\\n") if not line.startswith("a=candidate"))

    def signal(self: Any, address: Any, where: str, offer: str) -> tuple[int, bytes]:
        status, answer = real(self, address, where, strip(offer))
        return status, strip(answer.decode()).encode()

    monkeypatch.setattr(webrtc_edges.WebRtcRoute, "_signal", signal)
    monkeypatch.setattr(webrtc_edges, "_CONNECT_S", 0.5)


def test_frames_are_answered(url: str) -> None:
    """Frames up, results down once each, and both counts agree; closing is clean."""
    with AnsweringServer(url) as server, StreamingEdge(server.url, lossless=True) as edge:
        edge.wait_for(Connected)
        for _ in range(40):
            edge.send()
        edge.wait_for(Answered, 40)
        assert list(range(40)) == [event.frame for event in edge.of(Answered)]
        assert edge.session.account.duplicates == 0
        # Repeated parts are counted. Before closing: a Pong that leaves after Goodbye is ignored, as the protocol says.
        eventually(lambda: server.transport.stats.received_bytes == edge.transport.traffic.sent_bytes)
        edge.transport.close()
        assert [Closed("done", "", True)] == edge.of(Closed)
        assert edge.transport.closed
        eventually(lambda: len(server.directory) == 0)


@pytest.mark.parametrize(("scheme", "parts"), [("ws", 1), ("webrtc+http", 6)])
def test_frames_go_in_parts_where_packets_are_lost(scheme: str, parts: int) -> None:
    """5 kB are one message on a stream, five of at most a packet on datagrams, and one of parity at first."""
    sizes: list[int] = []

    def on_traffic(direction: str, channel: str, data: bytes, now: float) -> None:
        if channel == "frames":
            sizes.append(len(data))

    with AnsweringServer(f"{scheme}://127.0.0.1:0") as server, StreamingEdge(server.url) as edge:
        edge.transport._pump._on_traffic = on_traffic  # type: ignore[attr-defined]
        edge.wait_for(Connected)
        edge.send(b"x" * 5000)
        edge.wait_for(Answered)
    assert parts == len(sizes)
    assert parts == 1 or max(sizes) <= 1150


def test_a_cut_connection_is_resumed(url: str) -> None:
    """A new connection goes on with the old session; nothing is lost, nothing doubled."""
    with AnsweringServer(url) as server, StreamingEdge(server.url) as edge:
        edge.wait_for(Connected)
        edge.send()
        edge.wait_for(Answered)
        assert isinstance(edge.transport, AsyncioEdge)
        edge.transport.call(lambda session, now: edge.transport._lost("pulled the plug"))  # type: ignore[attr-defined]
        edge.wait_for(Connected, 2)
        edge.send()
        edge.wait_for(Answered, 2)
        assert [event.welcome.resumed for event in edge.of(Connected)] == [False, True]
        assert len(server.directory) == 1


def test_session_moves_between_transports() -> None:
    """From WebRTC to WebSocket and back by Goodbye(peer): the same session."""
    directory = make_directory(guard=threading.RLock())
    with (
        AnsweringServer("ws://127.0.0.1:0", directory=directory) as web,
        AnsweringServer("tcp://127.0.0.1:0", directory=directory),
        StreamingEdge(web.url) as edge,
    ):
        edge.wait_for(Connected)
        edge.send()
        edge.wait_for(Answered)
        with AnsweringServer("ws://127.0.0.1:0", directory=directory) as other:
            (handle,) = web.transport.handles()
            handle.call(lambda session, now: session.goodbye("draining", "", now, resumable=True, peer=other.url))
            edge.wait_for(Connected, 2)
            edge.send()
            edge.wait_for(Answered, 2)
            assert [event.welcome.resumed for event in edge.of(Connected)] == [False, True]
            assert (web.transport.handles(), len(other.transport.handles())) == ([], 1)
            assert len([event for _, event in other.events if isinstance(event, SessionOpened)]) == 1


def test_no_server_is_no_error(url: str) -> None:
    """The edge waits until one is there."""
    with AnsweringServer(url) as server:
        where = server.url
    with StreamingEdge(where) as edge:
        edge.wait_for(Disconnected)
        assert "does not answer" in edge.of(Disconnected)[0].reason
        with AnsweringServer(where):
            edge.wait_for(Connected)


def test_an_attempt_that_is_given_up_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something accepts and says nothing: it sees the end of the connection when the attempt ends."""
    monkeypatch.setattr(websocket_edge, "_ATTEMPT_S", 0.05)
    nothing = Hooks(lambda data: None, lambda reason: None, lambda: None, lambda outgoing, detail: None)

    async def attempt() -> None:
        ended = asyncio.Event()

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while await reader.read(4096):
                    pass
            ended.set()
            writer.close()

        async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(OpenFailed, match="did not answer within"):
                await websocket_edge.WebSocketRoute(ClientAccess()).open(f"ws://127.0.0.1:{port}", nothing)
            await asyncio.wait_for(ended.wait(), PATIENCE_S)

    asyncio.run(attempt())


def test_port_in_use_is_told(url: str) -> None:
    """The second server at one place gets a TransportError."""
    with AnsweringServer(url) as server, pytest.raises(TransportError, match="in use"):
        listen(server.url, make_directory(), lambda handle, event: None)


def test_several_edges_at_once(url: str) -> None:
    """Sessions are told apart."""
    with AnsweringServer(url) as server:
        edges = [StreamingEdge(server.url) for _ in range(4)]
        for edge in edges:
            edge.wait_for(Connected)
            edge.send()
        for edge in edges:
            edge.wait_for(Answered)
        assert len(server.directory) == 4
        for edge in edges:
            edge.transport.close()


def test_wrong_token_is_told_in_one_line(url: str) -> None:
    """And is not tried again; the right one streams, and the session is bound to it."""
    access = ServerAccess.with_token("right")
    with AnsweringServer(url, access=access) as server:
        with StreamingEdge(server.url, access=ClientAccess("wrong")) as edge:
            (closed,) = edge.wait_for(Closed)
            assert (closed.reason, "missing or wrong token" in closed.detail) == ("unauthorised", True)
        with StreamingEdge(server.url, access=ClientAccess("right")) as edge:
            edge.wait_for(Connected)
            assert server.events[-1][0].peer.key == access.key_of("right")


def test_link_model_works_in_between(url: str) -> None:
    """A modelled link on top, as on ZeroMQ."""
    with AnsweringServer(url) as server, StreamingEdge(server.url, link=LinkModel(delay_ms=20)) as edge:
        edge.wait_for(Connected)
        edge.send()
        assert edge.wait_for(Answered)[0].capture_to_result_ms >= 40


@pytest.mark.parametrize("scheme", ["wss", "webrtc+https"])
def test_tls_with_a_local_authority(scheme: str, tmp_path: Path) -> None:
    """An edge that knows the authority connects; one that does not is told what to copy."""
    tls = server_context("local", None, tmp_path)
    with AnsweringServer(f"{scheme}://127.0.0.1:0", access=ServerAccess(tls=tls)) as server:
        with StreamingEdge(server.url, access=ClientAccess(ca_file=tmp_path / "ca.pem")) as edge:
            edge.wait_for(Connected)
            edge.send()
            edge.wait_for(Answered)
        with StreamingEdge(server.url) as edge:
            (closed,) = edge.wait_for(Closed)
            assert "is not trusted here" in closed.detail
            assert "ca.pem" in closed.detail


# --- Falling back --------------------------------------------------------------------------------------------


def test_blocked_udp_falls_back_to_web_socket(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The edge says what it uses and why; frames then go whole."""
    no_signal_of(monkeypatch)
    with AnsweringServer("webrtc+http://127.0.0.1:0") as server, StreamingEdge(server.url) as edge:
        edge.wait_for(Connected)
        edge.send()
        edge.wait_for(Answered)
        assert isinstance(edge.transport, AsyncioEdge)
        assert (edge.transport.route, "no UDP path" in edge.transport.why) == ("websocket", True)
        assert "using websocket instead" in caplog.text
        assert server.events[0][0].peer.transport == "ws"
        assert edge.session.part_bytes == 0


def test_server_without_webrtc_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its installation lacks the extra: 503 says so."""
    monkeypatch.setitem(sys.modules, "pipeline.transports.webrtc_server", None)
    with (
        AnsweringServer("ws://127.0.0.1:0") as server,
        StreamingEdge(server.url.replace("ws", "webrtc+http")) as edge,
    ):
        edge.wait_for(Connected)
        assert "pip install 'frankenstream[webrtc]'" in edge.transport.why  # type: ignore[attr-defined]


def test_no_fallback_if_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it keeps trying."""
    no_signal_of(monkeypatch)
    with (
        AnsweringServer("webrtc+http://127.0.0.1:0") as server,
        StreamingEdge(server.url, access=ClientAccess(fallback=False)) as edge,
    ):
        edge.wait_for(Disconnected, 2)
        assert "no UDP path" in edge.of(Disconnected)[0].reason


# --- What is said beforehand ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("ws://", "is no transport URL"),
        ("ws://:80", "has no host"),
        ("ws://127.0.0.1:0", "names no server"),
        ("wss://h:99999", "has no port"),
        ("ws://token@h:80", "more than host and port"),
        ("webrtc+http://h:80/?token=x", "more than host and port"),
    ],
)
def test_bad_urls_are_told(url: str, detail: str) -> None:
    """One line, before any thread is started."""
    with pytest.raises(TransportError, match=detail):
        connect(url, EdgeSession(codec_id=""), lambda event: None)


@pytest.mark.parametrize(
    ("url", "detail"), [("ws://0.0.0.0:0", "takes a token"), ("wss://127.0.0.1:0", "takes a certificate")]
)
def test_open_doors_are_refused(url: str, detail: str) -> None:
    """Beyond loopback a token is required, with s a certificate."""
    with pytest.raises(TransportError, match=detail):
        listen(url, make_directory(), lambda handle, event: None)


def test_ice_servers_from_text() -> None:
    """With and without account."""
    assert IceServer("stun:s.example:3478") == IceServer.parse("stun:s.example:3478")
    assert IceServer("turn:t.example:3478", "me", "p:w@") == IceServer.parse("turn:me:p%3Aw%40@t.example:3478")
    for wrong in ("s.example", "http://x", "stun:", "turn:a b"):
        with pytest.raises(ConfigError, match="expected stun"):
            IceServer.parse(wrong)


def test_certificate_is_renewed_when_names_change(tmp_path: Path) -> None:
    """The authority stays, so devices that trust it go on trusting."""
    certificate, key = local_certificate(tmp_path, ("localhost", "127.0.0.1"))
    authority, first = (tmp_path / "ca.pem").read_bytes(), certificate.read_bytes()
    assert first == local_certificate(tmp_path, ("localhost",))[0].read_bytes()
    assert first != local_certificate(tmp_path, ("localhost", "10.1.2.3"))[0].read_bytes()
    assert authority == (tmp_path / "ca.pem").read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
