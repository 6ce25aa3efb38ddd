"""How many frames a session may have under way."""

from __future__ import annotations

import pytest

from analytics_server.credit import QUEUE_TARGET_S, credit_window
from pipeline import limits


@pytest.mark.parametrize(
    ("window", "streams", "frame_s"),
    [
        (limits.CREDIT_FRAMES, 1, 0.001),
        (limits.CREDIT_FRAMES, 1, 0.0),
        (2, 2, QUEUE_TARGET_S / 4),
        (1, 2, QUEUE_TARGET_S / 2),
        (1, 100, 1.0),
    ],
)
def test_window_shrinks_with_load(window: int, streams: int, frame_s: float) -> None:
    """Together the frames under way keep an engine busy for about QUEUE_TARGET_S; each session keeps at least one."""
    assert credit_window([(streams, frame_s)]) == window


def test_window_counts_every_engine() -> None:
    """A second backbone takes its time too."""
    assert credit_window([(1, QUEUE_TARGET_S / 4), (1, QUEUE_TARGET_S / 4)]) == 2
    assert credit_window([]) == limits.CREDIT_FRAMES
