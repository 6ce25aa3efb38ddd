"""Protocol + ZeroMQ on loopback: round trips against a raw pyzmq echo in the same run, and sustained frames/s.

    python -m benchmarks.transport --json FILE

The claim: sessions, accounting, credits and messages cost at most as much again as moving the bytes (round trip p50
≤ 2× a raw DEALER/ROUTER echo). 5 kB go up, a result of four tasks comes down. Server and edges are processes of their
own. `inline` answers on the server's transport thread (a null engine with no time of its own); `engine idle` hands the
frame to an engine thread and back; `engine busy` does so while a second edge keeps that engine thread computing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import statistics
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from rich.console import Console
from rich.table import Table

from benchmarks.peer_process import PeerProcess
from pipeline.transports import ClientKeys, EdgeTransport, ServerKeys, SessionHandle, connect, listen
from pipeline.transports.keys import generate
from pipeline.wire import CreditPolicy, EdgeSession, PeerInfo, ServerOffer, ServerSession, SessionDirectory, StageMarks
from pipeline.wire.events import Answered, Closed, Connected, EdgeEvent, FrameReceived, ServerEvent
from pipeline.wire.messages import Label, Result, TaskInfo, TaskResult, encode

PAYLOAD_BYTES = 5_000
EDGES = (1, 4, 16)
CODEC_ID = "0" * 64
TASKS = ("imagenet1k", "food101", "cifar100", "flowers102")
RESULTS = [TaskResult(name, [Label(7, "some label", 0.5)]) for name in TASKS]
INFOS = tuple(TaskInfo(name, "null", 1000) for name in TASKS)
STAGES_US = [0, 0, 0, 0, 0]

Figures = dict[str, float]


# --- Servers, each in a process of its own -------------------------------------------------------------------


def raw_echo_server(ready: Connection, curve: tuple[bytes, bytes] | None) -> None:
    """ROUTER that answers 5 kB with as many bytes as a Result has."""
    context: zmq.Context[Any] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    if curve is not None:
        router.curve_server, router.curve_publickey, router.curve_secretkey = 1, *curve
    ready.send(f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
    reply = encode(Result(0, RESULTS, 1 << 40, 1 << 40, STAGES_US, 4, 2000, 8, 8, 1))
    while True:
        peer, _ = router.recv_multipart()
        router.send_multipart([peer, reply])


def session_server(ready: Connection, keys: ServerKeys | None, engine: str, window: int) -> None:
    """The real thing with a null engine: `inline` or `thread`."""
    offer = ServerOffer(CODEC_ID, "", lambda tasks, backbone: ("null", INFOS))

    def make_session(peer: PeerInfo) -> ServerSession:
        return ServerSession(offer, random=os.urandom, credit=CreditPolicy(window))

    waiting: queue.SimpleQueue[tuple[SessionHandle, int, bool]] = queue.SimpleQueue()

    def on_event(handle: SessionHandle, event: ServerEvent) -> None:
        if isinstance(event, FrameReceived):
            if engine == "inline":
                handle.session.answer(event.frame, RESULTS, STAGES_US, time.monotonic(), decoded_layers=8, layers=8)
            else:
                waiting.put((handle, event.frame, handle.session.client == "busy"))

    server = listen("tcp://127.0.0.1:0", SessionDirectory(make_session), on_event, keys=keys)
    ready.send(server.url)
    matrix = np.ones((256, 256), np.float32)
    while True:
        handle, frame, busy = waiting.get()
        if busy:
            for _ in range(4):  # About what a small backbone keeps a core busy for, in slices as a batcher sees them.
                np.dot(matrix, matrix)
        answer_later(handle, frame)


def answer_later(handle: SessionHandle, frame: int) -> None:
    """From the engine's thread, through the transport's inbox."""
    handle.call(lambda session, now: session.answer(frame, RESULTS, STAGES_US, now))


# --- Round trips ---------------------------------------------------------------------------------------------


def raw_round_trips(url: str, count: int, curve: tuple[bytes, bytes, bytes] | None) -> list[float]:
    """Seconds of each raw echo."""
    context: zmq.Context[Any] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    if curve is not None:
        dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = curve
    dealer.connect(url)
    payload = os.urandom(PAYLOAD_BYTES)
    times = []
    for _ in range(count + count // 10):
        started = time.perf_counter()
        dealer.send(payload)
        dealer.recv()
        times.append(time.perf_counter() - started)
    context.destroy(linger=0)
    return times[count // 10 :]


class Streamer:
    """An edge that keeps `depth` frames under way, offering the next one on the transport's thread."""

    def __init__(
        self, url: str, count: float, *, depth: int = 1, keys: ClientKeys | None = None, client: str = ""
    ) -> None:
        self.times: list[float] = []
        self.done = threading.Event()
        self._count = count
        self._depth = depth
        self._next = 0
        self._payload = os.urandom(PAYLOAD_BYTES)
        self._session = EdgeSession(codec_id=CODEC_ID, client=client, lossless=depth > 1, budget_ms=10_000)
        self._ready = threading.Event()
        self._transport: EdgeTransport = connect(url, self._session, self._on_event, keys=keys)
        self._ready.set()

    def _on_event(self, event: EdgeEvent) -> None:
        if isinstance(event, Connected):
            self._ready.wait()
            for _ in range(self._depth):
                self._transport.call(self._offer)
        elif isinstance(event, Answered):
            self.times.append(event.capture_to_result_ms / 1e3)
            if len(self.times) < self._count:
                self._transport.call(self._offer)
            else:
                self.done.set()
        elif isinstance(event, Closed):
            self.done.set()

    def _offer(self, session: EdgeSession, now: float) -> None:
        frame, self._next = self._next, self._next + 1
        session.capture(frame, now)
        session.offer(frame, self._payload, StageMarks(now, now, now, now, now), now)

    def close(self) -> None:
        """Stop, without waiting for what is under way."""
        self._transport.close(1.0)


def session_round_trips(url: str, count: int, keys: ClientKeys | None = None) -> list[float]:
    """Seconds from capture to result, one frame at a time."""
    streamer = Streamer(url, count + count // 10, keys=keys)
    streamer.done.wait(60)
    streamer.close()
    return streamer.times[count // 10 :]


def edges_process(ready: Connection, url: str, edges: int, seconds: float) -> None:
    """`edges` streamers in this process; sends frames/s."""
    streamers = [Streamer(url, float("inf"), depth=4) for _ in range(edges)]
    time.sleep(0.5)
    before = sum(len(streamer.times) for streamer in streamers)
    started = time.perf_counter()
    time.sleep(seconds)
    after = sum(len(streamer.times) for streamer in streamers)
    ready.send(str((after - before) / (time.perf_counter() - started)))


def frames_per_s(url: str, edges: int, seconds: float) -> float:
    """Sustained rate of all edges together, each with four frames under way."""
    with PeerProcess(edges_process, url, edges, seconds) as rate:
        return float(rate)


def figures(times: list[float]) -> Figures:
    """p50 and p99 in milliseconds."""
    percentiles = statistics.quantiles(times, n=100)
    return {"p50_ms": round(percentiles[49] * 1e3, 4), "p99_ms": round(percentiles[98] * 1e3, 4)}


# --- The run -------------------------------------------------------------------------------------------------


def measure(count: int, seconds: float) -> dict[str, Any]:
    """All figures."""
    server_public, server_secret = generate()
    client_public, client_secret = generate()
    server_keys = ServerKeys(server_public, server_secret, frozenset({client_public}))
    client_keys = ClientKeys(client_public, client_secret, server_public)
    raw_curve = (server_public, client_public, client_secret)
    report: dict[str, Any] = {}
    # Raw and protocol take turns, so that what else this machine does disturbs both alike.
    with (
        PeerProcess(raw_echo_server, None) as raw,
        PeerProcess(session_server, None, "inline", 4) as inline,
    ):
        raw_times, times = [], []
        for _ in range(4):
            raw_times += raw_round_trips(raw, count // 4, None)
            times += session_round_trips(inline, count // 4)
        report["round_trip"], report["raw_zeromq"] = figures(times), figures(raw_times)
    with (
        PeerProcess(raw_echo_server, (server_public, server_secret)) as raw,
        PeerProcess(session_server, server_keys, "inline", 4) as inline,
    ):
        report["raw_zeromq_curve"] = figures(raw_round_trips(raw, count, raw_curve))
        report["round_trip_curve"] = figures(session_round_trips(inline, count, client_keys))
    with PeerProcess(session_server, None, "thread", 4) as threaded:
        report["engine_thread_idle"] = figures(session_round_trips(threaded, count))
        load = Streamer(threaded, float("inf"), depth=2, client="busy")
        report["engine_thread_busy"] = figures(session_round_trips(threaded, count))
        load.close()
    report["frames_per_s"] = {}
    for edges in EDGES:
        with PeerProcess(session_server, None, "inline", 4) as inline:
            report["frames_per_s"][str(edges)] = round(frames_per_s(inline, edges, seconds), 1)
    report["ratio_p50"] = round(report["round_trip"]["p50_ms"] / report["raw_zeromq"]["p50_ms"], 3)
    report["machine"] = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "zeromq": zmq.zmq_version(),
        "pyzmq": zmq.pyzmq_version(),
        "platform": platform.platform(),
        "payload_bytes": PAYLOAD_BYTES,
        "round_trips": count,
    }
    return report


def show(report: dict[str, Any]) -> None:
    """Two tables."""
    console = Console()
    table = Table("round trip, 5 kB up", "p50 ms", "p99 ms", title="ZeroMQ on loopback")
    for key, name in (
        ("raw_zeromq", "raw pyzmq echo"),
        ("round_trip", "protocol, null engine inline"),
        ("raw_zeromq_curve", "raw pyzmq echo, CURVE"),
        ("round_trip_curve", "protocol, null engine inline, CURVE"),
        ("engine_thread_idle", "protocol, engine thread idle"),
        ("engine_thread_busy", "protocol, engine thread busy"),
    ):
        table.add_row(name, f"{report[key]['p50_ms']:.3f}", f"{report[key]['p99_ms']:.3f}")
    console.print(table)
    console.print(f"protocol / raw at p50: {report['ratio_p50']:.2f} (aim ≤ 2)")
    rates = Table("edges", "frames/s", title="Sustained, null engine inline")
    for edges, rate in report["frames_per_s"].items():
        rates.add_row(edges, f"{rate:,.0f}")
    console.print(rates)


def measure_impaired(options: argparse.Namespace) -> int:
    """See impaired_transport.py."""
    from benchmarks import impaired_transport

    ways = options.ways.split(",") if options.ways else list(impaired_transport.WAYS)
    report = impaired_transport.measure(
        options.seconds, quick=options.quick, ways=ways, say=lambda line: print(line, flush=True)
    )
    impaired_transport.show(report)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benchmarks.transport", description="Round trips and rates over ZeroMQ.")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--round-trips", type=int, default=4_000, help="per row (default 4000)")
    parser.add_argument("--seconds", type=float, default=3.0, help="per rate (default 3)")
    parser.add_argument("--impaired", action="store_true", help="live streams through an impairment relay instead")
    parser.add_argument("--quick", action="store_true", help="with --impaired: only the losses")
    parser.add_argument("--ways", default="", help="with --impaired: these only, e.g. 'WebRTC parts,WebRTC whole'")
    options = parser.parse_args()
    if options.impaired:
        return measure_impaired(options)
    report = measure(options.round_trips, options.seconds)
    show(report)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
