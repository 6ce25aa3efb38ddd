"""ClockOffset and PingSchedule."""

from __future__ import annotations

from itertools import pairwise

from pipeline import limits
from pipeline.wire.clock_offset import ClockOffset, PingSchedule
from tests.pipeline.wire.pairs import Pair


def test_least_round_trip_counts() -> None:
    """Of two samples the faster one gives offset and error."""
    clock = ClockOffset()
    clock.add(10.0, 110.3, 110.3, 10.4)
    clock.add(11.0, 111.05, 111.05, 11.1)
    clock.add(12.0, 112.4, 112.4, 12.5)
    assert clock.offset_s is not None
    assert abs(clock.offset_s - 100.0) < 1e-9
    assert clock.error_s is not None
    assert abs(clock.error_s - 0.05) < 1e-9


def test_old_samples_leave() -> None:
    """After 30 s a better sample of before does not count any more."""
    clock = ClockOffset()
    clock.add(0.0, 100.0, 100.0, 0.001)
    later = limits.CLOCK_WINDOW_MS / 1000 + 1
    clock.add(later, later + 200, later + 200, later + 0.1)
    assert clock.offset_s is not None
    assert abs(clock.offset_s - 199.95) < 1e-6


def test_reply_time_is_not_travel_time() -> None:
    """What the answerer took is deducted."""
    clock = ClockOffset()
    clock.add(0.0, 5.01, 6.01, 1.02)
    assert clock.best is not None
    assert abs(clock.best.round_trip_s - 0.02) < 1e-9


def test_nonsense_of_the_peer_is_harmless() -> None:
    """Times that cannot be give no negative round trip."""
    clock = ClockOffset()
    clock.add(0.0, 2**33, -(2**33), 0.01)
    assert clock.one_way_s >= 0


def test_quick_pings_then_one_a_second() -> None:
    """Eight at connect, then the interval."""
    schedule = PingSchedule()
    schedule.start(0.0)
    times = []
    for _ in range(12):
        now = schedule.next_at
        assert schedule.due(now)
        times.append(now)
    gaps = [round(later - earlier, 6) for earlier, later in pairwise(times)]
    assert gaps == [0.025] * 7 + [1.0] * 4


def test_pong_counts_once() -> None:
    """A doubled Pong, or one of an earlier connection, is unknown."""
    schedule = PingSchedule()
    number = schedule.sent(1.0)
    assert (schedule.answered(number), schedule.answered(number)) == (1.0, None)
    old = schedule.sent(2.0)
    schedule.stop()
    assert schedule.answered(old) is None


def test_both_sides_learn_the_offset() -> None:
    """Back to back on one clock the offset is 0, and reset by a new connection."""
    pair = Pair().open()
    pair.pass_time(0.5)
    for clock in (pair.edge.clock, pair.server.clock):
        assert clock.offset_s is not None
        assert abs(clock.offset_s) < 1e-9
    pair.edge.disconnected("cut", pair.now)
    pair.edge.connected(pair.now)
    assert pair.edge.clock.offset_s is None
