"""Pacing: when pictures are shown, on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clock import VirtualClock
from pipeline.errors import InputError
from pipeline.frame import Picture
from recordings.replay import LATE_S_MAX, Pace, Pacer, replay

PIXEL = np.zeros((1, 1, 3), np.uint8)


class Clip:
    """Pictures at given times; counts how often it was started."""

    def __init__(self, *times: float | None) -> None:
        self.times = times
        self.starts = 0

    def __iter__(self) -> Iterator[Picture]:
        self.starts += 1
        for time in self.times:
            yield PIXEL, time


def shown(clip: Clip, pace: Pace, count: int, *, fps: float = 10.0, work_s: float = 0.0) -> list[tuple[float, float]]:
    """(when, media time) of the first `count` pictures, with a reader that takes `work_s` for each."""
    clock = VirtualClock(100.0)

    def wait(seconds: float) -> bool:
        clock.advance(seconds)
        return False

    seen: list[tuple[float, float]] = []
    for _, media_time in replay(clip, pace, fps=fps, clock=clock, wait=wait):
        assert media_time is not None
        seen.append((round(clock() - 100.0, 6), round(media_time, 6)))
        if len(seen) == count:
            break
        clock.advance(work_s)
    return seen


def test_realtime_keeps_the_time_stamps_of_the_file() -> None:
    """A variable frame rate stays variable; the first picture is shown at once."""
    assert shown(Clip(5.0, 5.1, 5.5, 5.6), Pace(), 4) == [(0.0, 5.0), (0.1, 5.1), (0.5, 5.5), (0.6, 5.6)]


def test_fast_never_waits() -> None:
    """One after another."""
    assert shown(Clip(0.0, 1.0, 2.0), Pace(realtime=False), 3) == [(0.0, 0.0), (0.0, 1.0), (0.0, 2.0)]


def test_loop_starts_over_and_media_time_goes_on() -> None:
    """The next round begins one frame after the last picture."""
    clip = Clip(0.0, 0.1)
    assert shown(clip, Pace(loop=True), 5) == [(0.0, 0.0), (0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.4, 0.4)]
    assert clip.starts == 3


def test_without_loop_it_ends() -> None:
    """Every picture once."""
    clip = Clip(0.0, 0.1)
    assert len(shown(clip, Pace(), 99)) == 2
    assert clip.starts == 1


def test_pictures_without_time_follow_at_the_nominal_rate() -> None:
    """A folder of pictures, or a stream without time stamps."""
    assert [when for when, _ in shown(Clip(None, None, None), Pace(), 3, fps=4.0)] == [0.0, 0.25, 0.5]


def test_a_reader_that_is_a_little_late_catches_up() -> None:
    """Delays below LATE_S_MAX do not add up."""
    times = [when for when, _ in shown(Clip(0.0, 0.1, 0.2, 0.3), Pace(), 4, work_s=0.05)]
    assert times == [0.0, 0.1, 0.2, 0.3]


def test_a_reader_that_is_too_slow_slides_the_time_axis() -> None:
    """Rather than rushing through what was missed: each picture is shown as soon as the reader is back."""
    pacer = Pacer(Pace(), 10.0)
    assert pacer.due(0.0, 0.0) == 0.0
    assert pacer.due(0.1, 1.0) == 1.0
    assert pacer.due(0.2, 1.0) == pytest.approx(1.1)


def test_a_break_in_the_time_stamps_costs_one_frame() -> None:
    """Jumps back and leaps of an hour do not stall the replay."""
    times = [when for when, _ in shown(Clip(0.0, 3600.0, 3600.1, 2.0), Pace(), 4)]
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_it_ends_when_told_while_waiting() -> None:
    """`wait` returning True ends the replay without another picture."""
    assert len(list(replay(Clip(0.0, 9.0), Pace(), fps=1.0, clock=VirtualClock(), wait=lambda seconds: True))) == 1


def test_looping_over_nothing_is_an_error_and_not_an_endless_loop() -> None:
    """A source without frames has nothing to replay."""
    with pytest.raises(InputError, match="nothing to replay"):
        list(replay(Clip(), Pace(loop=True), fps=1.0, clock=VirtualClock(), wait=lambda seconds: False))


@given(
    times=st.lists(st.one_of(st.none(), st.floats(-1e4, 1e4)), min_size=1, max_size=30),
    delays=st.lists(st.floats(0, 3), min_size=30, max_size=30),
)
def test_any_time_stamps_and_any_reader_keep_due_times_in_order_and_near(
    times: list[float | None], delays: list[float]
) -> None:
    """Due times never go back, are never more than a gap ahead, and never lag behind by more than LATE_S_MAX."""
    pacer = Pacer(Pace(), 30.0)
    now = previous = 0.0
    for time, delay in zip(times, delays, strict=False):
        due = pacer.due(time, now)
        assert previous <= due
        assert now - LATE_S_MAX <= due <= now + 5.0 + 1e-9
        previous = due
        now = max(now, due) + delay
