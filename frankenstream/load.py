"""A load generator: streams of real recorded latents against a server, more and more of them until it has enough.

    step(k)       k sessions at F frames a second for S seconds: percentiles, drops, where the time went
    find_knee     doubles k until a bound is exceeded, then halves the distance: the most streams within the bounds

The latents are those of a video, encoded once before anything is measured; each frame stands alone, which costs the
server what a reference frame costs and the wire more. Streams are live ones: what the server gives no credit for is
superseded on this side, and counts as dropped.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import msgspec
import numpy as np

from edge_node import open_source
from edge_node.node import CONNECT_TIMEOUT_S, no_welcome
from pipeline import limits
from pipeline.bundle import EdgeBundle
from pipeline.clock import monotonic
from pipeline.codec import quantise
from pipeline.errors import FrankenError, TransportError
from pipeline.runtime.encoder import FrameEncoder
from pipeline.transports import ClientKeys, EdgeTransport, connect
from pipeline.wire import EdgeSession, StageMarks
from pipeline.wire.events import Answered, Closed, Connected, Disconnected, EdgeEvent, FrameDropped

PAYLOADS = 120
"""Different frames that the streams repeat, each from a place of its own."""
EVERY = 3
"""One frame of the video in so many."""
WARM_UP_S = 1.0
"""Time at the start of a step that is not counted: sessions open, credit settles."""

PARTS: dict[str, tuple[str, ...]] = {
    "credit": ("send_wait",),
    "network": ("uplink", "downlink"),
    "decode": ("entropy_decode",),
    "queue": ("queue",),
    "compute": ("synthesis", "tail", "heads"),
}
"""Where a frame's time goes, in the words of the stages."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one number of streams. Times are milliseconds from handing a frame over to its answer."""

    streams: int
    offered_fps: float
    answered_fps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    dropped_percent: float
    causes: dict[str, int]
    parts_ms: dict[str, float]
    """Mean of each of PARTS."""
    batch_mean: float
    payload_kbps: float
    generator_cpu_percent: float
    """Processor time that the generator itself took: on the server's machine it is missing there."""

    def within(self, p95_ms: float, dropped_percent: float) -> bool:
        """Whether this is still good enough."""
        return self.answered_fps > 0 and self.p95_ms <= p95_ms and self.dropped_percent <= dropped_percent


def recorded_payloads(bundle: EdgeBundle, source: str, *, quality: str = "", count: int = PAYLOADS) -> list[bytes]:
    """Bitstreams of a video's frames. Raises FrankenError."""
    encoder, codec = FrameEncoder(bundle, provider="cpu"), bundle.latent_codec()
    index = bundle.edge_spec.operating_point_index(quality)
    point = bundle.latent_spec.operating_points[index]
    payloads = []
    for pixels, _ in islice(open_source(source), 0, count * EVERY, EVERY):
        payloads.append(codec.encode(quantise(encoder.analyse(encoder.preprocess(pixels)), point), index))
    return payloads


class _Stream:
    """One session that sends recorded frames when it is told to."""

    def __init__(
        self, url: str, codec_id: str, payloads: Sequence[bytes], *, number: int, tasks: Sequence[str],
        backbone: str, budget_ms: int, keys: ClientKeys | None,
    ) -> None:  # fmt: skip
        self.ready = threading.Event()
        self.closed = ""
        self.why_not = ""
        """Why there is no connection, as the transport said last."""
        self.answered: list[Answered] = []
        self.dropped: list[FrameDropped] = []
        self._payloads = payloads
        self._at = number * len(payloads) // 7  # each stream from another place of the video
        self._frame = 0
        self._ended: list[int] = []
        self.counted_from = 0
        session = EdgeSession(
            codec_id=codec_id, client=f"bench load {number}", tasks=tasks, backbone=backbone, budget_ms=budget_ms
        )
        self._transport: EdgeTransport = connect(url, session, self._on_event, keys=keys)

    @property
    def sent(self) -> int:
        return self._frame

    @property
    def ended(self) -> int:
        """Frames that count and have ended."""
        return sum(frame >= self.counted_from for frame in self._ended)

    def send(self) -> None:
        frame, payload = self._frame, self._payloads[(self._at + self._frame) % len(self._payloads)]
        self._frame += 1
        now = monotonic()
        marks = StageMarks(now, now, now, now, now)

        def offer(session: EdgeSession, at: float) -> None:
            session.capture(frame, now)
            session.offer(frame, payload, marks, at)

        self._transport.call(offer)

    def close(self) -> None:
        self._transport.close()

    def _on_event(self, event: EdgeEvent) -> None:
        match event:
            case Answered():
                self.answered.append(event)
                self._ended.append(event.frame)
            case FrameDropped():
                self.dropped.append(event)
                self._ended.append(event.frame)
            case Connected():
                self.ready.set()
            case Disconnected(reason):
                self.why_not = reason
            case Closed():
                self.closed = event.detail or event.reason
                self.ready.set()


class Load:
    """Runs steps against one server. Raises TransportError if it does not welcome the streams."""

    def __init__(
        self,
        url: str,
        codec_id: str,
        payloads: Sequence[bytes],
        *,
        fps: float,
        duration_s: float,
        tasks: Sequence[str] = (),
        backbone: str = "",
        budget_ms: int = limits.BUDGET_MS_DEFAULT,
        keys: ClientKeys | None = None,
    ) -> None:
        self._url = url
        self._codec_id = codec_id
        self._payloads = payloads
        self._fps = fps
        self._duration_s = duration_s
        self._budget_ms = budget_ms
        self._session = {"tasks": tuple(tasks), "backbone": backbone, "budget_ms": budget_ms, "keys": keys}

    def step(self, count: int) -> Step:
        """`count` streams for the duration."""
        streams: list[_Stream] = []
        try:
            for number in range(count):  # one by one: if one raises, those before it are closed
                stream = _Stream(self._url, self._codec_id, self._payloads, number=number, **self._session)  # type: ignore[arg-type]
                streams.append(stream)
            self._await(streams)
            took_s, cpu_s = self._send(streams)
            self._drain(streams)
        finally:
            for stream in streams:
                stream.close()
        return summarise(
            [event for one in streams for event in one.answered if event.frame >= one.counted_from],
            [event for one in streams for event in one.dropped if event.frame >= one.counted_from],
            streams=count, offered=sum(one.sent - one.counted_from for one in streams), took_s=took_s, cpu_s=cpu_s,
        )  # fmt: skip

    def _await(self, streams: Sequence[_Stream]) -> None:
        deadline = monotonic() + CONNECT_TIMEOUT_S
        for stream in streams:
            if not stream.ready.wait(max(0.0, deadline - monotonic())):
                raise no_welcome(CONNECT_TIMEOUT_S, stream.why_not)
            if stream.closed:
                raise TransportError(f"{self._url} refused a stream: {stream.closed}")

    def _send(self, streams: Sequence[_Stream]) -> tuple[float, float]:
        """Frames when they are due, phases spread over the period. (seconds that count, processor seconds in them)."""
        begin = monotonic()
        period = 1.0 / self._fps
        due = [(begin + period * number / len(streams), number) for number in range(len(streams))]
        counting_from = begin + WARM_UP_S
        ends_at = counting_from + self._duration_s
        counted_at = cpu = None
        while due[0][0] < ends_at:
            at, number = due[0]
            wait = at - monotonic()
            if wait > 0:
                time.sleep(wait)
            if counted_at is None and at >= counting_from:
                counted_at, cpu = monotonic(), time.process_time()
                for stream in streams:
                    stream.counted_from = stream.sent
            streams[number].send()
            heapq.heapreplace(due, (at + period, number))
        assert counted_at is not None
        assert cpu is not None
        return monotonic() - counted_at, time.process_time() - cpu

    def _drain(self, streams: Sequence[_Stream]) -> None:
        """Until every frame has ended: by its deadline and grace it has."""
        deadline = monotonic() + (self._budget_ms + limits.LOST_GRACE_MS) / 1e3 + 1.0
        for stream in streams:
            while stream.ended < stream.sent - stream.counted_from and monotonic() < deadline:
                time.sleep(0.01)


def summarise(
    answered: Sequence[Answered], dropped: Sequence[FrameDropped], *, streams: int, offered: int, took_s: float,
    cpu_s: float,
) -> Step:  # fmt: skip
    """One step from the ends of its frames."""
    total_ms = np.array([event.capture_to_result_ms for event in answered] or [0.0])
    p50, p95, p99 = (float(value) for value in np.percentile(total_ms, (50, 95, 99)))
    many = max(len(answered), 1)
    return Step(
        streams=streams,
        offered_fps=offered / took_s,
        answered_fps=len(answered) / took_s,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        dropped_percent=100.0 * len(dropped) / max(len(answered) + len(dropped), 1),
        causes=dict(Counter(event.cause for event in dropped).most_common()),
        parts_ms={
            part: sum(event.stages_ms[stage] for event in answered for stage in stages) / many
            for part, stages in PARTS.items()
        },
        batch_mean=sum(event.result.batch for event in answered) / many,
        payload_kbps=sum(event.payload_bytes for event in answered) * 8 / 1e3 / took_s,
        generator_cpu_percent=100.0 * cpu_s / took_s,
    )


def find_knee(
    run: Callable[[int], Step], *, streams_max: int, good: Callable[[Step], bool], on_step: Callable[[Step], None]
) -> tuple[Step | None, Step | None]:
    """(the most streams that are good, the fewest that are not): doubling, then halving the distance.

    None where there is none: the first step was bad already, or all of them were good. Stops within a tenth.
    """
    best: Step | None = None
    worst: Step | None = None
    count = 1
    while worst is None:
        step = run(count)
        on_step(step)
        if not good(step):
            worst = step
        else:
            best = step
            if count >= streams_max:
                return best, None
            count = min(2 * count, streams_max)
    while best is not None and worst.streams - best.streams > max(1, best.streams // 10):
        step = run((best.streams + worst.streams) // 2)
        on_step(step)
        best, worst = (step, worst) if good(step) else (best, step)
    return best, worst


_REASONS = {
    "waiting": "frames wait for the engine, which is the limit",
    "compute": "most of the time is computing: a faster device or a smaller backbone helps",
    "network": "most of the time is the network, or the generator itself where both run on one machine",
    "decode": "most of the time is entropy decoding: see that the C coder is in use (`frankenstream doctor`)",
}


def verdict(worst: Step | None) -> str:
    """Why it ends at this step, in words."""
    if worst is None:
        return "the bounds hold up to the streams that were asked for: ask for more with --streams"
    parts = worst.parts_ms
    groups = {
        "waiting": parts["credit"] + parts["queue"], "compute": parts["compute"], "network": parts["network"],
        "decode": parts["decode"],
    }  # fmt: skip
    total = sum(groups.values()) or 1.0
    shares = ", ".join(f"{part} {ms / total:.0%}" for part, ms in parts.items() if ms / total >= 0.005)
    line = f"at {worst.streams} streams a frame's time is {shares}: {_REASONS[max(groups, key=groups.__getitem__)]}"
    if worst.causes:
        causes = ", ".join(f"{cause} {count}" for cause, count in worst.causes.items())
        line += (
            f". Of {worst.offered_fps:.0f} frames/s that came {worst.answered_fps:.0f} were answered, "
            f"in batches of {worst.batch_mean:.1f} (dropped: {causes})"
        )
    return line


def bounds(p95_ms: float, dropped_percent: float) -> Callable[[Step], bool]:
    """What counts as good. Raises FrankenError for bounds that mean nothing."""
    if p95_ms <= 0 or not 0 <= dropped_percent < 100:
        raise FrankenError(f"bounds are {p95_ms:g} ms and {dropped_percent:g} %: expected > 0 ms and 0 to 100 %")
    return lambda step: step.within(p95_ms, dropped_percent)
