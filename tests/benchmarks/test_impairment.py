"""The impairment relay: everything passes, late and lost as its link says."""

from __future__ import annotations

import pytest

pytest.importorskip("aiortc")

from benchmarks.impairment import Relay
from pipeline.transports import LinkModel
from pipeline.wire.events import Answered, Connected
from tests.pipeline.transports.streams import AnsweringServer, StreamingEdge


@pytest.mark.parametrize("scheme", ["tcp", "ws", "webrtc+http"])
def test_frames_pass_late(scheme: str) -> None:
    """Each way takes its delay, whatever the transport."""
    with (
        AnsweringServer(f"{scheme}://127.0.0.1:0") as server,
        Relay(server.url, LinkModel(rate_kbps=50_000, delay_ms=30)) as url,
        StreamingEdge(url) as edge,
    ):
        edge.wait_for(Connected)
        edge.send()
        assert edge.wait_for(Answered)[0].capture_to_result_ms >= 60


def test_lost_packets_cost_no_connection() -> None:
    """At 20 % loss the session goes on: every frame ends, many are answered (two thirds on average, loss both ways)."""
    with (
        AnsweringServer("webrtc+http://127.0.0.1:0") as server,
        Relay(server.url, LinkModel(delay_ms=5, loss=0.2, seed=3)) as url,
        StreamingEdge(url, budget_ms=2_000) as edge,
    ):
        edge.wait_for(Connected)
        account = edge.session.account
        for number in range(20):
            edge.send(b"x" * 900)
            edge.wait(lambda count=number: account.answered + sum(account.dropped.values()) > count)  # type: ignore[misc]
        assert account.answered + sum(account.dropped.values()) == 20
        assert account.answered >= 5
