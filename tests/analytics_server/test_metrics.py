"""What Prometheus sees: every cause and stage from the start, and no label that clients could grow."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from analytics_server.metrics import ServerMetrics
from pipeline.accounting import COMMON_CAUSES, SERVER_CAUSES
from pipeline.stages import SERVER_STAGES

LABELS = {"cause", "stage", "kind", "backbone", "how", "le"}


def families(metrics: ServerMetrics) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}


def test_causes_and_stages_are_there_from_the_start() -> None:
    """A dashboard shows zero, not a gap."""
    found = families(ServerMetrics())
    causes = {s.labels["cause"] for s in found["frankenstream_frames_dropped"].samples}
    stages = {s.labels["stage"] for s in found["frankenstream_stage_seconds"].samples}
    assert causes == {*SERVER_CAUSES, *COMMON_CAUSES}
    assert stages == set(SERVER_STAGES)


def test_labels_are_bounded() -> None:
    """No session, client, task or address is a label."""
    metrics = ServerMetrics()
    work: Any = SimpleNamespace(kind="latent")
    metrics.received("latent", 3000)
    metrics.answered(work, (0.001, 0.002, 0.003, 0.004, 0.0))
    metrics.dropped(work, "shed")
    metrics.batch("null", 3, 0.01)
    metrics.opened(resumed=True)
    metrics.table("queue_frames", "text", "backbone", lambda: {"null": 2.0})
    found = families(metrics)
    assert {label for family in found.values() for sample in family.samples for label in sample.labels} <= LABELS
    assert found["frankenstream_queue_frames"].samples[0].value == 2.0
    assert found["frankenstream_payload_bytes"].samples[0].value == 3000.0


def test_queue_age() -> None:
    """The 95th percentile of recent waits, which autoscalers watch; 0 before the first frame."""
    metrics = ServerMetrics()
    assert metrics.queue_age_ms_p95() == 0.0
    work: Any = SimpleNamespace(kind="latent")
    for wait_ms in range(1, 101):
        metrics.answered(work, (0.0, wait_ms / 1e3, 0.0, 0.0, 0.0))
    assert round(metrics.queue_age_ms_p95()) == 95
