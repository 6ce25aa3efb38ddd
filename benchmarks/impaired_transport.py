"""Live streams over TCP (ZeroMQ), WebSocket and WebRTC through an impairment relay (impairment.py).

    python -m benchmarks.transport --impaired --seconds 20 --json FILE

Real frames: the tour sample through the default bundle's encoder, 30 a second, 500 ms budget, no rate control, so that
all transports carry the same. The server decodes what arrives and answers at once. `WebRTC whole` sends a frame as one
message instead of parts and parity: one lost packet costs the frame. "in time": answered of captured; latencies are
capture to result; `up` is from sending until the server has all that it waits for (give or take the clock offset's
error); `stall` is the longest time without an answer; points lost are the manifest's for so many layers (if it has
them).
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from multiprocessing.connection import Connection
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.impairment import Relay
from benchmarks.peer_process import PeerProcess
from pipeline.bundle import Bundle
from pipeline.codec.quantisation import quantise
from pipeline.runtime.encoder import FrameEncoder
from pipeline.transports import LinkModel, SessionHandle, connect, listen
from pipeline.transports.access import ClientAccess
from pipeline.wire import CreditPolicy, EdgeSession, PeerInfo, ServerOffer, ServerSession, SessionDirectory, StageMarks
from pipeline.wire.events import Answered, Closed, Connected, EdgeEvent, FrameReceived, ServerEvent
from pipeline.wire.messages import Label, TaskInfo, TaskResult

FPS = 30.0
FRAMES = 60
BUDGET_MS = 500
CREDIT_FRAMES = 12
"""So that credit (4 frames by default) is not what limits a stream of 30 a second over 150 ms each way."""
TASKS = ("imagenet1k", "food101", "cifar100", "flowers102")
RESULTS = [TaskResult(name, [Label(7, "some label", 0.5)]) for name in TASKS]
WAYS = {
    "ZeroMQ": ("tcp", True), "WebSocket": ("ws", True), "WebRTC parts": ("webrtc+http", True),
    "WebRTC whole": ("webrtc+http", False),
}  # fmt: skip
BLACKOUT_AT_S, BLACKOUT_S = 6.0, 5.0
TABLE_WIDTH = 150
"""Columns of text where no terminal says how many there are."""


@dataclass(frozen=True)
class Condition:
    """One link."""

    name: str
    model: LinkModel


def conditions(*, quick: bool) -> list[Condition]:
    """One thing changes at a time, from 50 ms and 5 Mbit/s; then a blackout."""
    base = {"rate_kbps": 5_000.0, "delay_ms": 50.0, "jitter_ms": 2.0, "queue_ms": 200.0, "seed": 1}

    def one(name: str, **changes: Any) -> Condition:
        return Condition(name, LinkModel(**{**base, **changes}))

    losses = [one(f"loss {loss:.0%}", loss=loss) for loss in (0.0, 0.01, 0.03, 0.1)]
    if quick:
        return losses
    dark = ((BLACKOUT_AT_S, 0.0), (BLACKOUT_AT_S + BLACKOUT_S, 5_000.0))
    return [
        *losses,
        *(one(f"{delay:.0f} ms, loss 1%", delay_ms=delay, loss=0.01) for delay in (10.0, 150.0)),
        *(one(f"{rate / 1000:.0f} Mbit/s, loss 1%", rate_kbps=rate, loss=0.01) for rate in (1_000.0, 20_000.0)),
        one("blackout of 5 s", steps=dark),
    ]


# --- The two ends --------------------------------------------------------------------------------------------


def decoding_server(ready: Connection, scheme: str) -> None:
    """Decodes and answers on the transport's thread. A word from the other side: says its CPU seconds."""
    bundle = Bundle.open()
    codec = bundle.latent_codec()
    infos = tuple(TaskInfo(name, "null", 1000) for name in TASKS)
    offer = ServerOffer(bundle.codec_id, "", lambda tasks, backbone: ("null", infos))

    def make_session(peer: PeerInfo) -> ServerSession:
        return ServerSession(offer, random=os.urandom, credit=CreditPolicy(CREDIT_FRAMES))

    def on_event(handle: SessionHandle, event: ServerEvent) -> None:
        if not isinstance(event, FrameReceived):
            return
        session, now = handle.session, time.monotonic()
        try:
            latent = codec.decode(event.bitstream)
        except Exception as error:
            session.drop(event.frame, "undecodable", str(error), now)
            return
        took_us = round((time.monotonic() - now) * 1e6)
        layers = latent.decoded_layers
        queue_us = round((now - event.received_at) * 1e6)
        session.answer(
            event.frame, RESULTS, [took_us, queue_us, 0, 0, 0], time.monotonic(), decoded_layers=layers,
            layers=latent.layers,
        )  # fmt: skip

    server = listen(f"{scheme}://127.0.0.1:0", SessionDirectory(make_session), on_event)
    ready.send(server.url)
    while True:
        ready.recv()
        ready.send(_cpu_s())


def payloads(count: int, quality: str = "") -> list[bytes]:
    """Bitstreams of the sample, each standing alone."""
    from edge_node.sources import open_source
    from recordings.samples import named_source

    bundle = Bundle.open()
    encoder = FrameEncoder(bundle)
    codec, spec = bundle.latent_codec(), bundle.edge_spec
    index = spec.operating_point_index(quality)
    point = bundle.latent_spec.operating_points[index]
    source = open_source(named_source("tour"))
    pictures = islice(iter(source), count)
    return [codec.encode(quantise(encoder.analyse(encoder.preprocess(pixels)), point), index) for pixels, _ in pictures]


class Live:
    """An edge that offers a frame every 1/FPS seconds, whatever becomes of the others."""

    def __init__(self, url: str, codec_id: str, frames: list[bytes], *, parts: bool) -> None:
        self.answers: list[tuple[float, Answered]] = []
        self.connections = 0
        self._frames = frames
        self._up = threading.Event()
        self.session = EdgeSession(codec_id=codec_id, budget_ms=BUDGET_MS)
        access = ClientAccess(fallback=False)
        self.transport = connect(url, self.session, self._on_event, access=access)
        if not parts:
            for route in getattr(self.transport, "_routes", ()):
                route.part_bytes = 0

    def _on_event(self, event: EdgeEvent) -> None:
        if isinstance(event, Connected):
            self.connections += 1
            self._up.set()
        elif isinstance(event, Answered):
            self.answers.append((time.monotonic(), event))
        elif isinstance(event, Closed):
            self._up.set()

    def run(self, seconds: float) -> None:
        """Wait for the connection and a calm moment, then stream."""
        if not self._up.wait(30):
            raise RuntimeError("no connection within 30 s")
        time.sleep(1.0)
        begin = time.monotonic()
        for number in range(round(seconds * FPS)):
            time.sleep(max(0.0, begin + number / FPS - time.monotonic()))
            self._offer(number)
        time.sleep(BUDGET_MS / 1e3 + 0.7)

    def _offer(self, number: int) -> None:
        now = time.monotonic()
        payload = self._frames[number % len(self._frames)]

        def offer(session: EdgeSession, at: float) -> None:
            session.capture(number, now)
            session.offer(number, payload, StageMarks(now, now, now, now, now), at)

        self.transport.call(offer)


# --- The run -------------------------------------------------------------------------------------------------


def measure(seconds: float, *, quick: bool, ways: Sequence[str] = tuple(WAYS), say: Any = print) -> dict[str, Any]:
    """These ways (of WAYS) under all conditions."""
    bundle = Bundle.open()
    frames = payloads(FRAMES)
    lost_points = bundle.edge_spec.operating_points[bundle.edge_spec.operating_point_index("")].layer_loss_points
    rows = []
    for condition in conditions(quick=quick):
        for way in ways:
            row = _stream(way, condition, frames, bundle.codec_id, seconds, lost_points)
            rows.append(row)
            say(f"{condition.name:>22}  {way:<13} {row}")
    sizes = [len(frame) for frame in frames]
    return {
        "fps": FPS, "budget_ms": BUDGET_MS, "seconds": seconds, "payload_bytes_mean": statistics.mean(sizes),
        "payload_bytes_max": max(sizes), "rows": rows,
    }  # fmt: skip


def _stream(
    way: str, condition: Condition, frames: list[bytes], codec_id: str, seconds: float, lost_points: list[float]
) -> dict[str, Any]:
    scheme, parts = WAYS[way]
    process = PeerProcess(decoding_server, scheme)
    with process as server_url, Relay(server_url, condition.model) as url:
        before, server_before = _cpu_s(), process.ask()
        edge = Live(url, codec_id, frames, parts=parts)
        edge.run(seconds)
        edge_cpu, server_cpu = _cpu_s() - before, process.ask() - server_before
        edge.transport.close(2.0)
    return {"way": way, "link": condition.name, **_figures(edge, seconds, lost_points),
            "edge_cpu_percent": round(100 * edge_cpu / seconds, 1),
            "server_cpu_percent": round(100 * server_cpu / seconds, 1)}  # fmt: skip


def _figures(edge: Live, seconds: float, lost_points: list[float]) -> dict[str, Any]:
    account = edge.session.account
    times = sorted(event.capture_to_result_ms for _, event in edge.answers)
    up = [sum(event.stages_ms[stage] for stage in ("send_wait", "uplink", "queue")) for _, event in edge.answers]
    moments = [at for at, _ in edge.answers]
    layers = [event.decoded_layers for _, event in edge.answers]
    whole = max(layers, default=0)
    losses = [lost_points[count - 1] - lost_points[whole - 1] for count in layers if count] if lost_points else []
    dropped = Counter(account.dropped)
    dropped.pop("stopped", None)
    return {
        "in_time": round(len(times) / max(1, account.entered), 4),
        **{f"p{share}_ms": round(_percentile(times, share), 1) for share in (50, 95, 99)},
        "up_p50_ms": round(statistics.median(up), 1) if up else None,
        "stall_ms": round(1e3 * max((b - a for a, b in pairwise(moments)), default=0.0)),
        "layers_mean": round(statistics.mean(layers), 2) if layers else None,
        "incomplete": round(sum(count < whole for count in layers) / max(1, len(layers)), 4),
        "points_lost_mean": round(statistics.mean(losses), 2) if losses else None,
        "dropped": dict(dropped), "connections": edge.connections,
    }  # fmt: skip


def _percentile(ordered: list[float], share: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)] if ordered else float("nan")


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def show(report: dict[str, Any]) -> None:
    """One table."""
    table = Table(
        "link", "way", "in time", "p50 ms", "p95", "p99", "up p50", "stall ms", "layers", "points lost", "dropped",
        "edge CPU", "server CPU", title=f"Live at {report['fps']:.0f}/s, {report['payload_bytes_mean']:,.0f} B a frame",
    )  # fmt: skip
    for row in report["rows"]:
        dropped = ", ".join(f"{cause} {count}" for cause, count in sorted(row["dropped"].items()))
        lost = "–" if row["points_lost_mean"] is None else f"{row['points_lost_mean']:.2f}"
        table.add_row(
            row["link"], row["way"], f"{row['in_time']:.1%}", f"{row['p50_ms']:.0f}", f"{row['p95_ms']:.0f}",
            f"{row['p99_ms']:.0f}", "–" if row["up_p50_ms"] is None else f"{row['up_p50_ms']:.0f}",
            str(row["stall_ms"]),
            str(row["layers_mean"]), lost, dropped, f"{row['edge_cpu_percent']:.0f} %",
            f"{row['server_cpu_percent']:.0f} %",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(table)
