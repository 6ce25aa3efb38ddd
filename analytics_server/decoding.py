"""The decoder threads: bitstreams to latents and pictures to pixels, off the transports' and engines' threads.

Frames wait undecoded (a few kB each) and are decoded just ahead of the engines, so memory does not grow with sessions;
one that cannot be answered in time any more is shed before anything is spent on it. A full lane holds up the frames of
its own backbone only. The C coder and the JPEG decoder
release the interpreter lock, so threads are enough.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Set
from typing import Protocol

import structlog

from analytics_server.batcher import FairQueue, Job
from analytics_server.pictures import decode_picture
from analytics_server.work import FrameWork
from pipeline.bundle import Bundle
from pipeline.clock import Clock
from pipeline.codec import dequantise
from pipeline.errors import BitstreamError, InputError
from pipeline.preprocess import Preprocessor, PreprocessSpec

log = structlog.get_logger(__name__)

ESTIMATE_EVERY = 8
"""One latent in so many is looked at for drift: estimating its bytes takes half as long as decoding it."""
DECODE_PATIENCE_S = 0.05
"""How often a decoder thread looks again while the engines are full."""


class Lane(Protocol):
    """Where decoded frames go: one for each backbone."""

    def add(self, work: FrameWork) -> None: ...

    def can_make(self, deadline: float | None, now: float, ahead: int = 0) -> bool:
        """Whether a frame with `deadline`, after `ahead` others, would be done in time."""
        ...

    @property
    def full(self) -> bool:
        """Whether it has enough decoded frames for its next batches."""
        ...


class Decoding:
    """Decodes frames fairly between sessions and hands them to their lanes. `on_room` of a lane must call `wake`."""

    def __init__(self, bundle: Bundle, lanes: Mapping[str, Lane], *, threads: int, clock: Clock) -> None:
        self.codec = bundle.latent_codec()
        spec = bundle.edge_spec
        self._points = bundle.operating_points
        table = spec.preprocess
        self._preprocess = PreprocessSpec(size=table.size, crop=table.crop, colour=table.colour, filter=table.filter)
        self._grid = (table.size // spec.latent.stride, table.size // spec.latent.stride)
        self._layers = len(spec.latent.layers)
        self._latents = 0
        self._lanes = lanes
        self._clock = clock
        self._waiting: FairQueue[FrameWork] = FairQueue()
        self._condition = threading.Condition()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"decode-{number}", daemon=True) for number in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; frames that still wait are left to their sessions."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    @property
    def alive(self) -> bool:
        """Whether its threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def add(self, work: FrameWork) -> None:
        """A frame came in. Thread-safe."""
        with self._condition:
            self._waiting.add(Job(work.session.session_id, work.received_at, work.deadline, work))
            self._condition.notify()

    def wake(self) -> None:
        """A lane has room again."""
        with self._condition:
            self._condition.notify()

    def __len__(self) -> int:
        return len(self._waiting)

    def _run(self) -> None:
        preprocess = Preprocessor(self._preprocess)  # one for each thread: it keeps scratch memory
        while (work := self._next()) is not None:
            try:
                self._decode(work, preprocess)
            except Exception:  # a bug of ours must not end the thread: the frame is told, the log has the rest
                log.exception("decoding failed", session=work.session.session_id, frame=work.frame)
                work.drop("undecodable", "the server failed to decode this frame: see its log")

    def _next(self) -> FrameWork | None:
        with self._condition:
            while not self._stopping:
                full = {backbone for backbone, lane in self._lanes.items() if lane.full}
                job = None if len(full) == len(self._lanes) else self._waiting.take(_room_beside(full))
                if job is not None:
                    return job.work
                self._condition.wait(DECODE_PATIENCE_S if self._waiting else None)
        return None

    def _decode(self, work: FrameWork, preprocess: Preprocessor) -> None:
        now = self._clock()
        if work.over or self._shed(work, now):
            return
        decode: Callable[[FrameWork, Preprocessor], None]
        decode = self._decode_latent if work.kind == "latent" else self._decode_picture
        try:
            decode(work, preprocess)
        except (BitstreamError, InputError) as error:
            work.drop("undecodable", str(error))
            return
        work.payload = b""
        work.decode_s = self._clock() - now
        backbones = work.backbones
        if not backbones:  # a session without tasks still learns that its frames arrive
            work.finish("", [], synthesis_s=0.0, tail_s=0.0, heads_s=0.0, batch=0, now=self._clock())
        for backbone in backbones:
            self._lanes[backbone].add(work)

    def _shed(self, work: FrameWork, now: float) -> bool:
        if work.deadline is None:
            return False
        if work.deadline <= now:
            work.drop("deadline", "its time was over before it was decoded")
            return True
        if not all(self._lanes[backbone].can_make(work.deadline, now) for backbone in work.backbones):
            work.drop("shed", "the server is too busy to answer in time")
            return True
        return False

    def _decode_latent(self, work: FrameWork, preprocess: Preprocessor) -> None:
        session = work.session
        decoded = self.codec.decode(work.payload, references=session.references(), grid=self._grid)
        work.decoded_layers, work.layers = decoded.decoded_layers, decoded.layers
        work.operating_point = decoded.operating_point
        # Without a lock: that two threads may count one frame as one is of no matter.
        self._latents = (self._latents + 1) % ESTIMATE_EVERY
        if not self._latents and decoded.decoded_layers == self._layers:
            work.standalone_bytes = self.codec.estimate_bits(decoded.symbols, decoded.operating_point) / 8
        if self.codec.takes_references:
            session.remember(decoded.as_reference(epoch=session.reference_epoch, frame=work.frame))
        work.array_CHW = dequantise(decoded.symbols, self._points[decoded.operating_point])

    def _decode_picture(self, work: FrameWork, preprocess: Preprocessor) -> None:
        pixels = decode_picture(work.payload, side=self._preprocess.size)
        work.array_CHW = preprocess(pixels)[0]


def _room_beside(full: Set[str]) -> Callable[[FrameWork], bool]:
    """Whether a frame need not wait for any of the backbones that are `full`."""
    return lambda work: work.over or not any(task.backbone in full for task in work.tasks)
