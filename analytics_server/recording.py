"""`serve --record DIR`: a recording of each session, from the server's side: what came in, and what became of it.

Frames count from their receipt, since the server does not know when they were captured; stages are the server's own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from analytics_server.work import FrameWork, Outcome
from pipeline.bundle import Bundle
from pipeline.clock import Clock, monotonic
from pipeline.errors import ConfigError
from pipeline.stages import SERVER_STAGES
from pipeline.wire import ServerSession
from recordings.recorder import Made, Recorder, Track, program_facts
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
    RecordedTask,
    SessionStart,
    recorded_answers,
)

log = structlog.get_logger(__name__)

_JSON_COST = 1_000
_json = msgspec.json.Encoder()


class SessionRecordings:
    """Records every session into `folder`, one file each. Stands between frames and `outcome`, which hears all of it.

    Thread-safe; nothing here waits for the disk. Raises ConfigError if the folder cannot be made.
    """

    def __init__(self, folder: Path, bundle: Bundle, outcome: Outcome, *, clock: Clock = monotonic) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"recordings cannot go to {str(folder)!r}: {error.strerror}: choose another folder"
            ) from None
        self._folder = folder
        self._bundle = bundle
        self._outcome = outcome
        self._clock = clock
        self._recorder = Recorder(notify=lambda line: log.warning("recording", detail=line), clock=clock)
        self._lock = threading.Lock()
        self._tracks: dict[str, Track] = {}

    def opened(self, session: ServerSession, *, resumed: bool) -> None:
        """A session was welcomed, or came back."""
        now = self._clock()
        track = self._track(session.session_id) or self._begin(session)
        hello = session.hello
        if track is None or hello is None:
            return
        start = SessionStart(
            session=session.session_id, resumed=resumed, codec_id=self._bundle.codec_id,
            bundle_id=self._bundle.bundle_id, backbone=session.backbone, wanted=list(hello.tasks),
            tasks=[RecordedTask(task.name, task.backbone, task.classes, task.version) for task in session.tasks],
            top_k=session.top_k, lossless=session.lossless, reference_epoch=session.reference_epoch,
            client=session.client, server=session.offer.server,
        )  # fmt: skip
        track.put(SESSION, now, lambda: Made(_json.encode(start)), cost=_JSON_COST)

    def received(self, work: FrameWork) -> None:
        """A frame came in."""
        budget_s = 0.0 if work.deadline is None else max(0.0, work.deadline - work.received_at)
        payload, frame, at = work.payload, work.frame, work.received_at
        kind = "bitstream" if work.kind == "latent" else "jpeg"

        def bitstream() -> Made:
            message = Bitstream(
                frame=frame, captured_ns=self._recorder.time_ns(at), payload=payload, kind=kind,
                budget_us=round(budget_s * 1e6),
            )  # fmt: skip
            return Made(message.encode(), at, frame)

        self._put(work, BITSTREAM, at, bitstream, len(payload))

    def answered(self, work: FrameWork, stages_s: Sequence[float]) -> None:
        """See Outcome."""
        now = self._clock()
        results = [result for _, result in work.answers]

        def result() -> Made:
            message = FrameResult(
                frame=work.frame, tasks=recorded_answers(results), layers=work.layers,
                decoded_layers=work.decoded_layers, batch=work.batch,
            )  # fmt: skip
            return Made(_json.encode(message), work.received_at, work.frame)

        def stages() -> Made:
            each = {stage: seconds * 1e3 for stage, seconds in zip(SERVER_STAGES, stages_s, strict=True)}
            message = FrameStages(frame=work.frame, capture_to_result_ms=sum(each.values()), **each)
            return Made(_json.encode(message), work.received_at, work.frame)

        self._put(work, RESULT, now, result, _JSON_COST)
        self._put(work, STAGES, now, stages, _JSON_COST)
        self._outcome.answered(work, stages_s)

    def dropped(self, work: FrameWork, cause: str) -> None:
        """See Outcome."""
        drop = FrameDrop(frame=work.frame, cause=cause, detail=work.detail)
        self._put(work, DROP, self._clock(), lambda: Made(_json.encode(drop), None, drop.frame), _JSON_COST)
        self._outcome.dropped(work, cause)

    def closed(self, session_id: str) -> None:
        """A session is over: its file is finished."""
        with self._lock:
            track = self._tracks.pop(session_id, None)
        if track is not None:
            track.close()

    def close(self) -> None:
        """Finish every file."""
        self._recorder.close()

    def _track(self, session_id: str) -> Track | None:
        with self._lock:
            return self._tracks.get(session_id)

    def _begin(self, session: ServerSession) -> Track | None:
        """A new file; a folder that went away costs the recording and not the session."""
        begun = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        path = self._folder / f"{begun}-{session.session_id}.mcap"
        facts = Facts(
            role="server", source=session.client, codec_id=self._bundle.codec_id, bundle_id=self._bundle.bundle_id,
            **program_facts(),
        )  # fmt: skip
        try:
            track = self._recorder.record(path, facts)
        except ConfigError as error:
            log.error("session is not recorded", session=session.session_id, error=str(error))
            return None
        with self._lock:
            self._tracks[session.session_id] = track
        log.info("recording", session=session.session_id, file=str(path))
        return track

    def _put(self, work: FrameWork, topic: str, at: float, make: Callable[[], Made], cost: int) -> None:
        track = self._track(work.session.session_id)
        if track is not None:
            track.put(topic, at, make, cost=cost)
