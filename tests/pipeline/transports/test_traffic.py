"""What edges hear of their traffic and servers count of theirs: by the channel that each message belongs to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from analytics_server.server import Server
from pipeline.runtime.engine import NullEngine
from tests.bundles import backbone, random_bundle
from tests.streaming import StreamingEdge


def test_downlink_is_told_by_channel(tmp_path: Path) -> None:
    """Welcome and pings are control, answers are results; both sides count the same bytes."""
    only = backbone("null", alias="", pooled_width=8, default=True)
    bundle = random_bundle(tmp_path / "bundle", backbones=(only,))
    heard: Counter[tuple[str, str]] = Counter()

    def listen(direction: str, channel: str, data: bytes, now: float) -> None:
        heard[direction, channel] += len(data)

    with (
        Server(bundle, ["tcp://127.0.0.1:0"], engines=[NullEngine("null")]) as server,
        StreamingEdge(server.urls[0], bundle, on_traffic=listen) as edge,
    ):
        payload = edge.bitstream()
        (transport,) = server._transports
        edge.wait_ended(edge.send(payload))
    counted = transport.stats.bytes_by_channel  # a message is counted once it is sent, so only now surely all
    assert heard["up", "frames"] == counted["up", "frames"] > len(payload)
    assert heard["down", "results"] == counted["down", "results"] > 0
    assert heard["down", "control"] > 0
    assert set(heard) == {("up", "control"), ("up", "frames"), ("down", "control"), ("down", "results")}
