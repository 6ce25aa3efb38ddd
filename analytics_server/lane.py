"""One backbone's way: batcher, engine and heads, on a thread of its own.

An engine that fails costs the frames of that batch (`engine_failed`) and nothing else; a head that fails is taken out
by the stack and reported in every result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import structlog

from analytics_server.batcher import Batcher, Job
from analytics_server.work import FrameWork
from pipeline.clock import Clock
from pipeline.errors import FrankenError
from pipeline.runtime.engine import Engine, Float32
from tasks import HeadStack

log = structlog.get_logger(__name__)

DECODED_AHEAD = 2
"""Batches' worth of decoded frames that may wait for an engine."""

Observe = Callable[[str, int, float, float], None]
"""(backbone, frames in the batch, seconds, those of its heads among them)"""

OnFeatures = Callable[[str, Sequence[FrameWork], Float32], None]
"""(backbone, frames, their pooled features): for captures"""


class EngineLane:
    """Computes the frames of one backbone. `on_room` is called when decoded frames are wanted again."""

    def __init__(
        self,
        engine: Engine,
        heads: HeadStack,
        *,
        batcher: Batcher[FrameWork],
        clock: Clock,
        on_room: Callable[[], None] = lambda: None,
        observe: Observe = lambda backbone, size, seconds, heads_s: None,
    ) -> None:
        self.engine = engine
        self.heads = heads
        self.failures = 0
        """Batches that failed."""
        self._batcher = batcher
        self._clock = clock
        self.on_room = on_room
        self.on_features: OnFeatures = lambda backbone, works, pooled_BD: None
        self._observe = observe
        self._heads_s = 0.0  # of the batch that runs
        self._condition = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"engine-{engine.backbone}", daemon=True)

    @property
    def backbone(self) -> str:
        return self.engine.backbone

    @property
    def full(self) -> bool:
        """Whether enough decoded frames wait."""
        return len(self._batcher) >= DECODED_AHEAD * self._batcher.batch_size_max

    def __len__(self) -> int:
        return len(self._batcher)

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the batch that runs; frames that still wait are left to their sessions."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, work: FrameWork) -> None:
        """A decoded frame. Thread-safe."""
        now = self._clock()
        with self._condition:
            self._batcher.add(Job(work.session.session_id, now, work.deadline, work), now)
            self._condition.notify()

    def can_make(self, deadline: float | None, now: float, ahead: int = 0) -> bool:
        """See Batcher. Thread-safe."""
        with self._condition:
            return self._batcher.can_make(deadline, now, ahead)

    def frame_cost_s(self, streams: int) -> float:
        """Seconds of engine time for a frame when `streams` sessions send one each. Thread-safe."""
        size = max(1, min(streams, self._batcher.batch_size_max))
        with self._condition:
            return self._batcher.cost.p95_s(size) / size

    def replace_heads(self, heads: HeadStack) -> None:
        """Other heads from the next batch on. Thread-safe."""
        with self._condition:
            self.heads = heads

    def _run(self) -> None:
        while (decided := self._next()) is not None:
            batch, shed, heads = decided
            for job, cause in shed:
                job.work.drop(cause, f"{self.backbone} could not answer in time")
            works = [job.work for job in batch if not job.work.over]
            started = self._clock()
            done = bool(works) and self._compute(works, heads)
            with self._condition:
                now = self._clock()
                if done:
                    self._batcher.finished(len(works), started, now)
                else:
                    self._batcher.failed(now)
            self.on_room()

    def _next(
        self,
    ) -> tuple[Sequence[Job[FrameWork]], Sequence[tuple[Job[FrameWork], str]], HeadStack] | None:
        """Wait for something to do; None: stop."""
        with self._condition:
            while not self._stopping:
                now = self._clock()
                decision = self._batcher.next_batch(now)
                if decision.batch or decision.shed:
                    return decision.batch, decision.shed, self.heads
                at = self._batcher.timer_at()
                self._condition.wait(None if at is None else max(0.0, at - now))
        return None

    def _compute(self, works: list[FrameWork], heads: HeadStack) -> bool:
        """Run one batch; False if it failed. Latents and pictures of unmodified clients run one after the other."""
        started = self._clock()
        self._heads_s = 0.0
        good = True
        for kind in ("latent", "picture"):
            group = [work for work in works if work.kind == kind]
            if group:
                good &= self._compute_group(group, heads, batch=len(works))
        if good:
            self._observe(self.backbone, len(works), self._clock() - started, self._heads_s)
        return good

    def _compute_group(self, works: list[FrameWork], heads: HeadStack, *, batch: int) -> bool:
        # A session may end and take its frames along at any moment.
        pairs = [(work, array) for work in works if (array := work.array_CHW) is not None]
        works = [work for work, _ in pairs]
        if not works:
            return True
        run = self.engine.from_latents if works[0].kind == "latent" else self.engine.from_images
        try:
            features = run(np.stack([array for _, array in pairs]))
            self.on_features(self.backbone, works, features.pooled_BD)
            before_heads = self._clock()
            results = heads.top(
                features.pooled_BD, [work.top_k for work in works], [work.wanted(self.backbone) for work in works],
                feature_BFhw=features.feature_BFhw,
            )  # fmt: skip
            now = self._clock()
            self._heads_s += now - before_heads
            for work, found in zip(works, results, strict=True):
                work.finish(
                    self.backbone, found, synthesis_s=features.synthesis_s, tail_s=features.tail_s,
                    heads_s=now - before_heads, batch=batch, now=now,
                )  # fmt: skip
        except Exception as error:  # engines raise what their runtime raises; the server must go on
            self._failed(works, error)
            return False
        return True

    def _failed(self, works: Sequence[FrameWork], error: Exception) -> None:
        self.failures += 1
        line = (str(error).strip().splitlines() or [""])[0][:300]
        detail = line if isinstance(error, FrankenError) else f"{type(error).__name__}: {line}"
        log.error("engine failed", backbone=self.backbone, frames=len(works), error=detail)
        for work in works:
            work.drop("engine_failed", detail)
