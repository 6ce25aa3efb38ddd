"""What holds for every transport alike, over real sockets: closing and draining."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.wire.events import Answered, Connected, Disconnected, FrameReceived
from tests.pipeline.transports.streams import AnsweringServer, StreamingEdge, eventually

WITH_AIORTC = pytest.mark.skipif(find_spec("aiortc") is None, reason="WebRTC needs aiortc: pip install '.[webrtc]'")


@pytest.fixture(params=["tcp", "ipc", "memory", "ws", pytest.param("webrtc+http", marks=WITH_AIORTC)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One URL a scheme."""
    places = {"ipc": f"{tmp_path}/server", "memory": str(tmp_path)}
    return f"{request.param}://{places.get(request.param, '127.0.0.1:0')}"


def test_closing_server_lets_edges_come_back(url: str) -> None:
    """Goodbye carries a token; the edge waits, then begins anew with the next server there."""
    server = AnsweringServer(url)
    where = server.url
    with StreamingEdge(where) as edge:
        edge.wait_for(Connected)
        eventually(lambda: not edge.session._pings._quick_left)  # one on its way would meet a closed socket
        server.transport.close()
        edge.wait_for(Disconnected)
        assert edge.of(Disconnected)[0].reason.startswith("draining")
        with AnsweringServer(where) as second:
            edge.wait_for(Connected, 2)
            edge.send()
            edge.wait_for(Answered)
            assert len(second.directory) == 1


def test_draining_answers_what_is_under_way(url: str) -> None:
    """close(drain_s) waits for the engine, and no frame is orphaned."""
    with AnsweringServer(url, answering=False) as server, StreamingEdge(server.url) as edge:
        edge.wait_for(Connected)
        frame = edge.send()
        eventually(lambda: any(isinstance(event, FrameReceived) for _, event in server.events))
        handle = server.events[0][0]
        closer = threading.Thread(target=lambda: server.transport.close(drain_s=10.0))
        closer.start()
        eventually(lambda: handle.session.credit.window == 0)
        handle.call(lambda session, now: session.answer(frame, [], [0] * 5, now))
        edge.wait_for(Answered)
        closer.join()
        assert (handle.session.account.answered, handle.session.account.dropped) == (1, {})
