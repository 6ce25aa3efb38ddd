"""Records what an edge sends and hears: messages as they pass its transport, and its session's events.

Everything here runs on the stream's own threads and only notes references; decoding, JSON and JPEG are made on the
recorder's thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Picture
from pipeline.wire import messages
from pipeline.wire.clock_offset import ClockSample
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.events import Answered, Connected, EdgeEvent, FrameDropped, FrameUnchanged
from pipeline.wire.messages import Frame, FramePart, JpegFrame, Welcome
from recordings.recorder import Made, Recorder, Track
from recordings.thumbnails import ThumbnailEncoder
from recordings.topics import (
    BITSTREAM,
    CLOCK,
    DROP,
    RESULT,
    SESSION,
    STAGES,
    THUMBNAIL,
    UNCHANGED,
    Bitstream,
    ClockEstimate,
    FrameDrop,
    FrameRepeat,
    FrameResult,
    FrameStages,
    RecordedTask,
    SessionStart,
    Thumbnail,
    recorded_answers,
)

PICTURES_HELD: Final = 8
"""Pictures kept until it shows whether their frame is sent."""
TIMES_HELD: Final = 1_024
PARTS_HELD: Final = 16
_JSON_COST: Final = 1_000
"""What a JSON message may take in the queue, about, in bytes."""

_json = msgspec.json.Encoder()


class Pictures(Protocol):
    """A source of pictures (edge_node.Source)."""

    name: str
    fps: float
    live: bool

    def __iter__(self) -> Iterator[Picture]: ...

    def close(self) -> None: ...


class EdgeRecording:
    """Records one edge session on `track`. `thumbnails_per_s` 0: none.

    `on_gap` is called when a bitstream was lost: later frames may refer to it, so the next one should stand alone.
    """

    def __init__(
        self,
        recorder: Recorder,
        track: Track,
        *,
        thumbnails_per_s: float = 0.0,
        on_gap: Callable[[], None] = lambda: None,
    ) -> None:
        self.track = track
        self._recorder = recorder
        self._on_gap = on_gap
        self._interval_s = 1 / thumbnails_per_s if thumbnails_per_s > 0 else None
        self._thumbnail_due_at = float("-inf")
        self._lock = threading.Lock()
        self._media: OrderedDict[int, float | None] = OrderedDict()
        self._pictures: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._clock_sample: ClockSample | None = None
        self._thumbnails = ThumbnailEncoder()
        self._parts: OrderedDict[int, dict[int, bytes]] = OrderedDict()

    # --- Capture thread ---------------------------------------------------------------------------------------

    def watch(self, source: Pictures) -> WatchedPictures:
        """`source`, with its pictures' times noted here. The node numbers them in the same order."""
        return WatchedPictures(source, self._seen)

    def _seen(self, number: int, pixels: NDArray[np.uint8], media_time: float | None) -> None:
        with self._lock:
            self._media[number] = media_time
            if len(self._media) > TIMES_HELD:
                self._media.popitem(last=False)
            if self._interval_s is not None:
                self._pictures[number] = pixels
                if len(self._pictures) > PICTURES_HELD:
                    self._pictures.popitem(last=False)

    # --- Transport thread -------------------------------------------------------------------------------------

    def traffic(self, direction: str, channel: str, data: bytes, now: float) -> None:
        """A message passed the transport (`on_traffic` of pipeline.transports.connect)."""
        if channel != "frames":
            return
        message: Any = messages.decode(data)  # 2 µs; its picture and time are at hand only now
        with self._lock:
            media_time = self._media.get(message.frame)
            pixels = self._pictures.pop(message.frame, None)
        kept = self.track.put(BITSTREAM, now, lambda: self._bitstream(message, media_time, now), cost=len(data))
        if not kept:
            self._on_gap()
        if pixels is not None:
            self._put_thumbnail(message, pixels, now)

    def event(self, session: EdgeSession, event: EdgeEvent, now: float) -> None:
        """The session told its owner something. On the transport's thread, since it looks at the session."""
        match event:
            case Connected(welcome):
                start = session_start(
                    welcome, wanted=list(session.tasks), top_k=session.top_k, lossless=session.lossless,
                    client=session.client,
                )  # fmt: skip
                self._put_json(SESSION, now, start)
            case Answered():
                self._answered(event, now)
                self._put_clock(session, now)
            case FrameDropped():
                self._forget(event.frame)
                self._put_json(DROP, now, FrameDrop(frame=event.frame, cause=event.cause, detail=event.detail))
            case FrameUnchanged():
                self._forget(event.frame)
                self._put_json(UNCHANGED, now, FrameRepeat(frame=event.frame, of=event.of))
            case _:
                pass

    def _forget(self, frame: int) -> float | None:
        """The frame has ended; its time within the source."""
        with self._lock:
            self._pictures.pop(frame, None)
            return self._media.pop(frame, None)

    def _answered(self, event: Answered, now: float) -> None:
        media_time = self._forget(event.frame)

        def result() -> Made:
            message = FrameResult(
                frame=event.frame, tasks=recorded_answers(event.tasks), layers=event.layers,
                decoded_layers=event.decoded_layers, batch=event.result.batch, payload_bytes=event.payload_bytes,
                wire_bytes=event.wire_bytes, media_time=-1.0 if media_time is None else media_time,
            )  # fmt: skip
            return Made(_json.encode(message), captured_at, event.frame)

        def stages() -> Made:
            message = FrameStages(frame=event.frame, capture_to_result_ms=event.capture_to_result_ms, **event.stages_ms)
            return Made(_json.encode(message), captured_at, event.frame)

        captured_at = now - event.capture_to_result_ms / 1e3
        self.track.put(RESULT, now, result, cost=_JSON_COST)
        self.track.put(STAGES, now, stages, cost=_JSON_COST)

    def _put_clock(self, session: EdgeSession, now: float) -> None:
        sample = session.clock.best
        if sample is not None and sample is not self._clock_sample:
            self._clock_sample = sample
            estimate = ClockEstimate(
                offset_s=sample.offset_s, error_ms=sample.round_trip_s * 500, round_trip_ms=sample.round_trip_s * 1e3
            )
            self._put_json(CLOCK, now, estimate)

    def _put_json(
        self, topic: str, now: float, message: SessionStart | FrameDrop | FrameRepeat | ClockEstimate
    ) -> None:
        frame = message.frame if isinstance(message, FrameDrop | FrameRepeat) else 0
        self.track.put(topic, now, lambda: Made(_json.encode(message), None, frame), cost=_JSON_COST)

    def _put_thumbnail(self, message: Any, pixels: NDArray[np.uint8], now: float) -> None:
        captured_at = now - message.age_at_send_us / 1e6
        # A quarter early is in time: a source at just this rate must not miss every other one by a hair.
        if self._interval_s is None or captured_at < self._thumbnail_due_at - self._interval_s / 4:
            return
        self._thumbnail_due_at = max(self._thumbnail_due_at, captured_at) + self._interval_s
        frame, captured_ns = message.frame, self._recorder.time_ns(captured_at)

        def thumbnail() -> Made:
            picture = Thumbnail(captured_ns=captured_ns, frame=frame, jpeg=self._thumbnails.encode(pixels))
            return Made(picture.encode(), captured_at, frame)

        self.track.put(THUMBNAIL, now, thumbnail, cost=pixels.nbytes)

    # --- Recorder's thread ------------------------------------------------------------------------------------

    def _bitstream(self, message: Any, media_time: float | None, now: float) -> Made | None:
        payload = self._payload(message)
        if payload is None:
            return None
        captured_at = now - message.age_at_send_us / 1e6
        bitstream = Bitstream(
            frame=message.frame, captured_ns=self._recorder.time_ns(captured_at), payload=payload,
            kind="jpeg" if isinstance(message, JpegFrame) else "bitstream", budget_us=message.budget_us,
            media_us=0 if media_time is None else 1 + round(media_time * 1e6),
        )  # fmt: skip
        return Made(bitstream.encode(), captured_at, message.frame)

    def _payload(self, message: Frame | FramePart | JpegFrame) -> bytes | None:
        """The frame's bytes; None: further parts are to come."""
        if isinstance(message, Frame):
            return message.bitstream
        if isinstance(message, JpegFrame):
            return message.image
        if message.part >= message.parts:
            return None  # Parity: what was sent is known here.
        parts = self._parts.setdefault(message.frame, {})
        parts[message.part] = message.bytes
        if len(self._parts) > PARTS_HELD:
            self._parts.popitem(last=False)
        if len(parts) < message.parts:
            return None
        self._parts.pop(message.frame, None)
        return b"".join(parts[number] for number in sorted(parts))


class WatchedPictures:
    """A source whose pictures are seen by somebody else as well."""

    def __init__(self, source: Pictures, seen: Callable[[int, NDArray[np.uint8], float | None], None]) -> None:
        self.name, self.fps, self.live = source.name, source.fps, source.live
        self._source = source
        self._seen = seen
        self._number = 0

    def __iter__(self) -> Iterator[Picture]:
        for pixels, media_time in self._source:
            self._seen(self._number, pixels, media_time)
            self._number += 1
            yield pixels, media_time

    def close(self) -> None:
        self._source.close()


def session_start(welcome: Welcome, *, wanted: list[str], top_k: int, lossless: bool, client: str = "") -> SessionStart:
    """What a Welcome says, for recordings."""
    return SessionStart(
        session=welcome.session, resumed=welcome.resumed, codec_id=welcome.codec_id, bundle_id=welcome.bundle_id,
        backbone=welcome.backbone, wanted=wanted, top_k=top_k, lossless=lossless,
        tasks=[RecordedTask(task.name, task.backbone, task.classes, task.version) for task in welcome.tasks],
        reference_epoch=welcome.reference_epoch, client=client, server=welcome.server,
    )  # fmt: skip
