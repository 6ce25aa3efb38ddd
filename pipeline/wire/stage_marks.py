"""From time stamps to stages: differences of consecutive stamps, with no gaps (DESIGN chapter 2).

Everything is integer microseconds until the last step, so the stages sum exactly to capture-to-result. Only `uplink`
and `downlink` need the peer's clock: they share what the edge measured between sending and result and the server
did not use. If the offset would make one of them negative, it is 0 and the other takes the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pipeline.stages import SERVER_STAGES
from pipeline.wire.messages import Result


def micros(seconds: float) -> int:
    """Seconds to whole microseconds."""
    return round(seconds * 1e6)


class StageMarks(msgspec.Struct, frozen=True, gc=False):
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
    # A stamp before its predecessor counts as that one: stages are never negative, and the sum stays whole.
    captured = micros(marks.captured_at)
    capture_done = max(captured, micros(marks.capture_done))
    preprocess_done = max(capture_done, micros(marks.preprocess_done))
    analysis_done = max(preprocess_done, micros(marks.analysis_done))
    encode_done = max(analysis_done, micros(marks.encode_done))
    sent = max(encode_done, micros(sent_at))
    away = max(0, micros(received_at) - sent)
    server = _at_most(result.stages_us, away)
    network = away - sum(server)
    uplink = network // 2 if offset_s is None else result.received_at_us - micros(offset_s) - sent
    uplink = min(max(0, uplink), network)
    return {
        "capture": (capture_done - captured) / 1000.0,
        "preprocess": (preprocess_done - capture_done) / 1000.0,
        "analysis": (analysis_done - preprocess_done) / 1000.0,
        "entropy_encode": (encode_done - analysis_done) / 1000.0,
        "send_wait": (sent - encode_done) / 1000.0,
        "uplink": uplink / 1000.0,
        **{stage: value / 1000.0 for stage, value in zip(SERVER_STAGES, server, strict=True)},
        "downlink": (network - uplink) / 1000.0,
    }


def _at_most(stages_us: Sequence[int], total_us: int) -> list[int]:
    """The server's stages, none negative, cut from the end where they claim more time than the edge saw pass."""
    kept, left = [], total_us
    for stage in stages_us:
        kept.append(min(max(0, stage), left))
        left -= kept[-1]
    return kept
