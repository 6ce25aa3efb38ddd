"""What a screen shows: the newest frame, and the newest answer with its age."""

from __future__ import annotations

import threading

from edge_node.records import FrameRecord
from pipeline.frame import Frame


class LatestView:
    """Holds the newest frame and the newest answer. Thread-safe; one frame of memory."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._answer: FrameRecord | None = None

    def captured(self, frame: Frame) -> None:
        with self._changed:
            self._frame = frame
            self._changed.notify_all()

    def ended(self, record: FrameRecord) -> None:
        if record.answered and (self._answer is None or record.frame > self._answer.frame):
            self._answer = record

    def newer(self, than: int, timeout_s: float) -> tuple[Frame, FrameRecord | None] | None:
        """The newest frame, if its number is above `than` within `timeout_s`, with the newest answer."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None and self._frame.number > than, timeout_s)
            if self._frame is None or self._frame.number <= than:
                return None
            return self._frame, self._answer
