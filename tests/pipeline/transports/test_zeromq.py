"""ZeroMQ transport over real sockets: tcp, ipc, memory alike; CURVE; draining; moving between transports."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.errors import TransportError
from pipeline.transports import LinkModel, connect, listen
from pipeline.wire import EdgeSession
from pipeline.wire.events import Answered, Closed, Connected, Disconnected, SessionOpened
from pipeline.wire.states import CLOSED
from tests.pipeline.transports.streams import AnsweringServer, StreamingEdge, eventually, make_directory, make_keys


@pytest.fixture(params=["tcp", "ipc", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One URL a scheme."""
    return {
        "tcp": "tcp://127.0.0.1:0",
        "ipc": f"ipc://{tmp_path}/server",
        "memory": f"memory://{tmp_path}",
    }[request.param]


def test_frames_are_answered(url: str) -> None:
    """Hundred frames up, hundred results down, and both counts agree."""
    with AnsweringServer(url) as server, StreamingEdge(server.url, lossless=True) as edge:
        edge.wait_for(Connected)
        for _ in range(100):
            edge.send()
        edge.wait_for(Answered, 100)
        assert list(range(100)) == [event.frame for event in edge.of(Answered)]
        edge.transport.close()
        assert [Closed("done", "", True)] == edge.of(Closed)
        assert edge.transport.closed
        eventually(lambda: len(server.directory) == 0)
    assert edge.transport.traffic.sent_bytes > 100 * 5000
    assert server.transport.stats.received_bytes == edge.transport.traffic.sent_bytes


def test_port_in_use_is_told(url: str) -> None:
    """The second server at one place gets a TransportError, the first goes on."""
    with AnsweringServer(url) as server, StreamingEdge(server.url) as edge:
        with pytest.raises(TransportError, match="in use"):
            listen(server.url, make_directory(), lambda handle, event: None)
        edge.wait_for(Connected)
        edge.send()
        edge.wait_for(Answered)


def test_link_model_slows_and_loses() -> None:
    """With a link in between, results take its round trip; the law holds."""
    with (
        AnsweringServer() as server,
        StreamingEdge(server.url, budget_ms=200, link=LinkModel(delay_ms=30, loss=0.5, seed=1)) as edge,
    ):
        edge.wait_for(Connected)
        account = edge.session.account
        for number in range(20):
            edge.send()
            edge.wait(lambda count=number: account.entered > count and edge.session.can_send())  # type: ignore[misc]
        edge.wait(lambda: account.answered + sum(account.dropped.values()) == 20)
        assert all(event.capture_to_result_ms >= 60 for event in edge.of(Answered))
        assert account.answered
        assert account.dropped


def test_several_edges_at_once() -> None:
    """Sessions are told apart."""
    with AnsweringServer() as server:
        edges = [StreamingEdge(server.url) for _ in range(5)]
        for edge in edges:
            edge.wait_for(Connected)
            edge.send()
        for edge in edges:
            edge.wait_for(Answered)
        assert len(server.directory) == 5
        for edge in edges:
            edge.transport.close()


def test_curve_lets_known_clients_in() -> None:
    """Encrypted, and the session knows the client's key."""
    server_keys, client_keys = make_keys()
    with AnsweringServer(keys=server_keys) as server, StreamingEdge(server.url, keys=client_keys) as edge:
        edge.wait_for(Connected)
        edge.send()
        edge.wait_for(Answered)
        assert client_keys.public == server.events[0][0].peer.key


def test_session_moves_to_another_transport(tmp_path: Path) -> None:
    """An edge that comes back through another door of the same server resumes: nothing is lost, nothing doubled."""
    directory = make_directory(guard=threading.RLock())
    with (
        AnsweringServer(directory=directory) as tcp,
        AnsweringServer(f"ipc://{tmp_path}/door", directory=directory) as ipc,
        StreamingEdge(tcp.url) as edge,
    ):
        edge.wait_for(Connected)
        edge.send()
        edge.wait_for(Answered)
        (handle,) = tcp.transport.handles()
        handle.call(lambda session, now: session.goodbye("draining", "", now, resumable=True, peer=ipc.url))
        edge.wait_for(Connected, 2)
        edge.send()
        edge.wait_for(Answered, 2)
        assert [event.welcome.resumed for event in edge.of(Connected)] == [False, True]
        assert (tcp.transport.handles(), len(ipc.transport.handles())) == ([], 1)
        assert (handle.session.account.entered, edge.session.account.answered) == (2, 2)
        assert [SessionOpened] == [type(event) for _, event in ipc.events if isinstance(event, SessionOpened)]


def test_calls_after_the_end_are_counted() -> None:
    """A node that captures one frame too many finds it counted as stopped."""
    with AnsweringServer() as server, StreamingEdge(server.url) as edge:
        edge.wait_for(Connected)
        edge.transport.close()
        edge.send()
        assert edge.session.account.dropped == {"stopped": 1}
        assert edge.session.state == CLOSED


def test_no_server_is_no_error(tmp_path: Path) -> None:
    """The edge waits until one is there."""
    url = f"ipc://{tmp_path}/later"
    with StreamingEdge(url) as edge:
        edge.wait_for(Disconnected)
        with AnsweringServer(url):
            edge.wait_for(Connected)


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        ("nonsense", "is no transport URL"),
        ("carrier-pigeon://x", "expected one of tcp, ipc, memory"),
        ("tcp://127.0.0.1", "has no host and port"),
        ("tcp://127.0.0.1:99999", "has no host and port"),
        ("tcp://127.0.0.1:0", "names no server"),
    ],
)
def test_bad_urls_are_told(url: str, detail: str) -> None:
    """One line, before any thread is started."""
    with pytest.raises(TransportError, match=detail):
        connect(url, EdgeSession(codec_id=""), lambda event: None)
