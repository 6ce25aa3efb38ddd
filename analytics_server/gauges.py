"""What Prometheus reads of a server at the moment that it asks, beside the counts that metrics.py keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from analytics_server.lane import EngineLane

if TYPE_CHECKING:
    from analytics_server.server import Server


def register_gauges(server: Server) -> None:
    """With the server's own metrics, once."""
    metrics, bundle = server.metrics, server.bundle

    def wire_bytes() -> dict[tuple[str, str], float]:
        total: Counter[tuple[str, str]] = Counter()
        for transport in server.transports:
            total.update(dict(transport.stats.bytes_by_channel))
        return {key: float(count) for key, count in total.items()}

    def by_backbone(figure: Callable[[EngineLane], int]) -> Callable[[], dict[str, float]]:
        return lambda: {tag: float(figure(lane)) for tag, lane in server.lanes.items()}

    metrics.gauge("sessions_active", "Sessions with a connection", lambda: server.sessions_active)
    metrics.gauge("frames_under_way", "Frames between receipt and answer", lambda: server.frames_under_way)
    metrics.gauge("ready", "1 when frames are answered", lambda: float(server.state == "ready"))
    metrics.facts("bundle_info", "What is served", {
        "name": bundle.manifest.name, "bundle_id": bundle.bundle_id, "codec_id": bundle.codec_id,
    })  # fmt: skip
    metrics.table("wire_bytes", "Bytes of all messages", ("direction", "channel"), wire_bytes, total=True)
    metrics.table("queue_frames", "Decoded frames that wait for an engine", "backbone", by_backbone(len))
    metrics.table("engine_failures", "Batches that failed", "backbone", by_backbone(lambda lane: lane.failures),
                  total=True)  # fmt: skip
    metrics.table("heads_failed", "Heads that were taken out", "backbone",
                  by_backbone(lambda lane: len(lane.heads.failed)))  # fmt: skip
