"""What the server counts, for Prometheus: own registry, bounded labels (no session or client ever is a label).

Names follow DESIGN's words: frames end in `answered` or `dropped{cause}`, stages are pipeline.stages.SERVER_STAGES.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from analytics_server.work import FrameWork
from pipeline.accounting import COMMON_CAUSES, SERVER_CAUSES
from pipeline.stages import SERVER_STAGES

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)
_RECENT_FRAMES = 512

ReadTable = Callable[[], dict[str, float]]


class ServerMetrics:
    """Counters and histograms of one server. Thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._received = self._counter("received", "Frames received", "kind")
        self._payload = self._counter("payload_bytes", "Payload of received frames, in bytes", "kind")
        self._answered = self._counter("answered", "Frames answered", "kind")
        self._dropped = self._counter("dropped", "Frames that got no answer", "cause")
        self._stages = Histogram(
            "frankenstream_stage_seconds", "Time of a frame in each stage on the server", ["stage"],
            buckets=_STAGE_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._batches = Histogram(
            "frankenstream_batch_frames", "Frames computed together", ["backbone"],
            buckets=_BATCH_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._busy = self._counter("engine_busy_seconds", "Time that an engine computed", "backbone")
        self._sessions = self._counter("sessions_opened", "Sessions opened or resumed", "how")
        for cause in (*SERVER_CAUSES, *COMMON_CAUSES):
            self._dropped.labels(cause)
        for stage in SERVER_STAGES:
            self._stages.labels(stage)
        self._lock = threading.Lock()
        self._queue_s: deque[float] = deque(maxlen=_RECENT_FRAMES)

    def received(self, kind: str, payload_bytes: int) -> None:
        """A frame came in; `kind` is latent or picture."""
        self._received.labels(kind).inc()
        self._payload.labels(kind).inc(payload_bytes)

    def answered(self, work: FrameWork, stages_s: Sequence[float]) -> None:
        """A frame was answered; `stages_s` in the order of SERVER_STAGES."""
        self._answered.labels(work.kind).inc()
        for stage, seconds in zip(SERVER_STAGES, stages_s, strict=True):
            self._stages.labels(stage).observe(seconds)
        with self._lock:
            self._queue_s.append(stages_s[1])

    def dropped(self, work: FrameWork, cause: str) -> None:
        """A frame was given up."""
        self._dropped.labels(cause).inc()

    def batch(self, backbone: str, size: int, seconds: float) -> None:
        """An engine computed a batch."""
        self._batches.labels(backbone).observe(size)
        self._busy.labels(backbone).inc(seconds)

    def opened(self, *, resumed: bool) -> None:
        """A session was welcomed."""
        self._sessions.labels("resumed" if resumed else "opened").inc()

    def queue_age_ms_p95(self) -> float:
        """95th percentile of the time that recent frames waited, in milliseconds."""
        with self._lock:
            waits = sorted(self._queue_s)
        return waits[int(0.95 * (len(waits) - 1))] * 1e3 if waits else 0.0

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A value that is read when somebody asks."""
        Gauge(f"frankenstream_{name}", text, registry=self.registry).set_function(read)

    def table(self, name: str, text: str, label: str, read: ReadTable, *, total: bool = False) -> None:
        """Values by one label that are read when somebody asks; `total`: they only grow."""
        self.registry.register(_Table(f"frankenstream_{name}", text, label, read, total))

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, label: str) -> Counter:
        noun = "" if name.endswith(("bytes", "seconds")) or name.startswith("sessions") else "frames_"
        return Counter(f"frankenstream_{noun}{name}", text, [label], registry=self.registry)


class _Table(Collector):
    def __init__(self, name: str, text: str, label: str, read: ReadTable, total: bool) -> None:
        self._name, self._text, self._label, self._read, self._total = name, text, label, read, total

    def collect(self) -> list[Metric]:
        kind = CounterMetricFamily if self._total else GaugeMetricFamily
        family = kind(self._name, self._text, labels=[self._label])
        for label, value in self._read().items():
            family.add_metric([label], value)
        return [family]
