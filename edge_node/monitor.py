"""What a stream did: counts, stages, rates and labels, in bounded memory, from records of ended frames."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from edge_node.records import UNCHANGED, FrameRecord
from edge_node.summary import ROLLING_S, Percentiles, Rolling, RunFacts, StagePercentiles, Summary, TopLabel
from pipeline.clock import Clock, monotonic
from pipeline.rate_control import RateChoice
from pipeline.stages import STAGES

FRAMES_KEPT = 20_000
"""Frames that percentiles are taken over: the last ones, 11 minutes at 30 a second (1.1 MB)."""
LABELS_KEPT = 2_000
"""Different labels remembered for each task."""
RECORDS_WAITING = 30
"""Records that are counted together: between two frames' networks, with cold caches, each alone takes several times as
long. Whoever asks for a figure has them all counted."""

_SPAN_S_MIN = 0.25  # the first moments of a run would show absurd rates

_NO_TIMES = (np.nan,) * len(STAGES)
_COLUMNS = len(STAGES) + 1  # the last one is capture-to-result


class Monitor:
    """Collects what a run does. Thread-safe; memory does not grow with time."""

    def __init__(self, facts: RunFacts | None = None, *, clock: Clock = monotonic) -> None:
        self.facts = facts if facts is not None else RunFacts()
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, FrameRecord]] = []  # (when it ended, record), not counted yet
        self._started: float | None = None
        self._ended: float | None = None
        self._captured = 0
        self._answered = 0
        self._unchanged = 0
        self._dropped: dict[str, int] = {}
        self._points: dict[str, int] = {}
        self._losses: list[float] = [0.0, 0.0]  # sum, frames
        self._saved_bytes = 0
        self._payload_bytes = 0
        self._wire_bytes = 0
        self._milliseconds = np.full((FRAMES_KEPT, _COLUMNS), np.nan, np.float32)
        self._rows: dict[int, int] = {}  # frame -> row, for `presented`
        self._tops: dict[str, dict[str, list[float]]] = {}
        self._recent: deque[tuple[float, int, int, float, int]] = deque(maxlen=1000)
        self._notices: deque[str] = deque(maxlen=20)
        self.last: FrameRecord | None = None
        """The newest answered frame."""
        self.choice: RateChoice | None = None
        """What rate control wants now; None: nothing chooses."""
        self.late_results = 0
        self.duplicates = 0
        self.connections = 0
        self.clock_error_ms: float | None = None
        self.error = ""

    # --- What happens ----------------------------------------------------------------------------------------

    def captured(self) -> None:
        """A frame was captured; the first one starts the run's time."""
        with self._lock:
            if self._started is None:
                self._started = self._clock()
            self._captured += 1

    def record(self, record: FrameRecord) -> None:
        """A frame has ended."""
        with self._lock:
            self._waiting.append((self._clock(), record))
            if record.answered and (self.last is None or record.frame > self.last.frame):
                self.last = record
            if len(self._waiting) >= RECORDS_WAITING:
                self._count_waiting()

    def presented(self, frame: int, milliseconds: float) -> None:
        """The answer to `frame` was drawn, so long after it came."""
        with self._counted():
            row = self._rows.get(frame)
            if row is not None:
                self._milliseconds[row, len(STAGES) - 1] = milliseconds

    def notice(self, line: str) -> None:
        """Remember a line that was said to the user."""
        with self._lock:
            self._notices.append(line)

    def ended(self) -> None:
        """The run's time stops here."""
        with self._lock:
            if self._ended is None:
                self._ended = self._clock()

    # --- What it comes to ------------------------------------------------------------------------------------

    @property
    def started_at(self) -> float | None:
        """Monotonic seconds of the first captured frame."""
        return self._started

    @property
    def outstanding(self) -> int:
        """Captured frames without a terminal state."""
        with self._counted():
            return self._captured - self._answered - self._unchanged - sum(self._dropped.values())

    @property
    def dropped(self) -> dict[str, int]:
        with self._counted():
            return dict(self._dropped)

    @property
    def unchanged(self) -> int:
        """Frames whose answer is an earlier one."""
        with self._counted():
            return self._unchanged

    @property
    def saved_bytes(self) -> int:
        """What references and repeated answers saved so far."""
        with self._counted():
            return self._saved_bytes

    @property
    def counts(self) -> tuple[int, int, int]:
        """(captured, answered, dropped)."""
        with self._counted():
            return self._captured, self._answered, sum(self._dropped.values())

    def rolling(self) -> Rolling:
        """The figures of the last ROLLING_S seconds."""
        now = self._clock()
        with self._counted():
            recent = [entry for entry in self._recent if entry[0] > now - ROLLING_S]
            span = min(ROLLING_S, max(now - (self._started if self._started is not None else now), _SPAN_S_MIN))
        if not recent:
            return Rolling(0.0, 0.0, 0.0, 0.0)
        _, payloads, wires, milliseconds, alone = zip(*recent, strict=True)
        return Rolling(
            answered_fps=len(recent) / span,
            kbps=sum(wires) * 8 / 1000 / span,
            payload_bytes=sum(payloads) / len(recent),
            capture_to_result_ms=float(np.median(milliseconds)),
            alone_bytes=sum(alone) / len(recent),
        )

    def summary(self) -> Summary:
        """The run so far."""
        with self._counted():
            duration = self._duration()
            answered = self._answered
            payload_mean = self._payload_bytes / answered if answered else 0.0
            facts = self.facts
            return Summary(
                captured=self._captured,
                answered=answered,
                dropped=dict(sorted(self._dropped.items())),
                in_flight=self._captured - answered - self._unchanged - sum(self._dropped.values()),
                stages=self._stage_percentiles(),
                capture_to_result_ms=self._total_percentiles(),
                payload_bytes_mean=payload_mean,
                wire_bytes_mean=self._wire_bytes / answered if answered else 0.0,
                kbps=self._wire_bytes * 8 / 1000 / duration if duration else 0.0,
                bits_per_pixel=payload_mean * 8 / facts.input_pixels,
                tasks=self._top_labels(),
                backbone=facts.backbone,
                bundle_id=facts.bundle_id,
                source=facts.source,
                fps=answered / duration if duration else 0.0,
                captured_fps=self._captured / duration if duration else 0.0,
                duration_s=duration,
                coder=facts.coder,
                encoder=facts.encoder,
                operating_point=facts.operating_point,
                transport=facts.transport,
                link=facts.link,
                server=facts.server,
                late_results=self.late_results,
                duplicates=self.duplicates,
                reconnects=max(0, self.connections - 1),
                clock_error_ms=self.clock_error_ms,
                notices=list(self._notices),
                error=self.error,
                unchanged=self._unchanged,
                operating_points=dict(self._points),
                expected_loss_points=self._losses[0] / self._losses[1] if self._losses[1] else None,
                saved_bytes=self._saved_bytes,
                link_kbps=self.choice.kbps if self.choice is not None else None,
            )

    # --- Inside, under the lock ------------------------------------------------------------------------------

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """The lock, with nothing left to count."""
        with self._lock:
            self._count_waiting()
            yield

    def _count_waiting(self) -> None:
        times: dict[int, list[float]] = {}  # row -> stages, capture-to-result: one assignment for all
        for ended, record in self._waiting:
            if record.answered:
                row = self._answered % FRAMES_KEPT
                times[row] = [*map(record.stages_ms.get, STAGES, _NO_TIMES), record.capture_to_result_ms]
                self._count_answer(record, ended, row)
            elif record.state == UNCHANGED:
                self._unchanged += 1
                self._saved_bytes += record.alone_bytes
            else:
                self._dropped[record.state] = self._dropped.get(record.state, 0) + 1
        self._waiting.clear()
        if times:
            self._milliseconds[list(times)] = list(times.values())

    def _count_answer(self, record: FrameRecord, ended: float, row: int) -> None:
        self._answered += 1
        self._payload_bytes += record.payload_bytes
        self._wire_bytes += record.wire_bytes
        self.clock_error_ms = record.clock_error_ms
        self._rows[record.frame] = row
        if len(self._rows) > 256:
            del self._rows[next(iter(self._rows))]
        alone_bytes = record.alone_bytes or record.payload_bytes
        self._saved_bytes += max(0, alone_bytes - record.payload_bytes)
        if record.operating_point:
            self._points[record.operating_point] = self._points.get(record.operating_point, 0) + 1
        if record.expected_loss_points is not None:
            self._losses = [self._losses[0] + record.expected_loss_points, self._losses[1] + 1]
        self._recent.append((ended, record.payload_bytes, record.wire_bytes, record.capture_to_result_ms, alone_bytes))
        for task, labels in record.tasks.items():
            if labels:
                self._count_top(task, labels[0].label, labels[0].score)

    def _count_top(self, task: str, label: str, score: float) -> None:
        tops = self._tops.setdefault(task, {})
        if label in tops or len(tops) < LABELS_KEPT:
            count_and_sum = tops.setdefault(label, [0.0, 0.0])
            count_and_sum[0] += 1
            count_and_sum[1] += score

    def _duration(self) -> float:
        if self._started is None:
            return 0.0
        return (self._ended if self._ended is not None else self._clock()) - self._started

    def _kept(self) -> NDArray[np.float32]:
        return self._milliseconds[: min(self._answered, FRAMES_KEPT)]

    def _stage_percentiles(self) -> dict[str, StagePercentiles]:
        kept = self._kept()
        found = {}
        for column, stage in enumerate(STAGES):
            values = kept[:, column]
            values = values[~np.isnan(values)]
            if len(values):
                found[stage] = StagePercentiles(*(float(p) for p in np.percentile(values, (50, 95, 99))))
        return found

    def _total_percentiles(self) -> Percentiles | None:
        totals = self._kept()[:, -1]
        return Percentiles(*(float(p) for p in np.percentile(totals, (50, 95, 99)))) if len(totals) else None

    def _top_labels(self) -> dict[str, TopLabel]:
        found = {}
        for task, tops in self._tops.items():
            label, (count, total) = max(tops.items(), key=lambda item: (item[1][0], item[1][1]))
            found[task] = TopLabel(label, total / count, count / self._answered)
        return found
