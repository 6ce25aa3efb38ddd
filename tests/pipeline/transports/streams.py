"""Real transports for tests: a server that answers at once, an edge that remembers what it was told."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.transports import (
    ClientKeys,
    EdgeTransport,
    LinkModel,
    ServerKeys,
    ServerTransport,
    SessionHandle,
    connect,
    listen,
)
from pipeline.transports.access import ClientAccess, ServerAccess
from pipeline.transports.keys import generate
from pipeline.wire import EdgeSession, ServerSession, SessionDirectory, StageMarks
from pipeline.wire.events import EdgeEvent, FrameReceived, ServerEvent
from tests.pipeline.wire.pairs import CODEC_ID, RESULTS, make_offer

PATIENCE_S = 20.0
"""How long a test waits for what must happen; far above what it takes."""

EventT = TypeVar("EventT")


class AnsweringServer:
    """A server whose engine takes no time. `answering=False` only collects."""

    def __init__(
        self,
        url: str = "tcp://127.0.0.1:0",
        *,
        keys: ServerKeys | None = None,
        directory: SessionDirectory | None = None,
        answering: bool = True,
        access: ServerAccess | None = None,
    ) -> None:
        self.events: list[tuple[SessionHandle, ServerEvent]] = []
        self.answering = answering
        self.directory = make_directory() if directory is None else directory
        self.transport: ServerTransport = listen(url, self.directory, self._on_event, keys=keys, access=access)

    @property
    def url(self) -> str:
        return self.transport.url

    def __enter__(self) -> AnsweringServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.transport.close()

    def _on_event(self, handle: SessionHandle, event: ServerEvent) -> None:
        self.events.append((handle, event))
        if self.answering and isinstance(event, FrameReceived):
            handle.call(lambda session, now: session.answer(event.frame, RESULTS, [1, 2, 3, 4, 5], now))


class StreamingEdge:
    """An edge; `send` captures and offers one frame, `wait` blocks until a condition holds."""

    def __init__(
        self,
        url: str,
        *,
        keys: ClientKeys | None = None,
        link: LinkModel | None = None,
        access: ClientAccess | None = None,
        **session: Any,
    ) -> None:
        self.session = EdgeSession(**{"codec_id": CODEC_ID, "budget_ms": 10_000, **session})
        self.events: list[EdgeEvent] = []
        self._changed = threading.Condition()
        self._next = 0
        self.transport: EdgeTransport = connect(url, self.session, self._on_event, keys=keys, link=link, access=access)

    def __enter__(self) -> StreamingEdge:
        return self

    def __exit__(self, *error: object) -> None:
        self.transport.close()

    def _on_event(self, event: EdgeEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def send(self, payload: bytes = b"x" * 5000) -> int:
        frame, self._next = self._next, self._next + 1

        def offer(session: EdgeSession, now: float) -> None:
            session.capture(frame, now)
            session.offer(frame, payload, StageMarks(now, now, now, now, now), now)

        self.transport.call(offer)
        return frame

    def of(self, kind: type[EventT]) -> list[EventT]:
        return [event for event in list(self.events) if isinstance(event, kind)]

    def wait(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_S
        with self._changed:
            while not done():
                left = until - time.monotonic()
                assert left > 0, f"waited in vain; events: {self.events[-10:]}"
                self._changed.wait(min(left, 0.05))

    def wait_for(self, kind: type[EventT], count: int = 1) -> list[EventT]:
        self.wait(lambda: len(self.of(kind)) >= count)
        return self.of(kind)


def make_directory(**options: Any) -> SessionDirectory:
    return SessionDirectory(lambda peer: ServerSession(make_offer(), random=os.urandom), **options)


def make_keys() -> tuple[ServerKeys, ClientKeys]:
    """Keys of a server and of a client that it knows."""
    (server_public, server_secret), (client_public, client_secret) = generate(), generate()
    return (
        ServerKeys(server_public, server_secret, frozenset({client_public})),
        ClientKeys(client_public, client_secret, server_public),
    )


def eventually(done: Callable[[], bool]) -> None:
    """Wait for another thread, without guessing how long it takes."""
    until = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not done():
        assert time.monotonic() < until, "waited in vain"
        pause.wait(0.005)
