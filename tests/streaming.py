"""An edge without a camera: streams random latents to a server over real sockets and keeps what comes back."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.bundle import EdgeBundle
from pipeline.clock import monotonic
from pipeline.transports import ClientKeys, EdgeTransport, connect
from pipeline.transports.access import ClientAccess
from pipeline.transports.base import OnTraffic
from pipeline.wire import EdgeSession, StageMarks
from pipeline.wire.events import Answered, Closed, Connected, EdgeEvent, FrameDropped

PATIENCE_S = 20.0
"""How long a test waits for something that must happen; far above what it takes, even on a busy machine."""


class StreamingEdge:
    """Connects at once. `send` streams frames; `wait` blocks until a condition over its events holds."""

    def __init__(
        self,
        url: str,
        bundle: EdgeBundle,
        *,
        keys: ClientKeys | None = None,
        codec_id: str | None = None,
        access: ClientAccess | None = None,
        on_traffic: OnTraffic | None = None,
        **session: Any,
    ) -> None:
        session.setdefault("budget_ms", 10_000.0)
        self.session = EdgeSession(codec_id=bundle.codec_id if codec_id is None else codec_id, **session)
        self.codec = bundle.latent_codec()
        self.events: list[EdgeEvent] = []
        self._changed = threading.Condition()
        self._rng = np.random.default_rng(0)
        self._next = 0
        self.transport: EdgeTransport = connect(
            url, self.session, self._on_event, keys=keys, access=access, on_traffic=on_traffic
        )

    def __enter__(self) -> StreamingEdge:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.transport.close()

    def bitstream(self) -> bytes:
        """A frame of the bell shape that the test bundle's tables expect."""
        symbols = np.rint(self._rng.laplace(0, 1.0, (48, 28, 28))).astype(np.int16)
        return self.codec.encode(symbols, 1)

    def send(self, payload: bytes | None = None, *, kind: str = "bitstream") -> int:
        """Capture and offer one frame; returns its number."""
        number, self._next = self._next, self._next + 1
        data = self.bitstream() if payload is None else payload
        now = monotonic()
        marks = StageMarks(now, now, now, now, now)

        def offer(session: EdgeSession, at: float) -> None:
            session.capture(number, now)
            session.offer(number, data, marks, at, kind=kind)  # type: ignore[arg-type]

        self.transport.call(offer)
        return number

    def stream(self, frames: int) -> None:
        """Send `frames`, each after the one before has ended."""
        for _ in range(frames):
            number = self.send()
            self.wait_ended(number)

    def wait_connected(self) -> Connected:
        self.wait(lambda: bool(self.of(Connected)))
        return self.of(Connected)[0]

    def wait_ended(self, number: int) -> Answered | FrameDropped:
        """Until frame `number` has its terminal state."""

        def ends() -> list[Answered | FrameDropped]:
            return [one for one in self.of((Answered, FrameDropped)) if one.frame == number]

        self.wait(lambda: bool(ends()))
        return ends()[0]

    def wait_closed(self) -> Closed:
        self.wait(lambda: bool(self.of(Closed)))
        return self.of(Closed)[0]

    def wait(self, holds: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        with self._changed:
            assert self._changed.wait_for(holds, seconds), [type(event).__name__ for event in self.events]

    def of(self, kind: Any) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def _on_event(self, event: EdgeEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()


def jpeg(width: int = 64, height: int = 48, *, mode: str = "RGB", form: str = "JPEG") -> bytes:
    """A picture file of one colour."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new(mode, (width, height), 128 if mode == "L" else (200, 30, 30)).save(buffer, form)
    return buffer.getvalue()
