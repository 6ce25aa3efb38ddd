"""How many frames a session may have under way: as many as keep the engines busy, no more than keeps answers fresh.

Frames beyond what the engines can do only wait, and a frame that waits is an old frame. So the more streams share an
engine, the less each may have under way; the edge then keeps its newest frame instead (`superseded`). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline import limits

QUEUE_TARGET_S = 0.1
"""How long the frames of all sessions together may keep the engines busy, in seconds."""


def credit_window(lanes: Iterable[tuple[int, float]]) -> int:
    """Frames under way per session, 1 … CREDIT_FRAMES.

    `lanes`: for each engine the number of streams that use it and the seconds that it takes for one frame.
    """
    round_s = sum(streams * frame_s for streams, frame_s in lanes)
    if round_s <= 0.0:
        return limits.CREDIT_FRAMES
    return max(1, min(limits.CREDIT_FRAMES, int(QUEUE_TARGET_S / round_s)))
