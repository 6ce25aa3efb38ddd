"""What leaves an edge when: credit, the turns of rate control, parts and their parity. Pure (see session.py)."""

from __future__ import annotations

from pipeline.limits import FRAME_PARITY_PARTS_MAX
from pipeline.rate_control import RateControl
from pipeline.wire.clock_offset import ClockOffset
from pipeline.wire.credits import CreditBalance
from pipeline.wire.edge_frames import EdgeFrames
from pipeline.wire.parity import parity_worth
from pipeline.wire.part_loss import LossEstimate
from pipeline.wire.session import NEVER, Outgoing

_TURN_S = 1e-6
"""A frame may leave so much before its turn: sums of floats do not come out even."""


class EdgeSending:
    """Sends the frames of one edge session. With `control` they leave when it says so."""

    def __init__(self, frames: EdgeFrames, clock: ClockOffset, control: RateControl | None) -> None:
        self.credit = CreditBalance()
        self.loss = LossEstimate()
        """How many parts get lost; of use where frames go in parts."""
        self.control = control
        self.parity_parts_max = 0
        """Parity parts that the server takes with a frame."""
        self._frames = frames
        self._clock = clock
        self._probe_at = NEVER
        self._turn_at = NEVER
        self._settled = 0
        self._settled_at = float("-inf")

    # --- The connection ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Another session: nothing was sent."""
        self.credit.begin()
        self.loss.begin()
        self._settled = 0

    def connected(self, now: float) -> None:
        """Another connection, so another way."""
        if self.control is not None:
            self.control.part_bytes = self._frames.part_bytes
            self.control.opened(now)

    def disconnected(self) -> None:
        """Nobody is there who could be asked for credit."""
        self._probe_at = NEVER

    def take_credit(self, sent_frames_max: int, valid_ms: int, now: float) -> int:
        """A grant arrived. Returns how many frames may be sent now."""
        self.credit.take(sent_frames_max, valid_ms, now)
        available = self.credit.available(now)
        if self.control is not None:
            self.control.credited(available)
        if available:
            self._probe_at = NEVER
        return available

    # --- Out --------------------------------------------------------------------------------------------------

    def next(self, now: float, *, is_open: bool) -> Outgoing | None:
        """The parts of a frame that has begun, then (on an open session) the next frame if it may leave."""
        if (part := self._frames.next_part(now, self._clock.one_way_s)) is not None:
            self.loss.sent(self.credit.sent)
            return part
        frame = self._frames.next_to_send(now) if is_open else None
        if frame is None:
            return None
        if self.credit.available(now):
            return self._send(frame, now) if self._has_turn(now) else None
        if self._probe_at == NEVER:
            # No credit: perhaps every frame of the window was lost. A Ping tells the server what was sent.
            self._probe_at = now + self._settling_s
        return None

    def settled_frames(self, now: float) -> int:
        """Frames that have arrived or never will: a Ping must not overtake a frame and report it lost."""
        if now >= self._settled_at:
            self._settled = self.credit.sent
        return self._settled

    @property
    def next_at(self) -> float:
        """When `due` has something to do."""
        return min(self._probe_at, self._turn_at)

    def due(self, now: float) -> bool:
        """Take note of the time. True: a Ping is due that tells the server what was sent."""
        if now >= self._turn_at:
            self._turn_at = NEVER  # `next` asks again
        if now < self._probe_at:
            return False
        self._probe_at = NEVER
        return True

    def _has_turn(self, now: float) -> bool:
        self._turn_at = NEVER if self.control is None else self.control.send_at(now)
        if self._turn_at <= now + _TURN_S or self._turn_at == NEVER:
            self._turn_at = NEVER
            return True
        return False

    def _send(self, frame: int, now: float) -> Outgoing:
        self._settled_at = now + self._settling_s
        parity = self._parity(*self._frames.parts(frame))
        outgoing = self._frames.send(frame, self.credit.spend(), now, parity=parity)
        self.loss.sent(self.credit.sent)
        if self.control is not None:
            self.control.sent(frame, self._frames.wire_bytes(frame), now, first_bytes=len(outgoing.data))
            self.control.credited(self.credit.available(now))
        return outgoing

    def _parity(self, parts: int, size: int) -> int:
        """How many parity parts a frame of so many parts and bytes gets."""
        if not parts or not self.parity_parts_max:
            return 0
        room = NEVER if self.control is None else self.control.room(size)
        return parity_worth(parts, self.loss.share, room, min(self.parity_parts_max, FRAME_PARITY_PARTS_MAX))

    @property
    def _settling_s(self) -> float:
        """After this long a frame has arrived or is lost: a few one-way times."""
        return max(0.05, 4 * self._clock.one_way_s)
