"""How both ends together learn how many parts get lost."""

from __future__ import annotations

import random

import pytest

from pipeline.wire.assembly import OVERTAKEN_S
from pipeline.wire.part_loss import LOSS_AT_START, LossEstimate, PartTally

SOON = OVERTAKEN_S + 1e-6


def test_frames_are_counted_when_they_were_overtaken() -> None:
    """Not before: their parts may still come; doubles and late ones do not count."""
    tally = PartTally()
    for part in (0, 1, 1):
        tally.arrived(1, part, 0.0)
    tally.settle(5.0)
    assert (tally.settled, tally.parts) == (0, 0)
    tally.arrived(2, 0, 10.0)
    tally.arrived(1, 2, 10.0 + OVERTAKEN_S / 2)
    tally.settle(10.0 + SOON)
    assert (tally.settled, tally.parts) == (1, 3)
    tally.arrived(1, 3, 10.1)
    tally.arrived(5, 0, 10.2)
    tally.settle(10.2 + SOON)
    assert (tally.settled, tally.parts) == (4, 4)


def test_frames_without_an_ordinal_are_not_counted() -> None:
    """An edge that numbers nothing."""
    tally = PartTally()
    tally.arrived(0, 0, 0.0)
    tally.settle(1.0)
    assert (tally.settled, tally.parts) == (0, 0)


def test_each_reply_tells_all_since_the_last_one() -> None:
    """Replies that are lost, doubled or overtaken change nothing."""
    estimates = [LossEstimate(), LossEstimate()]
    for estimate in estimates:
        for ordinal in (1, 2, 3):
            for _ in range(4):
                estimate.sent(ordinal)
    all_of_them, some = estimates
    for settled, parts in ((1, 4), (2, 7), (2, 7), (1, 4), (3, 11)):
        all_of_them.told(settled, parts)
    some.told(3, 11)
    assert some.share == pytest.approx(LOSS_AT_START + (1 / 12 - LOSS_AT_START) * (1 - 0.995**12))
    assert all_of_them.share == pytest.approx(some.share, abs=2e-4)


def test_a_server_that_says_nothing_leaves_the_first_guess() -> None:
    """And costs no memory."""
    estimate = LossEstimate()
    for ordinal in range(1, 5000):
        estimate.sent(ordinal)
        estimate.told(0, 0)
    assert estimate.share == LOSS_AT_START
    assert len(estimate._sent) < 2000


@pytest.mark.parametrize("loss", [0.0, 0.03, 0.2])
def test_the_estimate_finds_the_loss(loss: float) -> None:
    """Thirty seconds of frames of five parts, one reply in three lost."""
    chance = random.Random(1)
    tally, estimate = PartTally(), LossEstimate()
    found = []
    for ordinal in range(1, 900):
        now = ordinal / 30
        for part in range(5):
            estimate.sent(ordinal)
            if chance.random() >= loss:
                tally.arrived(ordinal, part, now)
        tally.settle(now)
        if chance.random() < 0.67:
            estimate.told(tally.settled, tally.parts)
        found.append(estimate.share)
    assert sum(found[300:]) / 599 == pytest.approx(loss, rel=0.25, abs=0.002)
