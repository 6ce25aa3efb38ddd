"""From time stamps to stages: differences of consecutive stamps, with no gaps (DESIGN chapter 2).

Everything is integer microseconds until the last step, so the stages sum exactly to capture-to-result. Only `uplink`
and `downlink` need the peer's clock: they share what the edge measured between sending and result and the server
did not use. If the offset would make one of them negative, it is 0 and the other takes the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from pipeline.stages import SERVER_STAGES
from pipeline.wire.messages import Result


def micros(seconds: float) -> int:
    """Seconds to whole microseconds."""
    return round(seconds * 1e6)


@dataclass(frozen=True, slots=True)
class StageMarks:
    """When a frame passed the edge's stages: consecutive stamps in monotonic seconds.

    `captured_at` → capture → `capture_done` → preprocess → `preprocess_done` → analysis → `analysis_done` →
    entropy_encode → `encode_done` → send_wait → (sent).
    """

    captured_at: float
    capture_done: float
    preprocess_done: float
    analysis_done: float
    encode_done: float


def stages_ms(
    marks: StageMarks, sent_at: float, result: Result, received_at: float, offset_s: float | None
) -> dict[str, float]:
    """Every stage of CAPTURE_TO_RESULT in milliseconds; none is negative.

    `sent_at` and `received_at` (of the result) are on the edge's clock; `offset_s` is the server's clock minus the
    edge's, None if not known: then what is left of the round trip is split in halves.
    """
    stamps = [
        micros(stamp)
        for stamp in accumulate(
            (
                marks.captured_at, marks.capture_done, marks.preprocess_done, marks.analysis_done, marks.encode_done,
                sent_at,
            ),
            max,
        )
    ]
    away = max(0, micros(received_at) - stamps[-1])
    server = _at_most([max(0, stage) for stage in result.stages_us], away)
    network = away - sum(server)
    if offset_s is None:
        uplink = network // 2
    else:
        uplink = min(max(0, result.received_at_us - micros(offset_s) - stamps[-1]), network)
    capture, preprocess, analysis, entropy_encode, send_wait = (
        later - earlier for earlier, later in pairwise(stamps)
    )
    micro_stages = {
        "capture": capture,
        "preprocess": preprocess,
        "analysis": analysis,
        "entropy_encode": entropy_encode,
        "send_wait": send_wait,
        "uplink": uplink,
        **dict(zip(SERVER_STAGES, server, strict=True)),
        "downlink": network - uplink,
    }
    return {stage: value / 1000.0 for stage, value in micro_stages.items()}


def _at_most(stages_us: Sequence[int], total_us: int) -> list[int]:
    """The server's stages, cut from the end where they claim more time than the edge saw pass."""
    kept, left = [], total_us
    for stage in stages_us:
        kept.append(min(stage, left))
        left -= kept[-1]
    return kept
