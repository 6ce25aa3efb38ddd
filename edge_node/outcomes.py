"""From the session's events to records: what is known of each frame under way, and the answers that may be repeated."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from edge_node.payload import Encoded
from edge_node.records import ANSWERED, UNCHANGED, FrameRecord, labels_by_task
from pipeline.frame import Frame
from pipeline.rate_control import Rung, hardly_changed
from pipeline.wire.events import Answered, FrameDropped, FrameUnchanged

ANSWERS_KEPT = 8
"""Answers that may still be repeated: that of the newest reference and a few before."""


class Outcomes:
    """Frames under way by number. The encode thread tells what it makes, the transport's thread asks for records.

    `repeat_ms`: how old an answer may be that is repeated for a frame that hardly changed; 0: none is.
    """

    def __init__(self, *, repeat_ms: int) -> None:
        self._repeat_ms = repeat_ms
        self._captured: dict[int, tuple[float, float | None]] = {}
        self._encoded: dict[int, tuple[Rung | None, Encoded]] = {}
        self._answers: OrderedDict[int, FrameRecord] = OrderedDict()

    def captured(self, number: int, captured_at: float, media_time: float | None) -> None:
        self._captured[number] = (captured_at, media_time)

    def encoded(self, number: int, rung: Rung | None, encoded: Encoded) -> None:
        """`rung`: what rate control chose, None: nothing."""
        self._encoded[number] = (rung, encoded)

    def repeats(self, frame: Frame, encoded: Encoded) -> int | None:
        """The frame whose answer holds for `frame` too: the server would compute the same once more. None: send it."""
        if not self._repeat_ms or encoded.reference is None:
            return None
        answer = self._answers.get(encoded.reference)
        if answer is None or not hardly_changed(encoded.changed_share):
            return None
        age_ms = (frame.captured_at - answer.captured_at) * 1e3
        return encoded.reference if age_ms <= self._repeat_ms else None

    def tasks_changed(self) -> None:
        """Earlier answers are answers to other questions."""
        self._answers.clear()

    def record(self, event: Answered | FrameUnchanged | FrameDropped) -> FrameRecord:
        """The frame has ended; it is forgotten here."""
        captured_at, media_time = self._captured.pop(event.frame, (0.0, None))
        rung, encoded = self._encoded.pop(event.frame, (None, None))
        record = FrameRecord(
            frame=event.frame,
            state=event.cause if isinstance(event, FrameDropped) else "",
            captured_at=captured_at,
            media_time=media_time,
            detail=event.detail if isinstance(event, FrameDropped) else "",
            reference=encoded.reference if encoded is not None else None,
            alone_bytes=encoded.alone_bytes if encoded is not None else 0,
        )
        match event:
            case FrameUnchanged():
                return self._repeated(record, event)
            case Answered():
                return self._answered(record, event, rung)
        return record

    def _answered(self, record: FrameRecord, event: Answered, rung: Rung | None) -> FrameRecord:
        labels, errors = labels_by_task(event.tasks)
        record = msgspec.structs.replace(
            record,
            state=ANSWERED,
            tasks=labels,
            task_errors=errors,
            stages_ms=event.stages_ms,
            capture_to_result_ms=event.capture_to_result_ms,
            clock_error_ms=event.clock_error_ms,
            payload_bytes=event.payload_bytes,
            wire_bytes=event.wire_bytes,
            layers=event.layers,
            decoded_layers=event.decoded_layers,
            batch=event.result.batch,
            operating_point=rung.name if rung is not None else "",
            expected_loss_points=rung.loss_with(event.decoded_layers, event.layers) if rung is not None else None,
        )
        self._answers[record.frame] = record
        if len(self._answers) > ANSWERS_KEPT:
            self._answers.popitem(last=False)
        return record

    def _repeated(self, record: FrameRecord, event: FrameUnchanged) -> FrameRecord:
        record = msgspec.structs.replace(record, state=UNCHANGED, reference=event.of)
        answer = self._answers.get(event.of)
        if answer is None:  # the tasks have changed meanwhile
            return record
        return msgspec.structs.replace(
            record,
            tasks=answer.tasks,
            task_errors=answer.task_errors,
            operating_point=answer.operating_point,
            expected_loss_points=answer.expected_loss_points,
            layers=answer.layers,
            decoded_layers=answer.decoded_layers,
            answer_age_ms=(record.captured_at - answer.captured_at) * 1e3,
        )
