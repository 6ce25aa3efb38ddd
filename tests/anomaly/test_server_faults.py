"""Things going wrong around a server: hostile clients, failing engines and heads, signals, restarts.

In every one the other sessions go on and captured = answered + Σ dropped + in_flight holds on both sides.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_server.server import Server
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.clock import monotonic
from pipeline.errors import EngineError, TransportError
from pipeline.runtime.engine import Features, Float32, NullEngine
from pipeline.transports import ClientKeys, ServerKeys
from pipeline.transports.keys import generate
from pipeline.wire import messages
from pipeline.wire.events import Answered, Closed, Connected, Disconnected, FrameDropped
from tasks import HeadStack, TaskHead
from tests.bundles import backbone, random_bundle
from tests.streaming import PATIENCE_S, StreamingEdge, jpeg

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    only = (backbone("null", alias="", pooled_width=8, default=True),)
    return random_bundle(tmp_path_factory.mktemp("bundles") / "null", backbones=only)


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Server]:
    with Server(bundle, ["tcp://127.0.0.1:0"], engines=[NullEngine("null")]) as server:
        yield server


@pytest.fixture(scope="module")
def bystander(server: Server, bundle: Bundle) -> Iterator[StreamingEdge]:
    """An honest edge that streams while others misbehave."""
    with StreamingEdge(server.urls[0], bundle) as edge:
        edge.wait_connected()
        yield edge


@pytest.fixture(scope="module")
def bitstream(bystander: StreamingEdge) -> bytes:
    """One good frame, the same for every example."""
    return bystander.bitstream()


class Raw:
    """A client that sends any bytes it likes."""

    def __init__(self, url: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(url)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *error: object) -> None:
        self._context.destroy(linger=0)

    def send(self, *parts: bytes) -> None:
        self._socket.send_multipart(parts)

    def receive(self) -> messages.Message:
        assert self._socket.poll(PATIENCE_S * 1e3)
        return messages.decode(self._socket.recv())

    def until(self, kind: type) -> messages.Message:
        while not isinstance(message := self.receive(), kind):
            pass
        return message


def hello(bundle: Bundle, **fields: object) -> bytes:
    return messages.encode(messages.Hello(1, bundle.codec_id, **fields))  # type: ignore[arg-type]


def goes_on(bystander: StreamingEdge) -> None:
    """The honest edge is answered as if nothing had happened."""
    assert isinstance(bystander.wait_ended(bystander.send()), Answered)
    assert bystander.session.account.balanced
    assert not bystander.of((FrameDropped, Disconnected, Closed))


# --- Hostile clients -----------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes(server: Server, bundle: Bundle, bystander: StreamingEdge, junk: list[bytes]) -> None:
    """Whatever a client sends before Hello, it gets Goodbye and the others their answers."""
    with Raw(server.urls[0]) as raw:
        for data in junk:
            raw.send(data)
        goodbye = raw.until(messages.Goodbye)
        assert isinstance(goodbye, messages.Goodbye)
        assert goodbye.reason == "protocol"
    goes_on(bystander)


@given(st.binary(max_size=300))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_in_a_session(server: Server, bundle: Bundle, bystander: StreamingEdge, junk: bytes) -> None:
    """The same after Welcome: that session ends, and only that."""
    with Raw(server.urls[0]) as raw:
        raw.send(hello(bundle))
        raw.until(messages.Welcome)
        raw.send(b"\xff" + junk)
        assert isinstance(raw.until(messages.Goodbye), messages.Goodbye)
    goes_on(bystander)


@given(st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_and_flipped_messages(
    server: Server, bundle: Bundle, bystander: StreamingEdge, bitstream: bytes, data: st.DataObject
) -> None:
    """Good frames with a piece missing or a bit wrong end somehow, and only theirs."""
    whole = bytearray(messages.encode(messages.Frame(0, 0, 1_000_000, bitstream, 1)))
    cut = data.draw(st.integers(0, len(whole)))
    if data.draw(st.booleans()):
        del whole[cut:]
    elif cut < len(whole):
        whole[cut] ^= 1 << data.draw(st.integers(0, 7))
    with Raw(server.urls[0]) as raw:
        raw.send(hello(bundle))
        raw.until(messages.Welcome)
        raw.send(bytes(whole))
        reply = raw.until((messages.Result, messages.Dropped, messages.Goodbye))  # type: ignore[arg-type]
        assert reply is not None
    goes_on(bystander)


def test_frames_in_any_order(server: Server, bundle: Bundle, bystander: StreamingEdge, bitstream: bytes) -> None:
    """Reordered and doubled frames of a lossless session are computed once each; a doubled one is told again."""
    with Raw(server.urls[0]) as raw:
        raw.send(hello(bundle, lossless=True))
        raw.until(messages.Welcome)
        for place, number in enumerate((2, 0, 2, 3, 0, 1)):
            raw.send(messages.encode(messages.Frame(number, 0, 0, bitstream, min(4, place + 1))))
        answered: set[int] = set()
        while answered != {0, 1, 2, 3}:
            answered.add(raw.until(messages.Result).frame)  # type: ignore[union-attr]
        (row,) = [row for row in server.admin.session_table() if row["lossless"]]
        assert (row["received"], row["answered"], row["duplicates"]) == (4, 4, 2)
    goes_on(bystander)


def test_oversized_message(server: Server, bundle: Bundle, bystander: StreamingEdge) -> None:
    """More than MESSAGE_BYTES_MAX is cut off by the transport before it is read."""
    with Raw(server.urls[0]) as raw:
        raw.send(hello(bundle))
        raw.until(messages.Welcome)
        raw.send(bytes(limits.MESSAGE_BYTES_MAX + 1))
        goes_on(bystander)


def test_too_many_frames(server: Server, bundle: Bundle, bystander: StreamingEdge) -> None:
    """Frames beyond the credit end that session with the numbers."""
    with Raw(server.urls[0]) as raw:
        raw.send(hello(bundle))
        raw.until(messages.Welcome)
        raw.send(messages.encode(messages.Frame(0, 0, 1_000_000, b"x", 1_000)))
        goodbye = raw.until(messages.Goodbye)
        assert isinstance(goodbye, messages.Goodbye)
        assert "1000 frames were sent, credit is" in goodbye.detail
    goes_on(bystander)


def test_huge_picture(server: Server, bundle: Bundle, bystander: StreamingEdge) -> None:
    """A picture of 400 megapixels in a few kB is refused by its header."""
    data = bytearray(jpeg(16, 16))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = (20_000).to_bytes(2, "big") * 2
    with StreamingEdge(server.urls[0], bundle) as edge:
        dropped = edge.wait_ended(edge.send(bytes(data), kind="jpeg"))
        assert isinstance(dropped, FrameDropped)
        assert f"picture is 20000x20000, limit {limits.IMAGE_PIXELS_MAX} pixels" in dropped.detail
    goes_on(bystander)


def test_other_protocol_version(server: Server, bundle: Bundle) -> None:
    """An edge from the future is told both versions."""
    with Raw(server.urls[0]) as raw:
        raw.send(messages.encode(messages.Hello(9, bundle.codec_id)))
        goodbye = raw.until(messages.Goodbye)
        assert isinstance(goodbye, messages.Goodbye)
        assert (goodbye.reason, "speaks protocol version 9, this server 1" in goodbye.detail) == ("protocol", True)


# --- Engines and heads ---------------------------------------------------------------------------------------


class FailingEngine(NullEngine):
    """Raises while `broken`, and gives rows that are not finite while `nan`."""

    def __init__(self) -> None:
        super().__init__("null")
        self.broken = False
        self.nan = False

    def from_latents(self, latents_BCHW: Float32) -> Features:
        if self.broken:
            raise EngineError("out of memory on cuda:0")
        features = super().from_latents(latents_BCHW)
        return Features(np.full_like(features.pooled_BD, np.nan), 0.0, 0.0) if self.nan else features


def test_engine_that_raises(bundle: Bundle) -> None:
    """Its frames are engine_failed with the reason; the server lives on and answers when the engine works again."""
    engine = FailingEngine()
    with (
        Server(bundle, ["tcp://127.0.0.1:0"], engines=[engine]) as server,
        StreamingEdge(server.urls[0], bundle) as edge,
    ):
        edge.stream(2)
        engine.broken = True
        dropped = edge.wait_ended(edge.send())
        assert dropped == FrameDropped(2, "engine_failed", "out of memory on cuda:0")
        engine.broken = False
        assert isinstance(edge.wait_ended(edge.send()), Answered)
        assert b'frankenstream_engine_failures_total{backbone="null"} 1.0' in server.admin.metrics_text()
        assert server.admin.health()["healthy"]
        assert edge.session.account.balanced


def test_features_that_are_not_finite(bundle: Bundle) -> None:
    """A frame whose features are NaN is answered with the reason in every task; the heads stay."""
    engine = FailingEngine()
    with (
        Server(bundle, ["tcp://127.0.0.1:0"], engines=[engine]) as server,
        StreamingEdge(server.urls[0], bundle, tasks=("food101",)) as edge,
    ):
        engine.nan = True
        result = edge.wait_ended(edge.send())
        assert isinstance(result, Answered)
        assert "are not finite for this frame" in result.tasks[0].error
        engine.nan = False
        result = edge.wait_ended(edge.send())
        assert isinstance(result, Answered)
        assert result.tasks[0].labels


class BrokenHead:
    """A plugin head that raises."""

    name, backbone, kind, labels, version, title = "broken", "null", "plugin", ("a",), 1, ""

    def logits(self, pooled_BD: Float32) -> Float32:
        raise RuntimeError("no such table")


def test_head_that_fails_is_taken_out(bundle: Bundle) -> None:
    """Heads that give NaN or raise are reported by name in every result; the others go on."""
    nan = TaskHead("nan", "null", np.full((2, 8), np.inf, np.float32), np.zeros(2, np.float32), ("a", "b"))
    good = TaskHead("good", "null", np.ones((2, 8), np.float32), np.zeros(2, np.float32), ("a", "b"))
    heads = HeadStack([good, nan, BrokenHead()], backbone="null", feature_width=8)
    with Server(bundle, ["tcp://127.0.0.1:0"], engines=[NullEngine("null")]) as server:
        server.replace_heads("null", heads)
        with StreamingEdge(server.urls[0], bundle) as edge:
            for _ in range(2):
                result = edge.wait_ended(edge.send())
                assert isinstance(result, Answered)
                assert [(task.task, bool(task.labels)) for task in result.tasks] == [
                    ("good", True), ("nan", False), ("broken", False),
                ]  # fmt: skip
                assert result.tasks[1].error.startswith("head nan has weights that are not finite")
                assert "RuntimeError: no such table" in result.tasks[2].error
        errors = {row["name"]: row["error"] for row in server.admin.task_table()}
        assert not errors["good"]
        assert errors["nan"]
        assert errors["broken"]


class SlowEngine(NullEngine):
    """Computes for as long as it is told, on a signal instead of a clock."""

    def __init__(self) -> None:
        super().__init__("null")
        self.go = threading.Event()
        self.go.set()
        self.running = threading.Event()

    def from_latents(self, latents_BCHW: Float32) -> Features:
        self.running.set()
        assert self.go.wait(PATIENCE_S)
        return super().from_latents(latents_BCHW)


def test_slow_engine_sheds_and_counts(bundle: Bundle) -> None:
    """While an engine hangs, frames end at their deadlines on both sides, and nothing is held for ever."""
    engine = SlowEngine()
    with (
        Server(bundle, ["tcp://127.0.0.1:0"], engines=[engine]) as server,
        StreamingEdge(server.urls[0], bundle, budget_ms=150.0) as edge,
    ):
        edge.wait_connected()
        engine.go.clear()
        numbers = [edge.send() for _ in range(6)]
        for number in numbers:
            assert isinstance(edge.wait_ended(number), FrameDropped)
        engine.go.set()
        edge.wait(lambda: edge.session.account.in_flight == set())
        assert edge.session.account.balanced
        assert edge.session.account.answered == 0


def test_client_that_vanishes_with_frames_under_way(bundle: Bundle) -> None:
    """Its frames are given up and forgotten; the engine goes on with those of others."""
    engine = SlowEngine()
    with Server(bundle, ["tcp://127.0.0.1:0"], engines=[engine]) as server:
        engine.go.clear()
        engine.running.clear()
        with StreamingEdge(server.urls[0], bundle) as gone:
            gone.send()
            assert engine.running.wait(PATIENCE_S)
        with StreamingEdge(server.urls[0], bundle) as edge:
            number = edge.send()
            engine.go.set()
            assert isinstance(edge.wait_ended(number), Answered)
        assert all(row["in_flight"] == 0 for row in server.admin.session_table())


# --- Keys ----------------------------------------------------------------------------------------------------


def test_beyond_loopback_without_keys(bundle: Bundle) -> None:
    """Refused before anything is listened on."""
    server = Server(bundle, ["tcp://0.0.0.0:0"], engines=[NullEngine("null")])
    with pytest.raises(TransportError, match="takes keys"):
        server.start()
    assert server.state == "stopped"


def test_wrong_curve_key(bundle: Bundle) -> None:
    """A client whose key is not known gets nothing; one whose key is goes on."""
    public, secret = generate()
    good, stranger = generate(), generate()
    keys = ServerKeys(public, secret, frozenset({good[0]}))
    with Server(bundle, ["tcp://127.0.0.1:0"], engines=[NullEngine("null")], keys=keys) as server:
        refused = StreamingEdge(server.urls[0], bundle, keys=ClientKeys(*stranger, public))
        with StreamingEdge(server.urls[0], bundle, keys=ClientKeys(*good, public)) as edge:
            edge.stream(3)
            assert not refused.wait_closed().clean
        assert not refused.of(Connected)
        refused.close()


# --- Signals and restarts ------------------------------------------------------------------------------------

SERVE = """
import sys
from analytics_server import Server, configure_logging, run_until_stopped
from pipeline.bundle import Bundle
from pipeline.runtime.engine import NullEngine
configure_logging(as_json=True)
run_until_stopped(Server(Bundle.open(sys.argv[1]), [sys.argv[2]], engines=[NullEngine("null")]), drain_s=2.0)
"""


class ServerProcess:
    """A server in a process of its own, on an ipc:// URL."""

    def __init__(self, bundle: Bundle, url: str) -> None:
        command = [sys.executable, "-c", SERVE, bundle.where, url]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if '"event": "ready"' in line:
                break

    def end(self, number: int) -> int:
        """Send a signal, wait for the end; returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/server.sock"


def keep_streaming(edge: StreamingEdge, stop: threading.Event) -> threading.Thread:
    """Frames at a steady pace until told to stop, as a camera does."""

    def run() -> None:
        while not stop.wait(0.01):
            edge.send()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_sigterm_mid_stream(bundle: Bundle, url: str) -> None:
    """Goodbye with a resume token, frames under way answered, exit code 0, nothing left running."""
    server = ServerProcess(bundle, url)
    with StreamingEdge(url, bundle) as edge:
        edge.stream(5)
        stop = threading.Event()
        thread = keep_streaming(edge, stop)
        assert server.end(signal.SIGTERM) == 0
        edge.wait(lambda: bool(edge.of(Disconnected)))
        stop.set()
        thread.join()
        assert "draining" in edge.of(Disconnected)[0].reason
        assert edge.session.account.balanced
        assert not edge.of(Closed)
    assert edge.session.account.in_flight == set()


def test_server_killed_and_restarted(bundle: Bundle, url: str) -> None:
    """kill -9, start again: the edge is answered again within 3 s of the new server being up, and the counts add up."""
    server = ServerProcess(bundle, url)
    with StreamingEdge(url, bundle, budget_ms=500.0) as edge:
        edge.stream(3)
        stop = threading.Event()
        thread = keep_streaming(edge, stop)
        try:
            assert server.end(signal.SIGKILL) == -signal.SIGKILL
            answered = edge.session.account.answered
            server = ServerProcess(bundle, url)
            began = monotonic()
            edge.wait(lambda: edge.session.account.answered > answered + 3)
            took_s = monotonic() - began
        finally:
            stop.set()
            thread.join()
        assert took_s < 3.0
        assert edge.session.account.balanced
        assert server.end(signal.SIGTERM) == 0
    assert edge.session.account.in_flight == set()
    assert edge.session.account.balanced
