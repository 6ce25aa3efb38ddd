"""Which frames are computed together, when, and which are given up: decisions only.

Pure: jobs and `now` go in, decisions come out; no clock, no thread. One Batcher belongs to one engine.

    idle engine                        starts at once with what is there
    engine that was busy when the      closes its next batch at `batch_size_max` frames, at first arrival +
    first waiting frame arrived        `batch_delay_s`, or at the earliest deadline minus the p95 cost of that size
    frame that cannot be done in time  is shed, best before anything was spent on it (`can_make`)
    sessions                           take turns: none gets more of a batch than its fair share while others wait

The cost of a batch is measured, not modelled: the last runs of that size class.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Work = TypeVar("Work")

COST_SAMPLES = 64
"""Runs of a size class that its p95 is taken from."""
PROBE_AFTER_S = 0.25
"""An engine that ran nothing for this long computes the next frame whatever its cost is thought to be, so that one slow
run does not have everything shed for ever."""


@dataclass(frozen=True, slots=True)
class Job(Generic[Work]):
    """One frame that waits for an engine. `deadline` None: no deadline, never shed."""

    session: Hashable
    arrived_at: float
    deadline: float | None
    work: Work = field(compare=False)


@dataclass(frozen=True, slots=True)
class Decision(Generic[Work]):
    """What to do now: compute `batch` (may be empty) and give up `shed`, each with its cause: deadline or shed."""

    batch: tuple[Job[Work], ...] = ()
    shed: tuple[tuple[Job[Work], str], ...] = ()


class CostModel:
    """Seconds that a batch takes, by size: measured runs in classes of powers of two.

    `p95_s` is for promises (when must a batch close to be in time?), `median_s` for giving up: a frame is refused only
    if even an ordinary run would be too late. With the p95 there, one slow run among few would shed what would have
    been answered, and keep doing so, since nothing that is shed gets measured.

    A class that never ran is scaled from the nearest one that did, in proportion to its size: an overestimate for
    larger batches, which share overheads.
    """

    def __init__(self) -> None:
        self._runs: dict[int, deque[float]] = {}
        self._p95: dict[int, float] = {}
        self._median: dict[int, float] = {}

    def record(self, size: int, seconds: float) -> None:
        """A batch of `size` frames took `seconds`."""
        wanted = _size_class(size)
        runs = self._runs.setdefault(wanted, deque(maxlen=COST_SAMPLES))
        runs.append(seconds)
        ordered = sorted(runs)
        self._p95[wanted] = ordered[math.ceil(0.95 * len(ordered)) - 1]
        self._median[wanted] = ordered[(len(ordered) - 1) // 2]

    def p95_s(self, size: int) -> float:
        """Expected worst seconds of a batch of `size`; 0 while nothing was measured."""
        return self._scaled(self._p95, size)

    def median_s(self, size: int) -> float:
        """Ordinary seconds of a batch of `size`; 0 while nothing was measured."""
        return self._scaled(self._median, size)

    def _scaled(self, figures: dict[int, float], size: int) -> float:
        if size <= 0 or not figures:
            return 0.0
        wanted = _size_class(size)
        if wanted in figures:
            return figures[wanted]
        nearest = min(figures, key=lambda known: abs(known - wanted))
        return figures[nearest] * max(1.0, wanted / nearest)


class FairQueue(Generic[Work]):
    """Jobs by session; taken in turns, oldest first within a session."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[Hashable, deque[Job[Work]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Job[Work]]:
        for jobs in self._sessions.values():
            yield from jobs

    def add(self, job: Job[Work]) -> None:
        self._sessions.setdefault(job.session, deque()).append(job)
        self._count += 1

    def take(self, fits: Callable[[Work], bool] = lambda work: True) -> Job[Work] | None:
        """The oldest job of the session whose turn it is; that session then goes to the back.

        A session whose oldest job does not fit keeps its turn, and the next one has it.
        """
        session = next((one for one, jobs in self._sessions.items() if fits(jobs[0].work)), None)
        if session is None:
            return None
        jobs = self._sessions[session]
        job = jobs.popleft()
        self._count -= 1
        if jobs:
            self._sessions.move_to_end(session)
        else:
            del self._sessions[session]
        return job

    def remove(self, unwanted: set[int]) -> None:
        """Take out the jobs whose id() is in `unwanted`."""
        for session in list(self._sessions):
            kept = deque(job for job in self._sessions[session] if id(job) not in unwanted)
            if kept:
                self._sessions[session] = kept
            else:
                del self._sessions[session]
        self._count = sum(len(jobs) for jobs in self._sessions.values())


class Batcher(Generic[Work]):
    """Forms the batches of one engine.

    Call `add` when a frame is ready, `next_batch` when the engine is free, `finished` after a run; `timer_at` says when
    to ask again although nothing happened.
    """

    def __init__(self, *, batch_size_max: int = 8, batch_delay_s: float = 0.002, cost: CostModel | None = None) -> None:
        if batch_size_max < 1 or batch_delay_s < 0:
            raise ValueError(f"batch_size_max is {batch_size_max}, batch_delay_s {batch_delay_s}: expected ≥ 1 and ≥ 0")
        self.batch_size_max = batch_size_max
        self.batch_delay_s = batch_delay_s
        self.cost = cost or CostModel()
        self.waiting: FairQueue[Work] = FairQueue()
        self._running_until: float | None = None
        self._ended_at = -math.inf
        self._start_at_once = True

    def __len__(self) -> int:
        return len(self.waiting)

    def add(self, job: Job[Work], now: float) -> None:
        """A frame is ready to be computed."""
        if not self.waiting:
            self._start_at_once = self._running_until is None
        self.waiting.add(job)

    def done_at(self, now: float, ahead: int = 0) -> float:
        """When a frame that came now would be done, by measured cost: after the running batch and those waiting.

        `ahead`: further frames that will arrive here before it.
        """
        if self._probes(now) and not self.waiting and not ahead:
            return now
        free_at = now if self._running_until is None else max(now, self._running_until)
        places = len(self.waiting) + ahead + 1
        full, rest = divmod(places, self.batch_size_max)
        return free_at + full * self.cost.median_s(self.batch_size_max) + self.cost.median_s(rest)

    def can_make(self, deadline: float | None, now: float, ahead: int = 0) -> bool:
        """Whether a frame with `deadline` would be done in time."""
        return deadline is None or self.done_at(now, ahead) <= deadline

    def next_batch(self, now: float) -> Decision[Work]:
        """For a free engine: the batch to run now, if one is due, and what is given up.

        A frame is given up if its deadline passed (`deadline`) or if a batch of it alone would end too late (`shed`).
        """
        shed = self._hopeless(now)
        if not self.waiting or not self._is_due(now):
            return Decision(shed=shed)
        batch: list[Job[Work]] = []
        while len(batch) < self.batch_size_max and (job := self.waiting.take()) is not None:
            batch.append(job)
        self._running_until = now + self.cost.median_s(len(batch))
        self._start_at_once = False
        return Decision(batch=tuple(batch), shed=shed)

    def finished(self, size: int, started_at: float, now: float) -> None:
        """The batch of `size` frames that started at `started_at` is done."""
        self.cost.record(size, now - started_at)
        self.failed(now)

    def failed(self, now: float) -> None:
        """The batch ended with an error: its time says nothing about cost."""
        self._running_until = None
        self._ended_at = now

    def timer_at(self) -> float | None:
        """When the waiting frames become due, if nothing else arrives; None: nothing waits."""
        if not self.waiting:
            return None
        if self._start_at_once or len(self.waiting) >= self.batch_size_max:
            return -math.inf
        due = min(job.arrived_at for job in self.waiting) + self.batch_delay_s
        deadline = self._earliest_deadline()
        return due if deadline is None else min(due, deadline - self.cost.p95_s(len(self.waiting)))

    def _is_due(self, now: float) -> bool:
        at = self.timer_at()
        return at is not None and at <= now

    def _earliest_deadline(self) -> float | None:
        return min((job.deadline for job in self.waiting if job.deadline is not None), default=None)

    def _probes(self, now: float) -> bool:
        return self._running_until is None and now - self._ended_at >= PROBE_AFTER_S

    def _hopeless(self, now: float) -> tuple[tuple[Job[Work], str], ...]:
        alone = 0.0 if self._probes(now) else self.cost.median_s(1)
        lost = [
            (job, "deadline" if job.deadline < now else "shed")
            for job in self.waiting
            if job.deadline is not None and job.deadline < now + alone
        ]
        if lost:
            self.waiting.remove({id(job) for job, _ in lost})
        return tuple(lost)


def _size_class(size: int) -> int:
    """1, 2, 4, 8, …: the smallest power of two that holds `size`."""
    return 1 << max(0, size - 1).bit_length()
