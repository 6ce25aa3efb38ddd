"""What watching costs: metrics, live figures, drift, events, the frame log, traces; on against off, in turns.

    python -m benchmarks.overhead --json FILE

Claim: at most 1 % of the edge's and of the server's time for a frame. Both sides run what they run in life, without
sockets: the edge preprocess, analysis, entropy encode and its records; the server entropy decode, dequantise, g_s,
tail, heads and the answer. A turn with everything on follows a turn with everything off, so that whatever else the
machine does hits both; figures are medians of processor time. 1 % is little beside the noise of a shared machine, so
what is switched on is timed by itself as well (`watch_us`), in place: between two frames' networks, with cold caches,
which costs several times what the same calls cost in a loop.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analytics_server.decoding import ESTIMATE_EVERY
from analytics_server.metrics import ServerMetrics
from analytics_server.work import FrameWork, SessionState
from benchmarks.machine import pin_to_one_core, processor, rounded
from edge_node.monitor import RECORDS_WAITING, Monitor
from edge_node.records import LOG_RECORDS, FrameLog, FrameRecord, LabelScore, LinkState, link_state
from edge_node.tracing import FrameTracer
from frankenstream.load import recorded_payloads
from pipeline.bundle import Bundle, Distribution, ReferenceFigures
from pipeline.codec import dequantise, quantise
from pipeline.errors import ConfigError
from pipeline.runtime.encoder import FrameEncoder
from pipeline.runtime.engine import Engine
from pipeline.runtime.engines import build_engine
from pipeline.stages import CAPTURE_TO_RESULT
from pipeline.wire import EdgeSession
from pipeline.wire.messages import TaskInfo
from recordings.samples import sample_path
from tasks import HeadStack, bundle_heads

BATCH = 4
EDGE_FRAMES = 20
"""The edge's turns for each of the server's: a frame instead of a batch."""
TRACE_EVERY = 100
ROUND_FRAMES = math.lcm(RECORDS_WAITING, LOG_RECORDS, TRACE_EVERY)
"""Everything that an edge does now and then falls into it equally often."""

Step = Callable[[], object]


class Stopwatch:
    """Processor time of calls on this thread, each timed in place. What timing itself costs is deducted: it is timed in
    place too (`blank`), since with cold caches the clock takes microseconds.

    ``round_steps``: how many steps make a round. What is done for several frames at once (records counted and written
    thirty at a time) falls on one step of many, so a round is long enough to hold it.
    """

    def __init__(self, round_steps: int = 1) -> None:
        self._round_steps = round_steps
        self._steps_s: list[float] = [0.0]
        self._calls = 0
        self._blanks_s: list[float] = []

    def __call__(self, step: Step) -> None:
        self._steps_s[-1] += _timed(step)
        self._calls += 1

    def blank(self) -> None:
        """Where nothing is to be timed: what a call costs that does nothing."""
        self._blanks_s.append(_timed(lambda: None))

    def next_step(self) -> None:
        self._steps_s.append(0.0)

    @property
    def mean_us(self) -> float:
        """Of a step: the median of the rounds' means. The first round warms up and does not count, unless it is the
        only one.
        """
        ended = self._steps_s[:-1]
        size = min(self._round_steps, len(ended))
        means = [statistics.fmean(ended[at : at + size]) for at in range(0, len(ended) - size + 1, size)]
        own_s = statistics.median(self._blanks_s) * self._calls / len(ended) if self._blanks_s else 0.0
        return (statistics.median(means[1:] or means) - own_s) * 1e6


def _timed(step: Step) -> float:
    began = time.thread_time()
    step()
    return time.thread_time() - began


class Unwatched:
    """Counts nothing: the server with watching off."""

    def answered(self, work: FrameWork, stages_s: Sequence[float]) -> None: ...

    def dropped(self, work: FrameWork, cause: str) -> None: ...


class Timed(Unwatched):
    """Counts with `metrics` and times it."""

    def __init__(self, metrics: ServerMetrics, watch: Stopwatch) -> None:
        self._metrics = metrics
        self._watch = watch

    def answered(self, work: FrameWork, stages_s: Sequence[float]) -> None:
        self._watch(lambda: self._metrics.answered(work, stages_s))


class Nowhere:
    """A session's handle without a session: answers are built and dropped."""

    id = "bench"

    def call(self, fn: Callable[..., None]) -> None: ...


def main() -> int:
    """Run, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--bundle", type=Path, help="bundle folder or .zip; the default one if not given")
    parser.add_argument("--turns", type=int, default=60, help="turns with and without")
    arguments = parser.parse_args()
    pin_to_one_core()
    bundle = Bundle.open(arguments.bundle)
    figures = {
        "server": ServerSide(bundle).run(arguments.turns),
        "edge": edge_side(bundle, arguments.turns * EDGE_FRAMES),
        "processor": processor(),
        "turns": arguments.turns,
    }
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(rounded(figures), indent=2) + "\n")
    return 0


class ServerSide:
    """Batches of recorded frames through decoder, engine, heads and answer, with watching on and off."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.codec = bundle.latent_codec()
        self.engine: Engine = build_engine(bundle, backend="onnx", threads=1)
        self.heads = HeadStack(bundle_heads(bundle, self.engine), backbone=self.engine.backbone)
        self.tasks = tuple(TaskInfo(i.name, i.backbone, i.classes) for i in self.heads.infos())
        self.payloads = recorded_payloads(bundle, str(sample_path()), count=16)
        self.metrics = ServerMetrics(self._reference(), [point.name for point in bundle.operating_points])
        self.stopwatch = Stopwatch(ESTIMATE_EVERY // BATCH)
        self.timed, self.unwatched = Timed(self.metrics, self.stopwatch), Unwatched()
        self.session = SessionState("bench", 0)
        self.session.tasks = self.tasks
        self.at = 0

    def run(self, turns: int) -> dict[str, float]:
        off, on = in_turns([lambda: self.batch(watched=False), lambda: self.batch(watched=True)], turns)
        frame_us, watch_us = off / BATCH * 1e6, self.stopwatch.mean_us / BATCH
        return {
            "frame_us": frame_us,
            "on_over_off": on / off,
            "watch_us": watch_us,
            "watch_percent": 100 * watch_us / frame_us,
        }

    def batch(self, *, watched: bool) -> None:
        """BATCH frames, as lane and decoder do it."""
        works = []
        for _ in range(BATCH):
            payload = self.payloads[self.at % len(self.payloads)]
            self.at += 1
            if watched:
                self.stopwatch(lambda: self.metrics.received("latent", 4_000, "bench"))
            work = self.work(self.timed if watched else self.unwatched)
            self.decode(work, payload, watched=watched)
            works.append(work)
        features = self.engine.from_latents(np.stack([work.array_CHW for work in works if work.array_CHW is not None]))
        wanted = [work.wanted(self.engine.backbone) for work in works]
        for work, found in zip(works, self.heads.top(features.pooled_BD, 1, wanted), strict=True):
            work.finish(self.engine.backbone, found, synthesis_s=features.synthesis_s, tail_s=features.tail_s,
                        heads_s=0.0, batch=BATCH, now=time.monotonic())  # fmt: skip
        if watched:
            self.stopwatch(lambda: self.metrics.batch(self.engine.backbone, BATCH, 0.01, 0.001))
            self.stopwatch.next_step()
        else:
            self.stopwatch.blank()

    def decode(self, work: FrameWork, payload: bytes, *, watched: bool) -> None:
        decoded = self.codec.decode(payload)
        work.operating_point, work.decoded_layers = decoded.operating_point, decoded.decoded_layers

        def estimate() -> None:
            work.standalone_bytes = self.codec.estimate_bits(decoded.symbols, decoded.operating_point) / 8

        if watched and self.at // BATCH // 2 % (ESTIMATE_EVERY // BATCH) == 0 and self.at % BATCH == 0:
            self.stopwatch(estimate)
        work.array_CHW = dequantise(decoded.symbols, self.bundle.operating_points[decoded.operating_point])

    def work(self, outcome: Unwatched) -> FrameWork:
        return FrameWork(
            handle=Nowhere(), session=self.session, frame=self.at, kind="latent", payload=b"",
            received_at=time.monotonic(), deadline=None, outcome=outcome, tasks=self.tasks, top_k=1,
        )  # fmt: skip

    def _reference(self) -> ReferenceFigures:
        """That of the bundle, or one in its place."""
        tenths = Distribution(edges=[n / 10 for n in range(1, 10)], shares=[0.1] * 10)
        confidence = {self.engine.backbone: {info.name: tenths for info in self.heads.infos()}}
        payload = {point.name: tenths for point in self.bundle.operating_points}
        made = ReferenceFigures(photos="bench", count=1, payload_bytes=payload, confidence=confidence)
        return self.bundle.manifest.reference or made


def edge_side(bundle: Bundle, turns: int) -> dict[str, float]:
    """Encoding a frame, with and without monitor, log and traces."""
    from edge_node import open_source

    encoder, codec = FrameEncoder(bundle, provider="cpu"), bundle.latent_codec()
    index = bundle.edge_spec.operating_point_index()
    point = bundle.operating_points[index]
    pixels = next(iter(open_source(str(sample_path()))))[0]
    session = EdgeSession(codec_id=bundle.codec_id)
    monitor, stopwatch = Monitor(), Stopwatch(ROUND_FRAMES)
    number = 0

    def encode() -> None:
        codec.encode(quantise(encoder.analyse(encoder.preprocess(pixels)), point), index)

    with tempfile.TemporaryDirectory() as folder, FrameLog(Path(folder) / "frames.jsonl") as log:
        sinks: list[Callable[[FrameRecord, LinkState], None]] = [log.write]
        tracer = _tracer()
        if tracer is not None:
            sinks.append(tracer.write)

        def unwatched() -> None:
            encode()
            stopwatch.blank()

        def watched() -> None:
            nonlocal number
            number += 1
            encode()
            record = _record(number)
            stopwatch(lambda: watch(record))
            stopwatch.next_step()

        def watch(record: FrameRecord) -> None:
            monitor.captured()
            monitor.record(record)
            link = link_state(session, input_pixels=encoder.spec.size**2)
            for sink in sinks:
                sink(record, link)

        off, on = in_turns([unwatched, watched], turns)
    frame_us, watch_us = off * 1e6, stopwatch.mean_us
    return {
        "frame_us": frame_us, "on_over_off": on / off, "watch_us": watch_us,
        "watch_percent": 100 * watch_us / frame_us, "core_percent_at_30_fps": watch_us * 30 / 1e4,
        "traced_one_in": TRACE_EVERY if tracer is not None else 0,
    }  # fmt: skip


def _tracer() -> FrameTracer | None:
    """To a collector that is away: spans are made and queued as ever. None: OpenTelemetry is not installed."""
    try:
        return FrameTracer("http://127.0.0.1:9", every=TRACE_EVERY)
    except ConfigError:
        return None


def _record(number: int) -> FrameRecord:
    stages = dict.fromkeys(CAPTURE_TO_RESULT, 1.0)
    labels = {task: [LabelScore("pizza", 0.5)] for task in ("imagenet1k", "food101", "cifar100", "flowers102")}
    return FrameRecord(
        frame=number, state="answered", captured_at=1.0, stages_ms=stages, capture_to_result_ms=12.0, tasks=labels,
        payload_bytes=4000, wire_bytes=4020, layers=8, decoded_layers=8, batch=1, clock_error_ms=0.1,
    )  # fmt: skip


def in_turns(steps: Sequence[Step], turns: int) -> list[float]:
    """Median processor seconds of each step, run in turns after a warm-up."""
    taken: list[list[float]] = [[] for _ in steps]
    for turn in range(turns + 3):
        for step, times in zip(steps, taken, strict=True):
            began = time.process_time()
            step()
            if turn >= 3:
                times.append(time.process_time() - began)
    return [statistics.median(times) for times in taken]


def show(figures: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for side in ("server", "edge"):
        found = figures[side]
        console.print(
            f"{side}: a frame {found['frame_us']:,.0f} µs, watching {found['watch_us']:.1f} µs = "
            f"[bold]{found['watch_percent']:.2f} %[/] (aim 1); on over off, in turns: {found['on_over_off']:.4f}"
        )
    console.print(f"edge at 30 frames/s: {figures['edge']['core_percent_at_30_fps']:.2f} % of a core")


if __name__ == "__main__":
    sys.exit(main())
