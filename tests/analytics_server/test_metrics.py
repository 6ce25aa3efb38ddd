"""What Prometheus sees: every cause and stage from the start, and no label that clients could grow."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from analytics_server.metrics import ServerMetrics
from pipeline.accounting import COMMON_CAUSES, SERVER_CAUSES
from pipeline.bundle import Distribution, ReferenceFigures
from pipeline.stages import SERVER_STAGES
from pipeline.wire.messages import Label, TaskInfo, TaskResult

LABELS = {"cause", "stage", "kind", "backbone", "how", "le", "task", "signal", "of"}


def families(metrics: ServerMetrics) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}


def frame(*, score: float = 0.5, standalone_bytes: float | None = None) -> Any:
    """A frame that was answered for one task."""
    answers = [(TaskInfo("food101", "null", 101), TaskResult("food101", [Label(0, "pizza", score)]))]
    return SimpleNamespace(
        kind="latent", session=SimpleNamespace(session_id="abc"), answers=answers, operating_point=0,
        standalone_bytes=standalone_bytes,
    )  # fmt: skip


def test_causes_and_stages_are_there_from_the_start() -> None:
    """A dashboard shows zero, not a gap."""
    found = families(ServerMetrics())
    causes = {s.labels["cause"] for s in found["frankenstream_frames_dropped"].samples}
    stages = {s.labels["stage"] for s in found["frankenstream_stage_seconds"].samples}
    assert causes == {*SERVER_CAUSES, *COMMON_CAUSES}
    assert stages == set(SERVER_STAGES)


def test_labels_are_bounded() -> None:
    """No session, client or address is a label."""
    metrics = ServerMetrics()
    metrics.received("latent", 3000, "abc")
    metrics.answered(frame(), (0.001, 0.002, 0.003, 0.004, 0.0))
    metrics.dropped(frame(), "shed")
    metrics.batch("null", 3, 0.01, 0.001)
    metrics.opened(resumed=True)
    metrics.table("queue_frames", "text", "backbone", lambda: {"null": 2.0})
    found = families(metrics)
    assert {label for family in found.values() for sample in family.samples for label in sample.labels} <= LABELS
    assert found["frankenstream_queue_frames"].samples[0].value == 2.0
    assert found["frankenstream_payload_bytes"].samples[0].value == 3000.0


def test_removed_tasks_leave_no_series() -> None:
    """However often heads come and go, only those that are served are counted."""
    metrics = ServerMetrics()
    metrics.answered(frame(), (0.0, 0.0, 0.0, 0.0, 0.0))
    results = families(metrics)["frankenstream_task_results"].samples
    assert [(s.labels["task"], s.labels["backbone"], s.value) for s in results] == [("food101", "null", 1.0)]
    metrics.keep_tasks([("cifar100", "null")])
    results = families(metrics)["frankenstream_task_results"].samples
    assert [(s.labels["task"], s.value) for s in results] == [("cifar100", 0.0)]


def test_queue_age() -> None:
    """The 95th percentile of recent waits, which autoscalers watch; 0 before the first frame."""
    metrics = ServerMetrics()
    assert metrics.queue_age_ms_p95() == 0.0
    for wait_ms in range(1, 101):
        metrics.answered(frame(), (0.0, wait_ms / 1e3, 0.0, 0.0, 0.0))
    assert round(metrics.queue_age_ms_p95()) == 95


def test_drift_is_absent_without_a_reference() -> None:
    """Bundles of before have none: no series, instead of one that says all is well."""
    metrics = ServerMetrics()
    for _ in range(300):
        metrics.answered(frame(standalone_bytes=3000.0), (0.0, 0.0, 0.0, 0.0, 0.0))
    assert families(metrics)["frankenstream_drift_psi"].samples == []
    assert metrics.drift() == []


def test_drift_tells_sure_heads_from_unsure_ones() -> None:
    """Scores as in the reference give a small index, scores that have moved a large one."""
    confidence = Distribution(edges=[0.25, 0.5, 0.75], shares=[0.25] * 4)
    payload = Distribution(edges=[2000.0, 4000.0], shares=[0.2, 0.6, 0.2])
    reference = ReferenceFigures(
        photos="test", count=100, payload_bytes={"standard": payload}, confidence={"null": {"food101": confidence}}
    )
    same, moved = ServerMetrics(reference, ["standard"]), ServerMetrics(reference, ["standard"])
    for number in range(400):
        usual = 1000.0 if number % 5 == 0 else 5000.0 if number % 5 == 1 else 3000.0
        same.answered(frame(score=number % 100 / 100, standalone_bytes=usual), (0.0, 0.0, 0.0, 0.0, 0.0))
        moved.answered(frame(score=0.1, standalone_bytes=9000.0), (0.0, 0.0, 0.0, 0.0, 0.0))

    def psi(metrics: ServerMetrics) -> dict[tuple[str, str], float]:
        samples = families(metrics)["frankenstream_drift_psi"].samples
        return {(s.labels["signal"], s.labels["of"]): s.value for s in samples}

    assert set(psi(same)) == {("payload_bytes", "standard"), ("confidence", "food101@null")}
    assert max(psi(same).values()) < 0.05
    assert min(psi(moved).values()) > 1.0
