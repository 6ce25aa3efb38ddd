"""A recording as an annotated MP4: its labels drawn onto its thumbnails, or onto the video that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_node.media import VideoFile
from edge_node.overlay import Overlay, VideoWriter
from edge_node.records import ANSWERED, FrameRecord, LabelScore
from edge_node.summary import Rolling
from frankenstream.edge_run import open_edge_bundle
from pipeline.errors import ConfigError, InputError
from pipeline.frame import Frame
from pipeline.preprocess import PreprocessSpec
from pipeline.runtime.encoder import preprocess_spec
from recordings.frames import RecordedFrame, recorded_frames
from recordings.reader import Recording
from recordings.thumbnails import decode_thumbnail
from recordings.topics import THUMBNAIL, RecordedAnswer, Thumbnail

FPS_DEFAULT = 30.0
MEDIA_TOLERANCE_S = 1e-3
RATE_WINDOW = 60
"""Frames that the rates in the strip are taken over."""


def write_video(recording: Recording, to: Path, *, video: Path | None, bundle: Path | None) -> int:
    """Write `to`; returns its pictures. Without `video` the thumbnails are drawn on.

    Raises ConfigError if `to` exists or drawing needs something, InputError if there are no pictures.
    """
    if to.exists():
        raise ConfigError(f"{str(to)!r} exists already: choose another name, or remove it first")
    answered = sorted((frame for frame in recorded_frames(recording) if frame.answered), key=lambda one: one.frame)
    if not answered:
        raise InputError(f"{recording.name} has no answers to draw")
    pictures = _thumbnails(recording) if video is None else _video_pictures(video, answered)
    spec = preprocess_spec(open_edge_bundle(bundle).edge_spec)
    count = 0
    overlay = Overlay()
    try:
        with VideoWriter(to, FPS_DEFAULT) as writer:
            for pixels, at, newest in _with_answers(pictures, answered, by_media=video is not None):
                writer.write(_drawn(overlay, spec, pixels, at, newest, count), at)
                count += 1
    except BaseException:
        to.unlink(missing_ok=True)
        raise
    if not count:
        to.unlink(missing_ok=True)
        raise InputError(
            f"{recording.name} has no thumbnails: record with --record-thumbnails, or name the video that it was "
            "made from with --video"
        )
    return count


Shown = tuple[NDArray[np.uint8], float, float]
"""(pixels, seconds since the first one, time by which answers are found: `_time`)."""


def _thumbnails(recording: Recording) -> Iterator[Shown]:
    first_ns: int | None = None
    for thumbnail in recording.of(THUMBNAIL, Thumbnail):
        first_ns = thumbnail.captured_ns if first_ns is None else first_ns
        at = (thumbnail.captured_ns - first_ns) / 1e9
        yield decode_thumbnail(thumbnail.jpeg), at, thumbnail.captured_ns


def _video_pictures(video: Path, answered: list[RecordedFrame]) -> Iterator[Shown]:
    if all(frame.media_time is None for frame in answered):
        raise InputError("the recording was made from a live source, no video belongs to it: leave --video out")
    for pixels, media_time in VideoFile(str(video)):
        at = media_time or 0.0
        yield pixels, at, at


def _with_answers(
    pictures: Iterator[Shown], answered: list[RecordedFrame], *, by_media: bool
) -> Iterator[tuple[NDArray[np.uint8], float, list[RecordedFrame]]]:
    """Each picture with the answers to frames up to it, the newest last."""
    place = 0
    for pixels, at, time in pictures:
        while place < len(answered) and _time(answered[place], by_media=by_media) <= time:
            place += 1
        yield pixels, at, answered[max(0, place - RATE_WINDOW) : place]


def _time(frame: RecordedFrame, *, by_media: bool) -> float:
    """Within the video in seconds, less what rounding may have added; or nanoseconds since 1970."""
    if by_media:
        return (frame.media_time or 0.0) - MEDIA_TOLERANCE_S
    return frame.captured_ns


def _drawn(
    overlay: Overlay,
    spec: PreprocessSpec,
    pixels: NDArray[np.uint8],
    at: float,
    newest: list[RecordedFrame],
    number: int,
) -> NDArray[np.uint8]:
    frame = Frame(number, at, np.ascontiguousarray(pixels))
    answer = _record(newest[-1], at) if newest else None
    return overlay.draw(frame, answer, spec.box(frame.height, frame.width), _rolling(newest))


def _record(frame: RecordedFrame, at: float) -> FrameRecord:
    return FrameRecord(
        frame=frame.frame, state=ANSWERED, captured_at=at, tasks=labels_of(frame.answers),
        task_errors={answer.task: answer.error for answer in frame.answers if answer.error},
    )  # fmt: skip


def labels_of(answers: list[RecordedAnswer]) -> dict[str, list[LabelScore]]:
    """Recorded answers as records hold them."""
    return {
        answer.task: [LabelScore(label.name, label.score) for label in answer.labels]
        for answer in answers
        if answer.labels
    }


def _rolling(newest: list[RecordedFrame]) -> Rolling:
    span_s = (newest[-1].captured_ns - newest[0].captured_ns) / 1e9 if len(newest) > 1 else 0.0
    if span_s <= 0:
        return Rolling(0.0, 0.0, 0.0, 0.0)
    payloads = [frame.payload_bytes for frame in newest]
    latencies = [frame.stages.capture_to_result_ms for frame in newest if frame.stages is not None]
    return Rolling(
        answered_fps=(len(newest) - 1) / span_s,
        kbps=sum(payloads[1:]) * 8 / 1000 / span_s,
        payload_bytes=sum(payloads) / len(payloads),
        capture_to_result_ms=float(np.median(latencies)) if latencies else 0.0,
    )
