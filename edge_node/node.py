"""The edge node: source → encoder → session → transport, and the records of what became of each frame.

Three threads, each with one loop:

    capture    takes pictures from the source, gives them numbers and times, hands over the newest
    encode     preprocess, analysis, entropy coding; offers the payload to the session
    transport  owns the session (pipeline.transports); its events arrive in `_on_event`

Live, a frame waits nowhere: a newer one supersedes it. In lossless replay the capture thread waits instead, until
fewer than LOSSLESS_FRAMES are under way. Whatever happens, a captured frame ends in exactly one state, and `Monitor`
counts it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge_node.handover import Handover
from edge_node.monitor import Monitor
from edge_node.outcomes import Outcomes
from edge_node.payload import PayloadEncoder
from edge_node.pictures import Notify, Source
from edge_node.records import FrameRecord
from edge_node.summary import Summary
from edge_node.view import LatestView
from pipeline import limits
from pipeline.clock import Clock, monotonic
from pipeline.errors import EngineError, FrankenError, InputError, TransportError
from pipeline.frame import Frame, Picture
from pipeline.preprocess import as_rgb
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.events import (
    Answered,
    BundleOffered,
    Closed,
    Connected,
    Disconnected,
    EdgeEvent,
    FrameDropped,
    FrameUnchanged,
    TasksNow,
)
from recordings.replay import Pace, replay

log = logging.getLogger("frankenstream.edge")

CONNECT_TIMEOUT_S = 15.0
"""How long `start` waits for the first Welcome, in seconds."""
DRAIN_S = 2.0
"""How long after the last frame answers are awaited before the rest counts as `stopped`; lossless: without progress."""
STALL_S = 3.0
"""A live source without a frame for this long is mentioned, in seconds."""
LOSSLESS_FRAMES = limits.CREDIT_FRAMES
"""Frames under way in lossless replay: what a server grants, so that none waits here for credit."""
BLOCKED_S = 1.0
"""How long a source that is asked to end may still block (a camera that hangs), in seconds."""
CLOSE_TIMEOUT_S = 3.0
TURN_S_MAX = 0.05
"""How long the encode thread sleeps before it looks again whether the link takes a frame, in seconds."""


class Transport(Protocol):
    """What the node needs of pipeline.transports.base.EdgeTransport."""

    def call(self, function: Callable[[EdgeSession, float], None]) -> None: ...

    def close(self, timeout: float) -> None: ...


Connect = Callable[[EdgeSession, Callable[[EdgeEvent], None]], Transport]
"""Starts a transport for a session, e.g. `lambda session, on_event: connect(url, session, on_event, keys=keys)`."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """`pace` None: pictures as the source gives them. `duration_s` and `frames_max`: capture no more than that."""

    lossless: bool = False
    pace: Pace | None = None
    budget_ms: int = limits.BUDGET_MS_DEFAULT
    repeat_ms: int = 0
    """How old an answer may be that is repeated for a frame that hardly changed, in milliseconds; 0: none is."""
    duration_s: float | None = None
    frames_max: int | None = None
    keep_view: bool = False
    """Keep the newest frame for drawing."""


class EdgeNode:
    """Runs one source over one session. Use `run`, or `start`, `wait` and `close`.

    `on_record` and `notify` are called from the node's threads: records of ended frames, lines for people.
    """

    def __init__(
        self,
        source: Source,
        payload: PayloadEncoder,
        session: EdgeSession,
        connect: Connect,
        *,
        settings: NodeSettings | None = None,
        monitor: Monitor | None = None,
        on_record: Callable[[FrameRecord], None] = lambda record: None,
        notify: Notify = lambda line: None,
        clock: Clock = monotonic,
    ) -> None:
        self.settings = settings if settings is not None else NodeSettings()
        self.monitor = monitor if monitor is not None else Monitor(clock=clock)
        self.payload = payload
        self.view = LatestView()
        self.failure: FrankenError | None = None
        """Why the run ended before its time; the summary is valid all the same."""
        self._source = source
        self._session = session
        self._connect = connect
        self._on_record = on_record
        self._notify = notify
        self._clock = clock
        self._handover = Handover(lossless=self.settings.lossless)
        self._connected = threading.Event()
        self._why_not = ""
        """Why there is no connection, as the transport said last."""
        self._stop = threading.Event()
        self._ended = threading.Condition()  # a frame has ended, or the node is to stop
        self._outcomes = Outcomes(repeat_ms=0 if self.settings.lossless else self.settings.repeat_ms)
        self._encode_s = 0.0
        self._last_capture = 0.0
        self._stalled = False
        self._drain_until: float | None = None
        self._began = 0.0
        self._stopped_at: float | None = None
        self._transport: Transport | None = None
        self._threads = [
            threading.Thread(target=self._capture, name="capture", daemon=True),
            threading.Thread(target=self._encode, name="encode", daemon=True),
        ]

    # --- For the owner's thread ------------------------------------------------------------------------------

    def run(self, tick: Callable[[], None] = lambda: None, interval_s: float = 0.1) -> Summary:
        """Start, call `tick` every `interval_s` until all is done, close. Raises what `start` raises.

        What goes wrong later is in `failure` (and in the summary's `error`), since a summary is due in any case.
        """
        try:
            self.start()
            while not self.wait(interval_s):
                tick()
        finally:
            self.close()
        return self.monitor.summary()

    def start(self, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Connect, then capture. Raises TransportError or ProtocolError if the server does not welcome us in time."""
        self._transport = self._connect(self._session, self._on_event)
        deadline = self._clock() + connect_timeout_s
        while not self._connected.wait(0.05) and self.failure is None and not self._stop.is_set():
            if self._clock() > deadline:
                raise no_welcome(connect_timeout_s, self._why_not)
        if self.failure is not None:
            raise self.failure
        self._began = self._last_capture = self._clock()
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> bool:
        """Sleep up to `seconds`; True when everything is done and `close` is due."""
        with self._ended:
            self._ended.wait_for(self._finished, seconds)
        self._watch_source()
        self._watch_time()
        return self._finished()

    def set_tasks(self, tasks: Sequence[str], top_k: int = 1) -> None:
        """Ask for other tasks from now on (none: all of the backbone's). Thread-safe; `notify` hears the answer."""
        self._call(lambda session, now: session.set_tasks(tuple(tasks), top_k, now))

    def say(self, line: str) -> None:
        """Tell people, now and in the summary. From any thread."""
        self.monitor.notice(line)
        self._notify(line)

    def stop(self) -> None:
        """End soon: no more frames are captured. From any thread, and from signal handlers."""
        if self._stopped_at is None:
            self._stopped_at = self._clock()
        self._stop.set()
        self._source.close()

    def close(self) -> None:
        """Stop, let the threads end, say goodbye. Frames without answer end as `stopped`. Idempotent."""
        self.stop()
        self._handover.close()
        with self._ended:
            self._ended.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(BLOCKED_S)
        if self._transport is not None:
            self._transport.close(CLOSE_TIMEOUT_S)
            self._transport = None
        self.monitor.late_results = self._session.account.late_results
        self.monitor.duplicates = self._session.account.duplicates
        self.monitor.error = str(self.failure) if self.failure is not None else ""
        self.monitor.ended()

    def _finished(self) -> bool:
        if self.failure is not None and not isinstance(self.failure, InputError):
            return True
        now = self._clock()
        if any(thread.is_alive() for thread in self._threads):
            return self._stopped_at is not None and now - self._stopped_at > BLOCKED_S
        if self.monitor.outstanding == 0:
            return True
        until = self._drain_until  # read once: a frame that ends (`_end`) may start the drain anew meanwhile
        if until is None:
            until = self._drain_until = now + DRAIN_S + self.settings.budget_ms / 1e3
        return now >= until

    def _watch_source(self) -> None:
        if not self._source.live or not self._threads[0].is_alive():
            return
        quiet = self._clock() - self._last_capture
        if quiet > STALL_S and not self._stalled:
            self._stalled = True
            self.say(f"{self._source.name} has given no frame for {quiet:.0f} s")

    def _watch_time(self) -> None:
        """End a run whose source gives nothing any more: the capture thread only looks at the time with a frame."""
        duration, started = self.settings.duration_s, self.monitor.started_at
        since = self._clock() - (started if started is not None else self._began)
        if duration is not None and since > duration + BLOCKED_S:
            self.stop()

    # --- Capture thread --------------------------------------------------------------------------------------

    def _capture(self) -> None:
        try:
            with closing(self._pictures()) as pictures:
                for number, (pixels, media_time) in enumerate(pictures):
                    self._captured(number, pixels, media_time)
                    if self._capture_is_over(number + 1):
                        return
        except FrankenError as error:
            self._fail(error)
        except Exception as error:  # a source may raise anything; that must not pass for its end
            self._crashed(error)
        finally:
            self._handover.close()

    def _pictures(self) -> Generator[Picture]:
        """The source's pictures at their pace, each one only when the node may take it."""
        pictures: Iterator[Picture] = iter(self._source)
        if self.settings.pace is not None and not self._source.live:
            pictures = replay(
                self._source, self.settings.pace, fps=self._source.fps, clock=self._clock, wait=self._stop.wait
            )
        while self._may_capture():
            picture = next(pictures, None)
            if picture is None or self._stop.is_set():
                return
            yield picture

    def _may_capture(self) -> bool:
        """Live: always. Lossless: once fewer than LOSSLESS_FRAMES are under way. False: the node is to stop."""
        if self.settings.lossless:
            with self._ended:
                self._ended.wait_for(lambda: self._stop.is_set() or self.monitor.outstanding < LOSSLESS_FRAMES)
        return not self._stop.is_set()

    def _captured(self, number: int, pixels: np.ndarray, media_time: float | None) -> None:
        now = self._clock()
        self._last_capture, self._stalled = now, False
        frame = Frame(number, now, np.ascontiguousarray(as_rgb(pixels)), media_time)
        self._outcomes.captured(number, now, media_time)
        self.monitor.captured()
        self._call(lambda session, _: session.capture(number, now))
        if self.settings.keep_view:
            self.view.captured(frame)
        superseded = self._handover.put(frame)
        if superseded is not None:
            self._drop(superseded.number, "superseded", "a newer frame came before it was encoded")

    def _capture_is_over(self, captured: int) -> bool:
        if self._stop.is_set():
            return True
        if self.settings.frames_max is not None and captured >= self.settings.frames_max:
            return True
        started = self.monitor.started_at
        duration = self.settings.duration_s
        return duration is not None and started is not None and self._clock() - started >= duration

    # --- Encode thread ---------------------------------------------------------------------------------------

    def _encode(self) -> None:
        try:
            while (frame := self._next_frame()) is not None:
                self._offer_or_drop(frame)
        except Exception as error:  # without this thread every later frame would be superseded
            self._crashed(error)
        with self._ended:
            self._ended.notify_all()

    def _offer_or_drop(self, frame: Frame) -> None:
        budget_s = self.settings.budget_ms / 1e3
        taken_at = self._clock()
        age = taken_at - frame.captured_at
        if self._stop.is_set():
            self._drop(frame.number, "stopped", "the run was ended before it was encoded")
        elif self.settings.lossless:
            self._offer(frame, taken_at)
        elif not self._connected.is_set():
            self._drop(frame.number, "disconnected", "there was no connection when it was captured")
        elif age > budget_s:
            self._drop(
                frame.number,
                "too_old",
                f"{age * 1e3:.0f} ms old before it was encoded, budget {budget_s * 1e3:.0f} ms",
            )
        else:
            self._offer(frame, taken_at)

    def _next_frame(self) -> Frame | None:
        """The newest frame, once the link will take it: what waits before encoding can still be superseded."""
        control = self._session.control
        while control is not None and not self._stop.is_set():
            wait_s = control.turn_at(self._clock()) - self._encode_s - self._clock()
            if wait_s <= 0:
                break
            with self._ended:
                self._ended.wait(min(wait_s, TURN_S_MAX))
        return self._handover.take()

    def _offer(self, frame: Frame, taken_at: float) -> None:
        """Encode and offer; a frame that cannot be encoded is dropped, and the next one is as good as any."""
        control = self._session.control
        rung = None
        if control is not None:
            choice = self.monitor.choice = control.choice_at(taken_at)
            rung = control.ladder[choice.rung]
            self.payload.choose(choice.encode)
        try:
            encoded = self.payload.encode(frame, taken_at)
        except FrankenError as error:
            self._drop(frame.number, "encode_failed", str(error))
            return
        self._encode_s += 0.2 * (self._clock() - taken_at - self._encode_s)
        self._outcomes.encoded(frame.number, rung, encoded)
        of = self._outcomes.repeats(frame, encoded)
        if of is not None:
            self._call(lambda session, now: session.unchanged(frame.number, of, now))
            return
        kind = self.payload.kind
        self._call(lambda session, now: session.offer(frame.number, encoded.payload, encoded.marks, now, kind=kind))

    # --- Towards and from the session ------------------------------------------------------------------------

    def _call(self, function: Callable[[EdgeSession, float], None]) -> None:
        if self._transport is not None:
            self._transport.call(function)

    def _drop(self, number: int, cause: str, detail: str) -> None:
        self._call(lambda session, now: session.fail(number, cause, detail, now))

    def _on_event(self, event: EdgeEvent) -> None:
        """On the transport's thread."""
        match event:
            case Answered() | FrameDropped() | FrameUnchanged():
                self._end(self._outcomes.record(event))
            case TasksNow(tasks, error):
                self._outcomes.tasks_changed()
                self.say(error or f"tasks now: {', '.join(task.name for task in tasks) or 'none'}")
            case Connected(welcome):
                self.monitor.connections += 1
                facts = self.monitor.facts
                facts.backbone, facts.bundle_id, facts.server = welcome.backbone, welcome.bundle_id, welcome.server
                if not self.settings.lossless:  # a frame that is sent again in a new session must stand alone
                    self.payload.opened(welcome)
                if self.monitor.connections > 1:
                    self.say("connected again, " + ("the session goes on" if welcome.resumed else "with a new session"))
                self._connected.set()
            case Disconnected(reason):
                self._why_not = reason
                if self._connected.is_set():
                    self.say(f"connection lost ({reason}): trying again")
                self._connected.clear()
            case BundleOffered():
                self._fail(
                    TransportError(
                        f"the server has bundle {event.codec_id[:12]}…, another one than this edge: start both "
                        "with the same --bundle, or fetch the server's with `frankenstream bundle fetch`"
                    )
                )
            case Closed() if not event.clean and not self._stop.is_set():
                self._fail(TransportError(f"the server ended the session ({event.reason}): {event.detail}"))
            case Closed():
                self._connected.clear()
                self.stop()

    def _end(self, record: FrameRecord) -> None:
        if record.state == "encode_failed" and not self.monitor.dropped.get("encode_failed"):
            self.say(f"frame {record.frame} could not be encoded: {record.detail}")  # the first one only
        self.payload.ended(record)
        self.monitor.record(record)
        self.view.ended(record)
        if self.settings.lossless:  # progress: the drain starts anew
            self._drain_until = None
        with self._ended:
            self._ended.notify_all()
        self._on_record(record)  # last: whatever the owner does with it, nobody waits for ever

    def _crashed(self, error: Exception) -> None:
        """One of our threads ends with an error that nobody foresaw: so does the run."""
        thread = threading.current_thread().name
        log.exception("the edge's %s thread failed", thread)
        what = " ".join(str(error).split())
        self._fail(
            EngineError(f"the edge's {thread} thread failed ({type(error).__name__}: {what}): this is a bug, report it")
        )

    def _fail(self, error: FrankenError) -> None:
        if self.failure is None:
            self.failure = error
        if not isinstance(error, InputError):
            self.stop()
        with self._ended:
            self._ended.notify_all()


def no_welcome(seconds: float, reason: str) -> TransportError:
    """No server let an edge in for so long. `reason`: what the last attempt failed for, as far as it is known."""
    known = f" ({reason})" if reason else ""
    return TransportError(
        f"no server answered within {seconds:g} s{known}: is `frankenstream serve` running there, "
        "and is the address right?"
    )
