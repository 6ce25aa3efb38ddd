"""What the server does right now: rates, stages, sessions, tasks and engines of the last seconds, in bounded memory.

Prometheus keeps history; this answers `GET /api/v1/sessions`, `GET /api/v1/events` and `frankenstream top`. A frame
costs a few additions here; percentiles are taken only when somebody looks.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import limits
from pipeline.clock import Clock, monotonic
from pipeline.stages import SERVER_STAGES

WINDOW_S = 10
"""Seconds that the figures cover."""
FRAMES_KEPT = 4_096
SESSION_FRAMES_KEPT = 256
RECOGNISED_TASKS_MAX = 8
"""Tasks of a session whose last answer the figures tell."""

Recognised = tuple[str, str, float]
"""(task, its label on top, score)"""


class Rates:
    """Sums of a few quantities over the last WINDOW_S whole seconds, in one slot a second."""

    __slots__ = ("_seconds", "_slots", "_width")

    def __init__(self, width: int) -> None:
        self._width = width
        self._seconds = [-1] * (WINDOW_S + 1)
        self._slots = [[0.0] * width for _ in range(WINDOW_S + 1)]

    def slot(self, now: float) -> list[float]:
        """The sums of this second, to be added to."""
        second = int(now)
        place = second % (WINDOW_S + 1)
        if self._seconds[place] != second:
            self._seconds[place] = second
            self._slots[place] = [0.0] * self._width
        return self._slots[place]

    def sums(self, now: float) -> list[float]:
        """Of the seconds before this one, so that a second that has just begun does not pull rates down."""
        second = int(now)
        kept = [slot for at, slot in zip(self._seconds, self._slots, strict=True) if second - WINDOW_S <= at < second]
        return [sum(column) for column in zip(*kept, strict=True)] if kept else [0.0] * self._width


class _SessionFigures:
    __slots__ = ("rates", "recognised", "since", "took_s")

    def __init__(self, since: float) -> None:
        self.since = since
        self.recognised: dict[str, tuple[str, float, float]] = {}  # task: label, score, when
        self.rates = Rates(4)  # received, answered, dropped, payload bytes
        self.took_s: deque[tuple[float, float]] = deque(maxlen=SESSION_FRAMES_KEPT)


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    cpu_s: float
    tasks: dict[tuple[str, str], int]


class Watch:
    """Rolling figures of one server. Thread-safe."""

    def __init__(self, clock: Clock = monotonic) -> None:
        self._clock = clock
        self._started_at = clock()
        self._lock = threading.Lock()
        self._rates = Rates(4)
        self._sessions: dict[str, _SessionFigures] = {}
        self._answered: deque[tuple[float, Sequence[float]]] = deque(maxlen=FRAMES_KEPT)
        self._causes: dict[str, Rates] = {}
        self._engines: dict[str, Rates] = {}  # busy seconds, frames, batches, seconds of heads
        self._tasks: Counter[tuple[str, str]] = Counter()
        self._samples: deque[_Sample] = deque(maxlen=WINDOW_S + 1)
        self._sample(self._started_at)

    # --- What happens -----------------------------------------------------------------------------------------

    def received(self, session: str, payload_bytes: int) -> None:
        """A frame came in."""
        now = self._clock()
        with self._lock:
            figures = self._session(session)
            for slot in (self._rates.slot(now), figures.rates.slot(now)):
                slot[0] += 1
                slot[3] += payload_bytes
            if now - self._samples[-1].at >= 1.0:
                self._sample(now)

    def answered(
        self,
        session: str,
        stages_s: Sequence[float],
        tasks: Sequence[tuple[str, str]],
        recognised: Sequence[Recognised] = (),
    ) -> None:
        """A frame was answered; `stages_s` in the order of SERVER_STAGES, `tasks` as (task, backbone)."""
        now = self._clock()
        with self._lock:
            figures = self._session(session)
            self._rates.slot(now)[1] += 1
            figures.rates.slot(now)[1] += 1
            figures.took_s.append((now, sum(stages_s)))
            self._answered.append((now, stages_s))
            self._tasks.update(tasks)
            for task, label, score in recognised:
                figures.recognised[task] = label, score, now
            while len(figures.recognised) > limits.TASKS_PER_SESSION_MAX:  # it asks for other tasks now and then
                del figures.recognised[min(figures.recognised, key=lambda task: figures.recognised[task][2])]

    def dropped(self, session: str, cause: str) -> None:
        """A frame was given up."""
        now = self._clock()
        with self._lock:
            self._rates.slot(now)[2] += 1
            self._session(session).rates.slot(now)[2] += 1
            self._of(self._causes, cause, 1).slot(now)[0] += 1

    def batch(self, backbone: str, size: int, seconds: float, heads_s: float) -> None:
        """An engine computed a batch, its heads included."""
        now = self._clock()
        with self._lock:
            slot = self._of(self._engines, backbone, 4).slot(now)
            slot[0] += seconds
            slot[1] += size
            slot[2] += 1
            slot[3] += heads_s

    def forget(self, session: str) -> None:
        """A session is over."""
        with self._lock:
            self._sessions.pop(session, None)

    def keep_tasks(self, served: set[tuple[str, str]]) -> None:
        """Only these (task, backbone) are served from now on."""
        with self._lock:
            self._tasks = Counter({key: self._tasks[key] for key in served})

    # --- What it comes to -------------------------------------------------------------------------------------

    def frames(self) -> dict[str, Any]:
        """Rates over the window, stages and the whole time on the server as percentiles."""
        now = self._clock()
        with self._lock:
            received, answered, dropped, payload_bytes = self._rates.sums(now)
            recent = [stages for at, stages in self._answered if at > now - WINDOW_S]
            causes = {cause: int(rates.sums(now)[0]) for cause, rates in self._causes.items()}
            span = self._span(now)
        milliseconds = np.array(recent, np.float64).reshape(len(recent), len(SERVER_STAGES)) * 1e3
        return {
            "received_fps": received / span,
            "answered_fps": answered / span,
            "dropped_fps": dropped / span,
            "payload_kbps": payload_bytes * 8 / 1e3 / span,
            "payload_bytes_mean": payload_bytes / received if received else 0.0,
            "dropped": {cause: count for cause, count in sorted(causes.items()) if count},
            "answer_ms": _percentiles(milliseconds.sum(axis=1)),
            "stages_ms": {
                stage: _percentiles(milliseconds[:, column]) for column, stage in enumerate(SERVER_STAGES)
            },
        }  # fmt: skip

    def session(self, session: str) -> dict[str, Any]:
        """Rates and server time of one session."""
        now = self._clock()
        with self._lock:
            figures = self._sessions.get(session) or _SessionFigures(now)
            received, answered, dropped, payload_bytes = figures.rates.sums(now)
            took_ms = [took * 1e3 for at, took in figures.took_s if at > now - WINDOW_S]
            span = _span(figures.since, now)
        return {
            "fps": answered / span,
            "received_fps": received / span,
            "dropped_fps": dropped / span,
            "payload_kbps": payload_bytes * 8 / 1e3 / span,
            "answer_ms": _percentiles(took_ms),
        }

    def recognised(self, session: str, tasks: Sequence[str]) -> list[dict[str, Any]]:
        """The label that each of `tasks` last had on top, its score, and how long ago; no pixel, no earlier label."""
        now = self._clock()
        with self._lock:
            figures = self._sessions.get(session)
            last = [(task, figures.recognised[task]) for task in tasks if task in figures.recognised] if figures else []
        return [
            {"task": task, "label": label, "score": round(score, 4), "age_s": round(max(0.0, now - at), 3)}
            for task, (label, score, at) in last[:RECOGNISED_TASKS_MAX]
        ]

    def engine(self, backbone: str) -> dict[str, Any]:
        """How busy one engine is, and what a frame and its heads cost there."""
        now = self._clock()
        with self._lock:
            busy_s, frames, batches, heads_s = self._of(self._engines, backbone, 4).sums(now)
            span = self._span(now)
        return {
            "busy": min(1.0, busy_s / span),
            "batch_mean": frames / batches if batches else 0.0,
            "frame_ms": busy_s / frames * 1e3 if frames else 0.0,
            "heads_ms": heads_s / frames * 1e3 if frames else 0.0,
        }

    def task_fps(self, task: str, backbone: str) -> float:
        """Answers a second."""
        now = self._clock()
        with self._lock:
            before = self._before(now)
            count = self._tasks[task, backbone] - before.tasks.get((task, backbone), 0)
        return max(0, count) / (now - before.at) if now > before.at else 0.0

    def task_counts(self) -> dict[tuple[str, str], int]:
        """Answers of each (task, backbone) so far."""
        with self._lock:
            return dict(self._tasks)

    def process(self) -> dict[str, Any]:
        """Processor and memory of the server's process."""
        now, cpu_s = self._clock(), time.process_time()
        with self._lock:
            before = self._before(now)
        share = (cpu_s - before.cpu_s) / (now - before.at) if now > before.at else 0.0
        return {"cpu_percent": 100 * share, "cores": os.cpu_count() or 1, "rss_mb": _rss_mb(),
                "up_s": now - self._started_at}  # fmt: skip

    # --- Inside, under the lock -------------------------------------------------------------------------------

    def _session(self, session: str) -> _SessionFigures:
        figures = self._sessions.get(session)
        if figures is None:
            if len(self._sessions) >= limits.SESSIONS_MAX:
                del self._sessions[next(iter(self._sessions))]  # frames of a session that is over already
            figures = self._sessions[session] = _SessionFigures(self._clock())
        return figures

    @staticmethod
    def _of(table: dict[Any, Rates], key: Any, width: int) -> Rates:
        rates = table.get(key)
        if rates is None:
            rates = table[key] = Rates(width)
        return rates

    def _sample(self, now: float) -> None:
        """Once a second: what only grows, for rates."""
        self._samples.append(_Sample(now, time.process_time(), dict(self._tasks)))

    def _before(self, now: float) -> _Sample:
        """The oldest sample of the window. Without frames there is none, and nothing to rate either: a new one."""
        if now - self._samples[-1].at > WINDOW_S:
            self._sample(now)
        return next(sample for sample in self._samples if now - sample.at <= WINDOW_S + 1)

    def _span(self, now: float) -> float:
        return _span(self._started_at, now)


def _span(since: float, now: float) -> float:
    """Seconds that sums cover: whole ones before this, fewer if it began meanwhile."""
    return float(max(1, min(WINDOW_S, int(now) - int(since))))


def _percentiles(values: Any) -> dict[str, float] | None:
    if not len(values):
        return None
    p50, p95, p99 = (round(float(value), 3) for value in np.percentile(values, (50, 95, 99)))
    return {"p50": p50, "p95": p95, "p99": p99}


def _rss_mb() -> float:
    """Resident memory of this process in MB; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError):
        return 0.0
