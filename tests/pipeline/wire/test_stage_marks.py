"""Stages: every name, no gaps, no negative ones, and the sum is the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages import CAPTURE_TO_RESULT
from pipeline.wire.messages import Result
from pipeline.wire.stage_marks import StageMarks, micros, stages_ms

MARKS = StageMarks(10.0, 10.001, 10.003, 10.006, 10.010)


def result(received_at: float, stages_us: list[int]) -> Result:
    return Result(0, [], micros(received_at), 0, stages_us, 0, 0)


def test_stages_of_a_frame() -> None:
    """Server clock 100 s ahead: 20 ms up, 15 ms there, 10 ms down."""
    stages = stages_ms(MARKS, 10.012, result(110.032, [1000, 2000, 3000, 4000, 5000]), 10.057, 100.0)
    expected = {
        "capture": 1.0,
        "preprocess": 2.0,
        "analysis": 3.0,
        "entropy_encode": 4.0,
        "send_wait": 2.0,
        "uplink": 20.0,
        "entropy_decode": 1.0,
        "queue": 2.0,
        "synthesis": 3.0,
        "tail": 4.0,
        "heads": 5.0,
        "downlink": 10.0,
    }
    assert expected == stages
    assert list(CAPTURE_TO_RESULT) == list(stages)


def test_unknown_offset_splits_in_halves() -> None:
    """Before the first Pong the network's share is shared equally."""
    stages = stages_ms(MARKS, 10.012, result(0.0, [0, 0, 5000, 0, 0]), 10.047, None)
    assert (stages["uplink"], stages["downlink"]) == (15.0, 15.0)


def test_negative_share_goes_to_the_other() -> None:
    """An offset that is a little off makes no negative stage."""
    stages = stages_ms(MARKS, 10.012, result(110.000, [0, 0, 0, 0, 0]), 10.020, 100.0)
    assert (stages["uplink"], stages["downlink"]) == (0.0, 8.0)


times = st.floats(0, 1e6, allow_nan=False)


@given(
    st.tuples(times, times, times, times, times),
    times,
    times,
    st.none() | st.floats(-1e6, 1e6),
    st.lists(st.integers(-(2**53), 2**53), min_size=5, max_size=5),
    st.integers(-(2**53), 2**53),
)
def test_stages_sum_to_the_whole(
    marks: tuple[float, float, float, float, float],
    sent_at: float,
    received_at: float,
    offset_s: float | None,
    stages_us: list[int],
    server_received_us: int,
) -> None:
    """For any stamps and any claims of the server: none negative, and their sum is the time that passed."""
    answer = Result(0, [], server_received_us, 0, stages_us, 0, 0)
    stages = stages_ms(StageMarks(*marks), sent_at, answer, received_at, offset_s)
    assert all(value >= 0 for value in stages.values())
    whole_us = micros(max(*marks, sent_at, received_at)) - micros(marks[0])
    assert whole_us == sum(round(value * 1000) for value in stages.values())
