"""An edge and a server session back to back, on a virtual clock, without a transport."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pipeline.clock import VirtualClock
from pipeline.wire import CreditPolicy, EdgeSession, Outgoing, ServerOffer, ServerSession, StageMarks
from pipeline.wire.events import EdgeEvent, FrameReceived, JpegReceived, ServerEvent
from pipeline.wire.messages import Label, TaskInfo, TaskResult
from pipeline.wire.states import OPEN

CODEC_ID = "c" * 64
RESULTS = [TaskResult("imagenet1k", [Label(340, "zebra", 0.75)])]
TASKS = (TaskInfo("imagenet1k", "lite0", 1000),)

EventT = TypeVar("EventT")


def resolve(tasks: Sequence[str], backbone: str) -> tuple[str, tuple[TaskInfo, ...]]:
    return backbone or "lite0", TASKS


def make_offer(**changes: Any) -> ServerOffer:
    return ServerOffer(**{"codec_id": CODEC_ID, "bundle_id": "b" * 64, "resolve_tasks": resolve, **changes})


def seeded_bytes(seed: int = 0) -> Callable[[int], bytes]:
    """The sessions' source of ids and tokens, the same in every run."""
    return random.Random(seed).randbytes


class Pair:
    """Messages move when `flow` is called; `keep` may hold some back. Frames are answered by the test."""

    def __init__(
        self, *, edge: dict[str, Any] | None = None, offer: ServerOffer | None = None, window: int = 4
    ) -> None:
        self.clock = VirtualClock(100.0)
        self.offer = offer or make_offer()
        self.edge = EdgeSession(**{"codec_id": CODEC_ID, "client": "test", **(edge or {})})
        self.server = self.new_server(window)
        self.edge_events: list[EdgeEvent] = []
        self.server_events: list[ServerEvent] = []
        self.keep: Callable[[Outgoing], bool] = lambda outgoing: True
        self.sent_up: deque[Outgoing] = deque()
        self.sent_down: deque[Outgoing] = deque()
        self._next = 0

    def new_server(self, window: int = 4) -> ServerSession:
        return ServerSession(self.offer, random=seeded_bytes(), credit=CreditPolicy(window))

    @property
    def now(self) -> float:
        return self.clock()

    def connect(self) -> None:
        """Connection up, Hello and Welcome exchanged."""
        if self.server.state == "waiting":
            self.server.connected(self.now)
        self.edge.connected(self.now)
        self.flow()

    def open(self) -> Pair:
        self.connect()
        assert (self.edge.state, self.server.state) == (OPEN, OPEN)
        return self

    def flow(self) -> None:
        """Move messages until both are silent."""
        moved = True
        while moved:
            moved = False
            while (outgoing := self.edge.poll_send(self.now)) is not None:
                self.sent_up.append(outgoing)
                moved = True
                if self.keep(outgoing):
                    self.server.receive_data(outgoing.data, self.now)
            while (outgoing := self.server.poll_send(self.now)) is not None:
                self.sent_down.append(outgoing)
                moved = True
                if self.keep(outgoing):
                    self.edge.receive_data(outgoing.data, self.now)
            self._events()

    def _events(self) -> None:
        while (edge_event := self.edge.next_event()) is not None:
            self.edge_events.append(edge_event)
        while (server_event := self.server.next_event()) is not None:
            self.server_events.append(server_event)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with timers and messages as they come due."""
        until = self.now + seconds
        while True:
            times = [at for at in (self.edge.timer_at(), self.server.timer_at()) if at is not None]
            at = min([*times, until])
            self.clock.advance(max(0.0, at - self.now))
            self.edge.timer(self.now)
            self.server.timer(self.now)
            self.flow()
            if self.now >= until:
                return

    def capture(self, payload: bytes = b"bitstream", *, ago: float = 0.0, **options: Any) -> int:
        """Capture and offer a frame; returns its number."""
        frame, self._next = self._next, self._next + 1
        at = self.now - ago
        self.edge.capture(frame, at)
        self.edge.offer(frame, payload, StageMarks(at, at, at, at, self.now), self.now, **options)
        return frame

    def answer(self, frame: int, stages_us: Sequence[int] = (0, 0, 0, 0, 0)) -> bool:
        return self.server.answer(frame, RESULTS, list(stages_us), self.now, decoded_layers=8, layers=8, batch=1)

    def received(self) -> list[int]:
        """Frames that the server session handed out."""
        return [event.frame for event in self.server_events if isinstance(event, FrameReceived | JpegReceived)]

    def of(self, kind: type[EventT]) -> list[EventT]:
        """Events of a kind, on either side."""
        return [event for event in [*self.edge_events, *self.server_events] if isinstance(event, kind)]
