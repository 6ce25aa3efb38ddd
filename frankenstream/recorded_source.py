"""A recording in the places of source and encoder of an edge node: frames come at their pace, with their bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np

from edge_node import FrameRecord
from edge_node.payload import Encoded, Kind
from pipeline.clock import Clock, monotonic
from pipeline.codec import LatentCodec
from pipeline.errors import BitstreamError
from pipeline.frame import Frame, Picture
from pipeline.rate_control import EncodeChoice
from pipeline.wire.messages import Welcome
from pipeline.wire.stage_marks import StageMarks
from recordings.replayable import Replayable

_NO_PICTURE = np.zeros((2, 2, 3), np.uint8)

Gate = Callable[[], bool]
"""Waits until the next frame may come; False: no more."""


class RecordedFrames:
    """Source and payload encoder at once (edge_node.Source, edge_node.PayloadEncoder).

    The node numbers frames from 0 as they come; `recorded` tells which frame of the recording each one is.
    """

    live = False

    def __init__(
        self,
        replayable: Replayable,
        codec: LatentCodec | None,
        *,
        input_pixels: int,
        gate: Gate = lambda: True,
        clock: Clock = monotonic,
    ) -> None:
        self.name = replayable.recording.name
        self.fps = replayable.fps
        self.kind: Kind = "jpeg" if replayable.kind == "jpeg" else "bitstream"
        self.input_pixels = input_pixels
        self.recorded: dict[int, int] = {}
        self._replayable = replayable
        self._codec = codec
        self._gate = gate
        self._clock = clock
        self._lock = threading.Lock()
        self._payloads: dict[int, bytes | BitstreamError] = {}
        self._closed = threading.Event()

    # --- Source -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Picture]:
        for number, frame in enumerate(self._replayable.frames(self._codec)):
            if self._closed.is_set() or not self._gate():
                return
            with self._lock:
                self._payloads[number] = frame.payload if frame.error is None else frame.error
            self.recorded[number] = frame.frame
            yield _NO_PICTURE, frame.time_s

    def close(self) -> None:
        self._closed.set()

    # --- Payload ----------------------------------------------------------------------------------------------

    def encode(self, frame: Frame, taken_at: float) -> Encoded:
        """The recorded bytes. Raises BitstreamError where they cannot be made to stand alone."""
        with self._lock:
            payload = self._payloads.pop(frame.number)
        if isinstance(payload, BitstreamError):
            raise payload
        return Encoded(payload, StageMarks(frame.captured_at, taken_at, taken_at, taken_at, self._clock()))

    def choose(self, choice: EncodeChoice) -> None:
        """Its bytes are what they are."""

    def opened(self, welcome: Welcome) -> None:
        """Its frames stand alone."""

    def ended(self, record: FrameRecord) -> None:
        """Frames that were superseded were never encoded."""
        with self._lock:
            self._payloads.pop(record.frame, None)

    def describe(self) -> str:
        by = self._replayable.recording.facts.encoder
        return f"as recorded ({by})" if by else "as recorded"


class OneAtATime:
    """A gate that opens for a frame when the one before has ended, so that the server computes it alone.

    `then` is asked after that; False ends the replay.
    """

    def __init__(self, then: Callable[[], bool] = lambda: True) -> None:
        self._ended = threading.Event()
        self._ended.set()
        self._stopped = False
        self._then = then

    def __call__(self) -> bool:
        self._ended.wait()
        self._ended.clear()
        return not self._stopped and self._then()

    def ended(self, record: FrameRecord) -> None:
        """A frame has ended."""
        self._ended.set()

    def stop(self) -> None:
        """Open for the last time."""
        self._stopped = True
        self._ended.set()
