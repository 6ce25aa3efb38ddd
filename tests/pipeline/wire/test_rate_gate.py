"""What rate control and frame choice ask of the sessions: frames that wait for their turn, parts, repeated answers."""

from __future__ import annotations

import pytest

from pipeline.errors import LocalProtocolError
from pipeline.rate_control import EncodeChoice, RateControl, Rung
from pipeline.wire import messages
from pipeline.wire.assembly import OVERTAKEN_S
from pipeline.wire.events import FrameReceived, FrameUnchanged
from pipeline.wire.messages import FramePart
from tests.pipeline.wire.pairs import Pair


def a_control(fps_max: float = 10.0) -> RateControl:
    return RateControl([Rung(EncodeChoice(0), "only", 1_000.0)], fps_max=fps_max)


def test_an_unchanged_frame_is_counted_and_not_sent() -> None:
    """It ends as `unchanged`, names the frame whose answer it has, and the law holds."""
    pair = Pair().open()
    first = pair.capture()
    pair.flow()
    pair.answer(first)
    pair.flow()
    pair.edge.capture(1, pair.now)
    pair.edge.unchanged(1, first, pair.now)
    pair.flow()
    account = pair.edge.account
    assert pair.of(FrameUnchanged) == [FrameUnchanged(1, first)]
    assert (account.entered, account.answered, account.unchanged, account.dropped) == (2, 1, 1, {})
    assert account.balanced
    assert account.ended(1) == "unchanged"
    assert pair.received() == [first]


def test_a_frame_that_was_sent_cannot_be_unchanged() -> None:
    """The first terminal state is final, and what is under way will be answered."""
    pair = Pair().open()
    frame = pair.capture()
    pair.flow()
    pair.edge.unchanged(frame, 0, pair.now)
    assert pair.edge.account.unchanged == 0
    pair.answer(frame)
    pair.flow()
    pair.edge.unchanged(frame, 0, pair.now)
    assert (pair.edge.account.answered, pair.edge.account.unchanged) == (1, 0)


def test_a_frame_waits_for_its_turn() -> None:
    """With 10 frames a second at most, the next ones leave when their time has come; `timer_at` says when."""
    pair = Pair(edge={"control": a_control()}).open()
    sent_at = []
    for _ in range(60):
        before = len(pair.received())
        pair.capture()
        pair.flow()
        if len(pair.received()) > before:
            sent_at.append(pair.now)
            pair.answer(pair.received()[-1])
            pair.flow()
        pair.clock.advance(0.01)
    assert 5 <= len(sent_at) <= 8
    assert pair.edge.account.balanced
    assert pair.edge.account.dropped["superseded"] >= 50


def test_the_waiting_frame_leaves_by_timer() -> None:
    """Nothing else need happen for it."""
    pair = Pair(edge={"control": a_control(fps_max=2.0)}).open()
    for _ in range(4):
        pair.capture()
        pair.flow()
    assert pair.received() == [0]
    pair.pass_time(0.6)
    assert pair.received() == [0, 3]


def test_parts_that_would_come_too_late_stay_here() -> None:
    """Of a frame in parts, those past the deadline are not sent: its first layers are there."""
    pair = Pair(edge={"part_bytes": 100, "budget_ms": 500}).open()
    pair.capture(bytes(400))
    pair.clock.advance(0.3)
    first = pair.edge.poll_send(pair.now)
    assert first is not None
    assert isinstance(first.message, FramePart)
    pair.clock.advance(0.3)
    assert pair.edge.poll_send(pair.now) is None


def test_part_bytes_can_be_set_by_the_transport() -> None:
    """Before `connected`, or at any time: the next frame goes in such parts."""
    pair = Pair().open()
    pair.edge.part_bytes = 100
    pair.edge.loss.share = 0.0
    pair.capture(bytes(250))
    pair.flow()
    parts = [out.message for out in pair.sent_up if isinstance(out.message, FramePart)]
    assert [len(part.bytes) for part in parts] == [84, 83, 83]
    assert pair.edge.part_bytes == 100


@pytest.mark.parametrize("lossless", [False, True])
def test_an_overtaken_frame_is_not_waited_for(lossless: bool) -> None:
    """A part is lost and the next frame arrives: the parts up to the gap go on soon; a lossless replay has time."""
    pair = Pair(edge={"part_bytes": 100, "lossless": lossless}).open()
    pair.edge.loss.share = 0.0  # No parity.
    lost = [True]

    def keep(outgoing: object) -> bool:
        message = getattr(outgoing, "message", None)
        return not (isinstance(message, FramePart) and message.frame == 0 and message.part == 2 and lost[0])

    pair.keep = keep
    for _ in range(2):
        pair.capture(bytes(350))
        pair.flow()
    assert pair.received() == [1]
    pair.clock.advance(OVERTAKEN_S + 0.001)
    pair.server.timer(pair.now)
    pair.flow()
    handed = [event for event in pair.of(FrameReceived) if event.frame == 0]
    assert [len(event.bitstream) for event in handed] == ([] if lossless else [176])


def test_credit_that_was_told_in_vain_is_told_again() -> None:
    """The Result with the new credit is lost: the edge's Ping brings it, without waiting for the renewal."""
    pair = Pair(window=1).open()
    pair.keep = lambda outgoing: not isinstance(outgoing.message, messages.Result)
    frame = pair.capture()
    pair.flow()
    pair.answer(frame)
    pair.flow()
    assert pair.edge.credit_available == 0
    pair.capture()
    pair.flow()
    for _ in range(30):
        pair.clock.advance(0.01)
        pair.edge.timer(pair.now)
        pair.flow()
    assert pair.received() == [0, 1]


def test_numbers_still_rise() -> None:
    """An unchanged frame was captured like any other."""
    pair = Pair().open()
    pair.edge.capture(3, pair.now)
    pair.edge.unchanged(3, 0, pair.now)
    with pytest.raises(LocalProtocolError, match="number frames upwards"):
        pair.edge.capture(3, pair.now)
