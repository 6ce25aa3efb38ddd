"""What the server knows about a session and about one frame on its way through it.

A frame is decoded once and computed by every backbone that its session's tasks name; the last one to finish answers.
Every FrameWork ends exactly once, in `answer` or `drop`; the session makes sure of that on its side too.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import limits
from pipeline.codec import Reference, ReferenceId
from pipeline.wire import ServerSession
from pipeline.wire.messages import TaskInfo, TaskResult

REFERENCES_KEPT = limits.REFERENCE_WINDOW + limits.CREDIT_FRAMES
"""Decoded latents kept per session: an edge refers to one of the last REFERENCE_WINDOW that it knows of, and up to
CREDIT_FRAMES more may have been decoded since."""


class Handle(Protocol):
    """A session as its transport hands it out: `call` runs a function on the transport's thread."""

    @property
    def id(self) -> str: ...

    def call(self, fn: Callable[[ServerSession, float], None]) -> None: ...


class SessionState:
    """One session as the decoder and engine threads see it. Thread-safe."""

    def __init__(self, session_id: str, reference_epoch: int) -> None:
        self.session_id = session_id
        self.reference_epoch = reference_epoch
        self.tasks: tuple[TaskInfo, ...] = ()
        self.wanted: tuple[str, ...] = ()
        """What the edge asked for; empty: all tasks of its backbone, those to come included."""
        self.top_k = 1
        self.transport = ""
        self._lock = threading.Lock()
        self._references: OrderedDict[ReferenceId, Reference] = OrderedDict()
        self._under_way: dict[int, FrameWork] = {}

    def begin(self, work: FrameWork) -> None:
        """A frame came in."""
        with self._lock:
            self._under_way[work.frame] = work

    def end(self, frame: int) -> FrameWork | None:
        """The frame has ended; returns its work if it was under way."""
        with self._lock:
            return self._under_way.pop(frame, None)

    @property
    def under_way(self) -> int:
        """Frames between receipt and answer."""
        return len(self._under_way)

    def references(self) -> dict[ReferenceId, Reference]:
        """What a bitstream may refer to now."""
        with self._lock:
            return dict(self._references)

    def remember(self, reference: Reference) -> None:
        """A frame was decoded."""
        with self._lock:
            self._references[reference.id] = reference
            while len(self._references) > REFERENCES_KEPT:
                self._references.popitem(last=False)


class Outcome(Protocol):
    """Where a frame's end is reported to, for metrics."""

    def answered(self, work: FrameWork, stages_s: Sequence[float]) -> None: ...

    def dropped(self, work: FrameWork, cause: str) -> None: ...


@dataclass(eq=False)
class FrameWork:
    """One frame between receipt and answer. Times are monotonic seconds of this machine."""

    handle: Handle
    session: SessionState
    frame: int
    kind: Literal["latent", "picture"]
    payload: bytes
    received_at: float
    deadline: float | None
    outcome: Outcome
    tasks: tuple[TaskInfo, ...]
    top_k: int
    decode_s: float = 0.0
    decoded_layers: int = 0
    layers: int = 0
    operating_point: int = 0
    batch: int = 0
    """Frames that it was computed with; 0: not computed."""
    detail: str = ""
    """Why it was dropped, for people."""
    standalone_bytes: float | None = None
    """What the frame would take without its reference, for the drift metric; None: not estimated for this one."""
    array_CHW: NDArray[np.float32] | None = None
    """Dequantised latent (C, H, W), or RGB in [0, 1] (3, S, S)."""
    _results: dict[int, TaskResult] = field(default_factory=dict)
    _pending: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: bool = False

    def __post_init__(self) -> None:
        self._pending = {task.backbone for task in self.tasks}

    @property
    def over(self) -> bool:
        """Whether it has ended already: nothing is to be done for it any more."""
        return self._over

    @property
    def backbones(self) -> list[str]:
        """Tags of the backbones that its tasks name, in that order."""
        return list(dict.fromkeys(task.backbone for task in self.tasks))

    @property
    def answers(self) -> list[tuple[TaskInfo, TaskResult]]:
        """Its tasks with what was answered so far."""
        return [(self.tasks[place], result) for place, result in sorted(self._results.items())]

    def wanted(self, backbone: str) -> list[str]:
        """The tasks asked of one backbone, by their heads' names."""
        return [head_name(task) for task in self.tasks if task.backbone == backbone]

    def finish(
        self,
        backbone: str,
        results: Sequence[TaskResult],
        *,
        synthesis_s: float,
        tail_s: float,
        heads_s: float,
        batch: int,
        now: float,
    ) -> None:
        """One backbone is done. The last one answers the frame, with its own stages."""
        places = [place for place, task in enumerate(self.tasks) if task.backbone == backbone]
        with self._lock:
            for place, result in zip(places, results, strict=True):
                self._results[place] = TaskResult(self.tasks[place].name, result.labels, result.error)
            self._pending.discard(backbone)
            if self._pending or self._over:
                return
            self._over = True
        computed_s = self.decode_s + synthesis_s + tail_s + heads_s
        waited_s = max(0.0, now - self.received_at - computed_s)
        stages_s = (self.decode_s, waited_s, synthesis_s, tail_s, heads_s)
        self._answer(stages_s, batch)

    def drop(self, cause: str, detail: str) -> None:
        """Give the frame up, unless it has ended already."""
        with self._lock:
            if self._over:
                return
            self._over = True
        frame, decoded, self.detail = self.frame, self.decoded_layers, detail
        self._leave()
        self.outcome.dropped(self, cause)
        self.handle.call(lambda session, now: _drop(session, frame, cause, detail, now, decoded))

    def cancel(self, cause: str) -> None:
        """The session ended the frame itself."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self._leave()
        self.outcome.dropped(self, cause)

    def _answer(self, stages_s: Sequence[float], batch: int) -> None:
        results = [self._results[place] for place in range(len(self.tasks))]
        stages_us = [round(stage * 1e6) for stage in stages_s]
        frame, decoded, layers, self.batch = self.frame, self.decoded_layers, self.layers, batch

        def answer(session: ServerSession, now: float) -> None:
            session.answer(frame, results, stages_us, now, decoded_layers=decoded, layers=layers, batch=batch)

        self._leave()
        self.outcome.answered(self, stages_s)
        self.handle.call(answer)

    def _leave(self) -> None:
        self.array_CHW = None
        self.session.end(self.frame)


def head_name(task: TaskInfo) -> str:
    """Name of the head behind a task: a session that asks for a task on two backbones sees it as `task@backbone`."""
    return task.name.partition("@")[0]


def _drop(session: ServerSession, frame: int, cause: str, detail: str, now: float, decoded_layers: int) -> None:
    session.drop(frame, cause, detail, now, decoded_layers=decoded_layers)
