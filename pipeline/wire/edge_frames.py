"""The frames of an edge session that have not ended, and the ways in which they end. Pure.

A frame is *captured* → *offered* (encoded, pending) → *sent* → ended. In live mode at most one frame is pending: a
newer one supersedes it. In lossless mode frames wait for credit in order, and those under way when a connection
breaks are sent again; the server knows them by number, so nothing is doubled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from pipeline import limits
from pipeline.accounting import FrameAccount
from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.wire import messages
from pipeline.wire.cutting import cut, parts_of
from pipeline.wire.events import EdgeEvent, FrameDropped, FrameUnchanged
from pipeline.wire.messages import Frame, FramePart, JpegFrame
from pipeline.wire.parity import PART_BYTES_MAX, parity_of
from pipeline.wire.session import NEVER, Outgoing
from pipeline.wire.stage_marks import StageMarks, micros

FrameKind = Literal["bitstream", "jpeg"]

_GRACE_S = limits.LOST_GRACE_MS / 1000.0


class EdgeFrame(msgspec.Struct):
    """A frame that has not ended yet. Times are monotonic seconds."""

    captured_at: float
    deadline: float | None
    marks: StageMarks | None = None
    """Set when the frame is offered."""
    payload: bytes = b""
    payload_bytes: int = 0
    kind: FrameKind = "bitstream"
    sent_at: float | None = None
    lost_at: float = NEVER
    wire_bytes: int = 0
    resending: bool = False
    """Lossless: sent before, and pending again."""

    @property
    def due_at(self) -> float:
        """When this frame ends by itself: too old while pending, lost while under way."""
        if self.sent_at is not None and not self.resending:
            return self.lost_at
        return NEVER if self.marks is None or self.deadline is None else self.deadline


class EdgeFrames:
    """All frames that have not ended, by number. `emit` takes the events."""

    def __init__(
        self,
        account: FrameAccount,
        emit: Callable[[EdgeEvent], None],
        *,
        lossless: bool,
        budget_s: float,
        part_bytes: int,
    ) -> None:
        self._account = account
        self._emit = emit
        self._lossless = lossless
        self._budget_s = budget_s
        self.part_bytes = part_bytes
        """Frames are split into parts of at most so many bytes; 0: not at all."""
        self._frames: dict[int, EdgeFrame] = {}
        self._pending: deque[int] = deque()
        self._captured_max = -1
        self.on_its_way: deque[Outgoing] = deque()
        """Parts of the frame that is being sent."""

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def pending(self) -> int:
        """Frames that are encoded and wait to be sent."""
        return len(self._pending)

    # --- From the node ----------------------------------------------------------------------------------------

    def capture(self, frame: int, captured_at: float) -> None:
        """Count a captured frame. Raises LocalProtocolError if its number is not larger than all before."""
        if frame <= self._captured_max:
            raise LocalProtocolError(f"frame {frame} after frame {self._captured_max}: number frames upwards")
        self._captured_max = frame
        self._account.enter(frame)
        self._frames[frame] = EdgeFrame(captured_at, None if self._lossless else captured_at + self._budget_s)

    def give_up(self, frame: int, cause: str, detail: str) -> None:
        """Drop a frame that was not sent yet."""
        record = self._frames.get(frame)
        if record is not None and record.sent_at is None:
            self.drop(frame, cause, detail)

    def repeat(self, frame: int, of: int) -> None:
        """End a frame that was not sent with the answer to frame `of`."""
        record = self._frames.get(frame)
        if record is not None and record.sent_at is None and self._account.repeat(frame):
            self._forget(frame)
            self._emit(FrameUnchanged(frame, of))

    def offer(self, frame: int, payload: bytes, marks: StageMarks, kind: FrameKind, size_max: int) -> None:
        """A frame is encoded; in live mode it supersedes the one that is pending."""
        record = self._frames.get(frame)
        if record is None:
            return  # Ended meanwhile (stopped).
        if record.marks is not None:
            raise LocalProtocolError(f"frame {frame} is offered twice")
        if len(payload) > size_max:
            self.drop(frame, "encode_failed", f"payload is {len(payload)} bytes, limit {size_max}: lower the rate")
            return
        if self._lossless and len(self._pending) >= limits.FRAMES_IN_FLIGHT_MAX:
            raise LocalProtocolError(f"{len(self._pending)} frames wait for credit: ask can_send() before offering")
        record.payload, record.payload_bytes, record.marks, record.kind = payload, len(payload), marks, kind
        while self._pending and not self._lossless:
            self.drop(self._pending[0], "superseded", f"frame {frame} is newer")
        self._pending.append(frame)

    # --- Sending ----------------------------------------------------------------------------------------------

    def next_to_send(self, now: float) -> int | None:
        """The frame to be sent next; those that are too old are dropped on the way."""
        while self._pending:
            frame = self._pending[0]
            record = self._frames[frame]
            if record.deadline is None or now < record.deadline:
                return frame
            self.drop(frame, "too_old", self._age_text(record, now))
        return None

    def parts(self, frame: int) -> tuple[int, int]:
        """(parts in which the pending `frame` will go, its bytes), parity apart; 0 parts: it goes as one message."""
        record = self._frames[frame]
        size = len(record.payload)
        if not self.part_bytes or record.kind == "jpeg" or self.part_bytes > PART_BYTES_MAX:
            return 0, size
        return parts_of(size, self.part_bytes), size

    def send(self, frame: int, ordinal: int, now: float, *, parity: int = 0) -> Outgoing:
        """Mark the pending `frame` as sent; returns its message, or its first part (the others are `on_its_way`)."""
        self._pending.remove(frame)
        record = self._frames[frame]
        record.sent_at, record.resending = now, False
        waiting_s = limits.LOSSLESS_LOST_MS / 1000.0
        record.lost_at = now + waiting_s if record.deadline is None else record.deadline + _GRACE_S
        first, *others = self._messages(frame, record, ordinal, now, parity)
        record.wire_bytes += len(first.data) + sum(len(out.data) for out in others)
        if not self._lossless:
            record.payload = b""  # Not needed again.
        self.on_its_way.extend(others)
        return first

    def next_part(self, now: float, one_way_s: float) -> Outgoing | None:
        """The next part of a frame that has begun. Parts that would arrive after the deadline stay here: the first
        layers are there by then, and the newer frame is worth more than the last ones."""
        while self.on_its_way:
            part = self.on_its_way.popleft()
            if part.expires_at is None or now + one_way_s < part.expires_at:
                return part
        return None

    def wire_bytes(self, frame: int) -> int:
        """All bytes of the messages of a frame that was sent."""
        return self._frames[frame].wire_bytes

    def _messages(self, frame: int, record: EdgeFrame, ordinal: int, now: float, parity: int) -> list[Outgoing]:
        age_us = micros(now - record.captured_at)
        budget_us = 0 if record.deadline is None else micros(self._budget_s)
        payload = record.payload
        built: list[Frame | FramePart | JpegFrame]
        if record.kind == "jpeg":
            built = [JpegFrame(frame, age_us, budget_us, payload, ordinal)]
        elif self.part_bytes and (parity or len(payload) > self.part_bytes):
            pieces = cut(payload, self.part_bytes, at_layers=not parity)
            parts = len(pieces)
            pieces += parity_of(pieces, parity) if parity else []
            built = [
                FramePart(frame, part, parts, age_us, budget_us, piece, ordinal, parity)
                for part, piece in enumerate(pieces)
            ]
        else:
            built = [Frame(frame, age_us, budget_us, payload, ordinal)]
        return [Outgoing("frames", message, messages.encode(message), record.deadline, frame) for message in built]

    # --- Ends -------------------------------------------------------------------------------------------------

    def spoken_of(self, name: str, frame: int) -> EdgeFrame | None:
        """The frame that a message of the server speaks of, or None if it has ended.

        Raises RemoteProtocolError if it was never sent.
        """
        record = self._frames.get(frame)
        if frame > self._captured_max or (record is not None and record.sent_at is None):
            raise RemoteProtocolError(f"{name} for frame {frame}, which was not sent")
        return record

    def answered(self, frame: int) -> bool:
        """A result came. True if it is the frame's terminal state."""
        if not self._account.answer(frame):
            return False
        self._forget(frame)
        return True

    def drop(self, frame: int, cause: str, detail: str = "") -> None:
        """End a frame, unless it has ended."""
        if self._account.drop(frame, cause):
            self._forget(frame)
            self._emit(FrameDropped(frame, cause, detail))

    def drop_all(self, cause: str, detail: str = "") -> None:
        """End all frames."""
        for frame in list(self._frames):
            self.drop(frame, cause, detail)

    def drop_unsent(self, cause: str) -> None:
        """End the frames that are not under way."""
        for frame in [number for number, record in self._frames.items() if record.sent_at is None or record.resending]:
            self.drop(frame, cause)

    def drop_sent(self, cause: str, detail: str) -> None:
        """End the frames that are under way."""
        for frame in [number for number, record in self._frames.items() if record.sent_at is not None]:
            self.drop(frame, cause, detail)

    def resend(self) -> None:
        """Lossless: what is under way goes to the front of the queue again, in order."""
        sent = [(frame, record) for frame, record in self._frames.items() if record.sent_at is not None]
        again = [frame for frame, record in sent if not record.resending]
        for frame in again:
            self._frames[frame].resending = True
        self._pending.extendleft(reversed(again))

    def next_due_at(self) -> float:
        """When the next frame ends by itself."""
        return min((record.due_at for record in self._frames.values()), default=NEVER)

    def end_overdue(self, now: float, *, connected: bool) -> None:
        """End the frames whose time is up."""
        for frame in [number for number, record in self._frames.items() if record.due_at <= now]:
            age = self._age_text(self._frames[frame], now)
            if self._frames[frame].sent_at is None:
                self.drop(frame, "too_old", age)
            elif connected:
                self.drop(frame, "lost", f"no answer {age}")
            else:
                self.drop(frame, "disconnected", f"no connection {age}")

    def _forget(self, frame: int) -> None:
        del self._frames[frame]
        if frame in self._pending:
            self._pending.remove(frame)
        if self.on_its_way and self.on_its_way[0].frame == frame:
            self.on_its_way.clear()

    def _age_text(self, record: EdgeFrame, now: float) -> str:
        return f"{(now - record.captured_at) * 1e3:.0f} ms after capture, budget {self._budget_s * 1e3:.0f} ms"
