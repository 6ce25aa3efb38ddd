"""What the server counts, for Prometheus: own registry, bounded labels (no session or client ever is a label).

Names follow DESIGN's words: frames end in `answered` or `dropped{cause}`, stages are pipeline.stages.SERVER_STAGES.
Tasks are labels, but only those that are served now: one that is removed takes its series along. What is counted here
is told to `watch` as well, which answers for the last seconds. docs/monitoring.md lists every name.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from analytics_server.drift import DriftMeter
from analytics_server.event_log import EventLog
from analytics_server.histograms import Counts, Histograms
from analytics_server.watch import Watch
from analytics_server.work import FrameWork
from pipeline.accounting import COMMON_CAUSES, SERVER_CAUSES
from pipeline.bundle.manifest import ReferenceFigures
from pipeline.clock import Clock, monotonic
from pipeline.stages import SERVER_STAGES
from pipeline.wire.messages import TaskInfo, TaskResult

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""From an entropy decode in C (0.2 ms) to what a lossless replay may wait, in steps of about 2.2."""
_ANSWER_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
"""Finer where budgets lie: 50 to 500 ms."""
_PAYLOAD_BUCKETS = (250, 500, 1_000, 1_500, 2_000, 3_000, 4_000, 5_000, 6_000, 8_000, 12_000, 24_000, 65_536, 262_144)
"""Bitstreams have 0.5 to 8 kB, pictures more."""
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)
_RECENT_FRAMES = 512

ReadTable = Callable[[], Mapping[Any, float]]
"""Keys: a label, or a tuple of them."""


class ServerMetrics:
    """Counters and histograms of one server. Thread-safe.

    `reference`: what drift is measured against (None: no drift metric); `operating_points`: their names in order.
    """

    def __init__(
        self,
        reference: ReferenceFigures | None = None,
        operating_points: Sequence[str] = (),
        *,
        clock: Clock = monotonic,
    ) -> None:
        self.registry = CollectorRegistry()
        self.watch = Watch(clock)
        self.events = EventLog()
        self._lock = threading.Lock()
        self._received = self._counts("frames_received", "Frames received", "kind")
        self._payload = self._counts("payload_bytes", "Payload of received frames, in bytes", "kind")
        self._answered = self._counts("frames_answered", "Frames answered", "kind")
        self._dropped = self._counts("frames_dropped", "Frames that got no answer", "cause",
                                     (*SERVER_CAUSES, *COMMON_CAUSES))  # fmt: skip
        self._stages = self._histograms("stage_seconds", "Time of a frame in each stage on the server", "stage",
                                        _STAGE_BUCKETS, SERVER_STAGES)  # fmt: skip
        self._answers = self._histograms("answer_seconds", "Receipt of a frame to its answer", "kind", _ANSWER_BUCKETS)
        self._sizes = self._histograms("frame_payload_bytes", "Payload of a frame, in bytes", "kind", _PAYLOAD_BUCKETS)
        self._batches = self._histograms("batch_frames", "Frames computed together", "backbone", _BATCH_BUCKETS)
        self._busy = self._counts("engine_busy_seconds", "Time that an engine computed", "backbone")
        self._heads = self._counts("heads_busy_seconds", "Time that the heads of an engine computed", "backbone")
        self._sessions = self._counts("sessions_opened", "Sessions opened or resumed", "how")
        ProcessCollector(registry=self.registry)
        self._points = tuple(operating_points)
        self._queue_s: deque[float] = deque(maxlen=_RECENT_FRAMES)
        self._drift = DriftMeter(reference)
        self.table("drift_psi", "Population stability index of live frames against the bundle's reference",
                   ("signal", "of"), self._drift_table)  # fmt: skip
        self.table("task_results", "Results of a task", ("task", "backbone"), self._task_table, total=True)

    def received(self, kind: str, payload_bytes: int, session: str = "") -> None:
        """A frame came in; `kind` is latent or picture."""
        with self._lock:
            self._received.add(kind)
            self._payload.add(kind, payload_bytes)
            self._sizes.observe(kind, payload_bytes)
        self.watch.received(session, payload_bytes)

    def answered(self, work: FrameWork, stages_s: Sequence[float]) -> None:
        """A frame was answered; `stages_s` in the order of SERVER_STAGES."""
        kind, answers = work.kind, work.answers
        tasks = [(task.name.partition("@")[0], task.backbone) for task, _ in answers]
        with self._lock:
            self._answered.add(kind)
            self._answers.observe(kind, sum(stages_s))
            for stage, seconds in zip(SERVER_STAGES, stages_s, strict=True):
                self._stages.observe(stage, seconds)
            self._queue_s.append(stages_s[1])
            if self._drift:
                self._note_drift(work, tasks, answers)
        recognised = [(one.task, one.labels[0].name, one.labels[0].score) for _, one in answers if one.labels]
        self.watch.answered(work.session.session_id, stages_s, tasks, recognised)

    def dropped(self, work: FrameWork, cause: str) -> None:
        """A frame was given up."""
        with self._lock:
            self._dropped.add(cause)
        self.watch.dropped(work.session.session_id, cause)

    def batch(self, backbone: str, size: int, seconds: float, heads_s: float = 0.0) -> None:
        """An engine computed a batch; its heads took `heads_s` of the time."""
        with self._lock:
            self._batches.observe(backbone, size)
            self._busy.add(backbone, seconds)
            self._heads.add(backbone, heads_s)
        self.watch.batch(backbone, size, seconds, heads_s)

    def opened(self, *, resumed: bool) -> None:
        """A session was welcomed."""
        with self._lock:
            self._sessions.add("resumed" if resumed else "opened")

    def keep_tasks(self, served: Iterable[tuple[str, str]]) -> None:
        """These (task, backbone) are served from now on: the others' series end."""
        self.watch.keep_tasks(set(served))

    def queue_age_ms_p95(self) -> float:
        """95th percentile of the time that recent frames waited, in milliseconds."""
        with self._lock:
            waits = sorted(self._queue_s)
        return waits[int(0.95 * (len(waits) - 1))] * 1e3 if waits else 0.0

    def drift(self) -> list[dict[str, float | str]]:
        """The drift signals that rest on enough frames."""
        with self._lock:
            return [
                {"signal": one.signal, "of": one.of, "psi": round(one.psi, 4), "frames": round(one.frames)}
                for one in self._drift.values()
            ]

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A value that is read when somebody asks."""
        Gauge(f"frankenstream_{name}", text, registry=self.registry).set_function(read)

    def facts(self, name: str, text: str, facts: Mapping[str, str]) -> None:
        """What does not change, as labels of a metric that is 1."""
        Gauge(f"frankenstream_{name}", text, list(facts), registry=self.registry).labels(*facts.values()).set(1)

    def table(
        self, name: str, text: str, labels: str | tuple[str, ...], read: ReadTable, *, total: bool = False
    ) -> None:
        """Values by labels that are read when somebody asks; `total`: they only grow."""
        names = (labels,) if isinstance(labels, str) else labels
        self.registry.register(_Table(f"frankenstream_{name}", text, names, read, total))

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)

    def _drift_table(self) -> dict[tuple[str, ...], float]:
        with self._lock:
            return {(one.signal, one.of): one.psi for one in self._drift.values()}

    def _task_table(self) -> dict[tuple[str, ...], float]:
        return {key: float(count) for key, count in self.watch.task_counts().items()}

    def _note_drift(
        self, work: FrameWork, tasks: Sequence[tuple[str, str]], answers: Sequence[tuple[TaskInfo, TaskResult]]
    ) -> None:
        """Pictures of unmodified clients are left out: the reference is of latents."""
        if work.kind != "latent":
            return
        if work.standalone_bytes is not None and work.operating_point < len(self._points):
            self._drift.payload(self._points[work.operating_point], work.standalone_bytes)
        for (task, backbone), (_, result) in zip(tasks, answers, strict=True):
            if result.labels:
                self._drift.confidence(task, backbone, result.labels[0].score)

    def _counts(self, name: str, text: str, label: str, known: Sequence[str] = ()) -> Counts:
        return Counts(f"frankenstream_{name}", text, label, lock=self._lock, registry=self.registry, known=known)

    def _histograms(
        self, name: str, text: str, label: str, buckets: Sequence[float], known: Sequence[str] = ()
    ) -> Histograms:
        return Histograms(
            f"frankenstream_{name}", text, label, buckets, lock=self._lock, registry=self.registry, known=known
        )


class _Table(Collector):
    def __init__(self, name: str, text: str, labels: tuple[str, ...], read: ReadTable, total: bool) -> None:
        self._name, self._text, self._labels, self._read, self._total = name, text, labels, read, total

    def describe(self) -> list[Metric]:
        """Without reading: what is read may need the registry's owner to be complete."""
        return [self._family()]

    def collect(self) -> list[Metric]:
        family = self._family()
        for labels, value in self._read().items():
            family.add_metric([labels] if isinstance(labels, str) else list(labels), value)
        return [family]

    def _family(self) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if self._total else GaugeMetricFamily
        return kind(self._name, self._text, labels=self._labels)
