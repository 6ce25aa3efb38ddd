"""Small recordings for tests: real MCAP files, real bitstreams of a small codec, frames that refer to each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.codec import LatentCodec, Reference, ReferenceId
from pipeline.stages import CAPTURE_TO_RESULT
from recordings.recorder import Made, Recorder, Track
from recordings.topics import (
    BITSTREAM,
    DROP,
    RESULT,
    SESSION,
    STAGES,
    Bitstream,
    Facts,
    FrameDrop,
    FrameResult,
    FrameStages,
    RecordedAnswer,
    RecordedLabel,
    RecordedTask,
    SessionStart,
)
from tests.codecs import random_symbols, small_codec

EPOCH = 77
CODEC_ID = "c" * 64
FPS = 10.0


def reference_codec() -> LatentCodec:
    """A codec that codes frames against earlier ones."""
    return small_codec("reference")


def chain(
    codec: LatentCodec, frames: int, *, alone: Sequence[int] = (0,), seed: int = 0
) -> tuple[list[bytes], list[NDArray[np.int16]]]:
    """(bitstreams, symbols): each frame coded against the one before, but those of `alone`."""
    rng = np.random.default_rng(seed)
    bitstreams: list[bytes] = []
    symbols: list[NDArray[np.int16]] = []
    for number in range(frames):
        current = random_symbols(rng, 5, 4)
        reference = None
        if number not in alone:
            reference = Reference(epoch=EPOCH, frame=number - 1, layers=3, symbols=symbols[-1])
        symbols.append(current)
        bitstreams.append(codec.encode(current, 1, reference=reference))
    return bitstreams, symbols


def record(
    path: Path,
    bitstreams: Sequence[bytes],
    *,
    flush_every: int = 4,
    dropped: Sequence[int] = (),
    missing: Sequence[int] = (),
    facts: Facts | None = None,
    tasks: Sequence[str] = ("animals",),
) -> Path:
    """A recording of frames FPS a second, closed in good order. `missing`: frames whose bitstream is not in it."""
    recorder = Recorder(thread=False)
    track = recorder.record(path, facts or Facts(codec_id=CODEC_ID, bundle_id="b" * 64, frankenstream="0.1.0"))
    start = SessionStart(
        session="s1", codec_id=CODEC_ID, backbone="null", reference_epoch=EPOCH, server="server",
        tasks=[RecordedTask(task, "null", 2) for task in tasks],
    )  # fmt: skip
    track.put(SESSION, 0.0, lambda: Made(msgspec.json.encode(start)), cost=100)
    for number, payload in enumerate(bitstreams):
        put_frame(recorder, track, number, payload, dropped=number in dropped, missing=number in missing, tasks=tasks)
        if (number + 1) % flush_every == 0:
            recorder.work()
    recorder.close()
    return path


def put_frame(
    recorder: Recorder,
    track: Track,
    number: int,
    payload: bytes,
    *,
    dropped: bool = False,
    missing: bool = False,
    tasks: Sequence[str] = ("animals",),
) -> None:
    at = number / FPS
    if not missing:
        bitstream = Bitstream(
            frame=number, captured_ns=recorder.time_ns(at), payload=payload, media_us=1 + round(at * 1e6)
        )
        track.put(BITSTREAM, at, lambda: Made(bitstream.encode(), at, number), cost=len(payload))
    if dropped:
        drop = FrameDrop(frame=number, cause="lost", detail="no answer")
        track.put(DROP, at, lambda: Made(msgspec.json.encode(drop), None, number), cost=100)
        return
    result, stages = result_of(number, tasks=tasks), stages_of(number)
    track.put(RESULT, at + 0.05, lambda: Made(msgspec.json.encode(result), at, number), cost=100)
    track.put(STAGES, at + 0.05, lambda: Made(msgspec.json.encode(stages), at, number), cost=100)


def result_of(number: int, *, tasks: Sequence[str] = ("animals",), batch: int = 1) -> FrameResult:
    answers = [
        RecordedAnswer(task, [RecordedLabel(1, "zebra", 0.1 + 1 / (number + 3)), RecordedLabel(0, "ñandú", 0.1)])
        for task in tasks
    ]
    return FrameResult(
        frame=number, tasks=answers, layers=3, decoded_layers=3, batch=batch, payload_bytes=40, wire_bytes=60
    )


def stages_of(number: int) -> FrameStages:
    each = {stage: float(place) for place, stage in enumerate(CAPTURE_TO_RESULT)}
    return FrameStages(frame=number, capture_to_result_ms=sum(each.values()) + number, **each)


def decoded(codec: LatentCodec, payload: bytes) -> NDArray[np.int16]:
    """Symbols of a bitstream that must stand alone."""
    references: dict[ReferenceId, Reference] = {}
    return codec.decode(payload, references=references).symbols
