"""A transport without a network: one thread that pumps a real EdgeSession against a real ServerSession."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Sequence

from pipeline.clock import Clock, monotonic
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.events import EdgeEvent, FrameReceived, JpegReceived, ServerEvent
from pipeline.wire.messages import Label, TaskInfo, TaskResult
from pipeline.wire.server_session import ServerOffer, ServerSession

Answer = Callable[[ServerSession, FrameReceived | JpegReceived, float], None]
"""What the server does with a frame."""


def zebra(session: ServerSession, event: FrameReceived | JpegReceived, now: float) -> None:
    """Answers at once: it is a zebra, and the other task has no label."""
    tasks = [TaskResult("imagenet1k", [Label(340, "zebra", 0.9)]), TaskResult("food101", [], "head gave NaN")]
    session.answer(event.frame, tasks, [100, 200, 300, 400, 500], now, decoded_layers=8, layers=8, batch=1)


def resolve(tasks: Sequence[str], backbone: str) -> tuple[str, tuple[TaskInfo, ...]]:
    return backbone or "lite0", (TaskInfo("imagenet1k", "lite0", 1000), TaskInfo("food101", "lite0", 101))


class Loopback:
    """EdgeTransport and server in one. `cut` and `mend` from a test break the connection and bring it back."""

    def __init__(
        self,
        session: EdgeSession,
        on_event: Callable[[EdgeEvent], None],
        *,
        codec_id: str = "codec",
        answer: Answer = zebra,
        clock: Clock = monotonic,
    ) -> None:
        seeded = random.Random(0)
        self._edge = session
        self._offer = ServerOffer(codec_id, "bundle", resolve, "loopback")
        self._random = seeded.randbytes
        self._server = ServerSession(self._offer, random=self._random)
        self._on_event = on_event
        self._answer = answer
        self._clock = clock
        self._calls: queue.Queue[Callable[[EdgeSession, float], None] | None] = queue.Queue()
        self._up = False
        self._thread = threading.Thread(target=self._run, name="loopback", daemon=True)
        self._calls.put(lambda edge, now: self._connect(now))
        self._thread.start()

    def call(self, function: Callable[[EdgeSession, float], None]) -> None:
        self._calls.put(function)

    def close(self, timeout: float) -> None:
        self._calls.put(lambda edge, now: edge.stop(now))
        self._calls.put(None)
        self._thread.join(timeout)

    def cut(self) -> None:
        """The connection breaks."""
        self.call(lambda edge, now: self._disconnect(now))

    def mend(self) -> None:
        """The connection is back."""
        self.call(lambda edge, now: self._connect(now))

    def _connect(self, now: float) -> None:
        self._up = True
        self._server.connected(now)
        self._edge.connected(now)

    def _disconnect(self, now: float) -> None:
        self._up = False
        self._edge.disconnected("cut", now)
        self._server.disconnected("cut", now)

    def _run(self) -> None:
        running = True
        while running:
            try:
                call = self._calls.get(timeout=0.005)
                if call is None:
                    running = False
                else:
                    call(self._edge, self._clock())
            except queue.Empty:
                pass
            self._pump()

    def _pump(self) -> None:
        busy = True
        while busy:
            now = self._clock()
            self._edge.timer(now)
            self._server.timer(now)
            busy = False
            while self._up and (out := self._edge.poll_send(now)) is not None:
                busy = True
                self._server.receive_data(out.data, now)
            while (event := self._server.next_event()) is not None:
                busy = True
                self._serve(event, now)
            while self._up and (out := self._server.poll_send(now)) is not None:
                busy = True
                self._edge.receive_data(out.data, now)
            while (edge_event := self._edge.next_event()) is not None:
                busy = True
                self._on_event(edge_event)

    def _serve(self, event: ServerEvent, now: float) -> None:
        if isinstance(event, FrameReceived | JpegReceived):
            self._answer(self._server, event, now)
