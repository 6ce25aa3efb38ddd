"""Things going wrong on the network: each is told in one line, ends its own session only, and the counts add up."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import pytest
import zmq

from pipeline.errors import RemoteProtocolError, TransportError
from pipeline.transports import ClientKeys, listen
from pipeline.transports.keys import generate
from pipeline.wire import messages
from pipeline.wire.events import Answered, Closed, Connected, Disconnected, FrameReceived
from pipeline.wire.messages import Frame, Goodbye, Hello
from pipeline.wire.states import DETACHED
from tests.pipeline.transports.streams import AnsweringServer, StreamingEdge, eventually, make_directory, make_keys
from tests.pipeline.wire.pairs import CODEC_ID


def garbage(seed: int) -> list[list[bytes]]:
    """What comes from peers that are no edges, or broken ones: each entry is one ZeroMQ message."""
    source = random.Random(seed)
    frame = messages.encode(Frame(0, 0, 500_000, source.randbytes(5_000), 1))
    return [
        [b""],
        [source.randbytes(20)],
        [source.randbytes(60_000)],
        [frame],
        [frame[: source.randrange(len(frame))]],
        [messages.encode(Hello(99, CODEC_ID))],
        [messages.encode(Hello(1, "another codec"))],
        [b"several", b"parts", b"here"],
        [messages.encode(Hello(1, CODEC_ID)), b"and more"],
        [b"\x95" * 1_000],
        [b"\xdd\xff\xff\xff\xff"],
    ]


def test_garbage_from_one_peer_disturbs_no_other() -> None:
    """Random, cut, oversized and misplaced bytes beside a stream: every frame of the stream is answered."""
    with AnsweringServer() as server, StreamingEdge(server.url, lossless=True) as edge:
        edge.wait_for(Connected)
        context: zmq.Context = zmq.Context()
        for seed in range(10):
            peer = context.socket(zmq.DEALER)
            peer.connect(server.url)
            for parts in garbage(seed):
                peer.send_multipart(parts)
                edge.send()
            peer.close(100)
        edge.wait_for(Answered, 110)
        context.destroy(linger=0)
        assert (edge.session.account.answered, edge.session.account.dropped) == (110, {})
        eventually(lambda: server.directory.refused >= 50)
        assert len(server.directory) == 1


def test_garbage_within_a_session_closes_it_alone() -> None:
    """An edge that was welcomed and then sends nonsense gets Goodbye; the other streams on."""
    with AnsweringServer() as server, StreamingEdge(server.url) as edge:
        edge.wait_for(Connected)
        context: zmq.Context = zmq.Context()
        peer = context.socket(zmq.DEALER)
        peer.connect(server.url)
        peer.send(messages.encode(Hello(1, CODEC_ID)))
        peer.send(b"\xc1 nonsense")
        said = []
        while not said or not isinstance(said[-1], Goodbye):
            assert peer.poll(10_000)
            said.append(messages.decode(peer.recv()))
        assert said[-1].reason == "protocol"
        edge.send()
        edge.wait_for(Answered)
        eventually(lambda: len(server.directory) == 1)
        context.destroy(linger=0)


def test_message_over_the_limit_ends_the_connection() -> None:
    """ZeroMQ refuses it before it is read whole."""
    with AnsweringServer() as server, StreamingEdge(server.url) as edge:
        edge.wait_for(Connected)
        context: zmq.Context = zmq.Context()
        peer = context.socket(zmq.DEALER)
        peer.connect(server.url)
        peer.send(bytes(5_000_000))
        edge.send()
        edge.wait_for(Answered)
        assert len(server.directory) == 1
        context.destroy(linger=0)
    with pytest.raises(RemoteProtocolError, match="limit 4194304"):
        messages.decode(bytes(5_000_000))


def test_unknown_client_key_is_told() -> None:
    """The edge does not hang: Closed("unauthorised"), and what to do."""
    server_keys, client_keys = make_keys()
    public, secret = generate()
    stranger = ClientKeys(public, secret, client_keys.server_public)
    with (
        AnsweringServer(keys=server_keys) as server,
        StreamingEdge(server.url, keys=client_keys) as friend,
        StreamingEdge(server.url, keys=stranger) as edge,
    ):
        edge.send()
        (closed,) = edge.wait_for(Closed)
        assert (closed.reason, closed.clean) == ("unauthorised", False)
        assert "the server does not know this client's key" in closed.detail
        assert edge.session.account.dropped == {"disconnected": 1}
        friend.wait_for(Connected)
        friend.send()
        friend.wait_for(Answered)


def test_wrong_server_key_is_told() -> None:
    """A server that is not the expected one is not spoken to."""
    server_keys, client_keys = make_keys()
    wrong = ClientKeys(client_keys.public, client_keys.secret, generate()[0])
    with AnsweringServer(keys=server_keys) as server, StreamingEdge(server.url, keys=wrong) as edge:
        (closed,) = edge.wait_for(Closed)
        assert closed.reason == "unauthorised"
        assert "is not this server's" in closed.detail


@pytest.mark.parametrize("server_has_keys", [True, False])
def test_keys_on_one_side_only_are_told(server_has_keys: bool) -> None:
    """Neither side falls back to plain text."""
    server_keys, client_keys = make_keys()
    with (
        AnsweringServer(keys=server_keys if server_has_keys else None) as server,
        StreamingEdge(server.url, keys=None if server_has_keys else client_keys) as edge,
    ):
        (closed,) = edge.wait_for(Closed)
        assert closed.reason == "unauthorised"
        assert ("this edge has none" if server_has_keys else "the server has none") in closed.detail


@pytest.mark.parametrize("url", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0", "tcp://192.0.2.1:5555"])
def test_beyond_loopback_takes_keys(url: str) -> None:
    """Refused before anything is bound, naming the command that makes keys."""
    with pytest.raises(TransportError, match="frankenstream keys"):
        listen(url, make_directory(), lambda handle, event: None)


def test_address_of_another_machine_is_told() -> None:
    """With keys, an address that is not ours is a TransportError."""
    with pytest.raises(TransportError, match="is no address of this machine"):
        listen("tcp://192.0.2.1:0", make_directory(), lambda handle, event: None, keys=make_keys()[0])


# --- Processes that die --------------------------------------------------------------------------------------


def serve(ready: Connection, url: str) -> None:
    ready.send(AnsweringServer(url).url)
    threading.Event().wait()


def start_server(url: str) -> tuple[BaseProcess, str]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, url), daemon=True)
    process.start()
    return process, here.recv()


def test_killed_server_is_waited_for() -> None:
    """Killed mid-stream and restarted on the same port: frames are answered again within 3 s, and counts add up."""
    process, url = start_server("tcp://127.0.0.1:0")
    with StreamingEdge(url, budget_ms=500) as edge:
        edge.wait_for(Connected)
        stop = threading.Event()
        streaming = threading.Thread(target=lambda: _stream(edge, stop))
        streaming.start()
        edge.wait_for(Answered, 10)
        process.kill()
        process.join()
        edge.wait_for(Disconnected)
        process, _ = start_server(url)
        back_at = time.monotonic()  # The restarted process has just said that it listens.
        answered = len(edge.of(Answered))
        edge.wait_for(Answered, answered + 5)
        assert time.monotonic() - back_at < 3.0
        stop.set()
        streaming.join()
        edge.transport.close(drain_s=1.0)
        account = edge.session.account
        assert account.balanced
        assert not account.in_flight
        assert account.entered == len(edge.of(Answered)) + sum(account.dropped.values())
        assert set(account.dropped) <= {"superseded", "too_old", "lost", "disconnected", "stopped"}
    process.kill()
    process.join()


def _stream(edge: StreamingEdge, stop: threading.Event) -> None:
    while not stop.wait(1 / 60):
        edge.send()


def stream_for_ever(ready: Connection, url: str) -> None:
    edge = StreamingEdge(url)
    edge.wait_for(Connected)
    ready.send(os.getpid())
    _stream(edge, threading.Event())


def test_killed_edge_leaves_nothing_behind() -> None:
    """Its session is detached with the next message to it, and its frames end; others stream on."""
    with AnsweringServer() as server, StreamingEdge(server.url) as other:
        other.wait_for(Connected)
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=stream_for_ever, args=(there, server.url), daemon=True)
        process.start()
        here.recv()
        eventually(lambda: sum(isinstance(event, FrameReceived) for _, event in server.events) >= 5)
        (handle,) = [handle for handle in server.transport.handles() if handle.session.account.entered]
        process.kill()
        process.join()
        eventually(lambda: handle.session.state == DETACHED)
        eventually(lambda: not handle.session.account.in_flight)
        assert handle.session.account.balanced
        other.send()
        other.wait_for(Answered)
