"""The edge's session: frames in, one terminal state for each out. Pure (see session.py).

Frames and how they end: edge_frames.py; which of them leaves when: edge_sending.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import limits
from pipeline.accounting import COMMON_CAUSES, SERVER_CAUSES
from pipeline.errors import RemoteProtocolError
from pipeline.rate_control import RateControl
from pipeline.stages import SERVER_STAGES
from pipeline.wire import events, messages, states
from pipeline.wire.credits import CreditBalance
from pipeline.wire.edge_frames import EdgeFrames, FrameKind
from pipeline.wire.edge_sending import EdgeSending
from pipeline.wire.messages import LimitError
from pipeline.wire.part_loss import LossEstimate
from pipeline.wire.session import NEVER, Outgoing, Session, one_line, reason_of
from pipeline.wire.stage_marks import StageMarks, stages_ms


class EdgeSession(Session[events.EdgeEvent]):
    """One edge's session with a server, over any number of connections.

    `codec_id` is that of the edge's bundle ("" for none: the server's is offered). `tasks`, `backbone`, `top_k` as in
    Hello. `budget_ms` is the age from capture at which an answer is no longer wanted; with `lossless` there is no
    budget. `part_bytes` > 0 splits frames into FrameParts of at most that many bytes (for channels that lose
    messages); a transport of datagrams sets it. With `control` frames leave when it says so.
    """

    _transitions = states.EDGE_TRANSITIONS
    _role = "edge"

    def __init__(
        self,
        *,
        codec_id: str,
        client: str = "",
        tasks: Sequence[str] = (),
        backbone: str = "",
        top_k: int = 1,
        lossless: bool = False,
        budget_ms: float = limits.BUDGET_MS_DEFAULT,
        part_bytes: int = 0,
        control: RateControl | None = None,
    ) -> None:
        super().__init__(states.IDLE)
        self.codec_id = codec_id
        self.client = client
        self.tasks = tuple(tasks)
        self.backbone = backbone
        self.top_k = top_k
        self.lossless = lossless
        self.welcome: messages.Welcome | None = None
        """The last Welcome, or None before the first."""
        self.reconnect_at = float("-inf")
        """The server asked not to come back before this (monotonic seconds)."""
        self.peer = ""
        """URL of the server to connect to next, if the server named another one."""
        self.peer_frames: int | None = None
        """Frames that the server received, as its Goodbye said."""
        self._resume_token = b""
        self._frames = EdgeFrames(
            self.account, self._events.append, lossless=lossless, budget_s=budget_ms / 1000.0, part_bytes=part_bytes
        )
        self._sending = EdgeSending(self._frames, self.clock, control)
        self._now = float("-inf")
        self._hello_until = NEVER
        self._stop_until = NEVER
        self._goodbye_until = NEVER
        self._handlers |= {
            messages.Welcome: self._on_welcome,
            messages.Result: self._on_result,
            messages.Dropped: self._on_dropped,
            messages.Credit: self._on_credit,
            messages.TasksChanged: self._on_tasks_changed,
            messages.BundlePart: self._on_bundle_part,
            messages.Goodbye: self._on_goodbye,
        }

    # --- What leaves when (edge_sending.py) -------------------------------------------------------------------

    @property
    def credit(self) -> CreditBalance:
        """What the server has granted."""
        return self._sending.credit

    @property
    def loss(self) -> LossEstimate:
        """How many parts get lost; of use where frames go in parts."""
        return self._sending.loss

    @loss.setter
    def loss(self, loss: LossEstimate) -> None:
        self._sending.loss = loss

    @property
    def control(self) -> RateControl | None:
        """What says when frames leave, if anything does."""
        return self._sending.control

    @control.setter
    def control(self, control: RateControl | None) -> None:
        self._sending.control = control

    # --- The connection ---------------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """The transport is up: says Hello, with the resume token if there is one."""
        self._move("connected")
        self._now = now
        self.clock.reset()
        self._sending.connected(now)
        self._control.clear()
        self._frames.on_its_way.clear()
        self._hello_until = now + limits.HELLO_TIMEOUT_MS / 1000.0
        self._last_received_at = now
        self._queue(
            messages.Hello(
                messages.PROTOCOL_VERSION,
                self.codec_id,
                self.client,
                list(self.tasks),
                self.backbone,
                self.top_k,
                self.lossless,
                self._resume_token,
            )
        )

    def disconnected(self, reason: str, now: float) -> None:
        """The transport is down, or could not get up. The session waits for the next `connected`."""
        if self.state == states.CLOSED:
            return
        self._move("disconnected")
        self._hang_up(reason, now)

    def refused(self, reason: str, detail: str, now: float) -> None:
        """The network says that trying again is of no use (a wrong key): closes the session."""
        if self.state != states.CLOSED:
            self._close(reason, detail, clean=False, cause="disconnected")

    @property
    def wants_connection(self) -> bool:
        """Whether a transport that is down should connect (not before `reconnect_at`)."""
        return self.state in (states.IDLE, states.DETACHED)

    @property
    def uses_connection(self) -> bool:
        """Whether a transport that is up should stay up."""
        return self.state in states.EDGE_CONNECTED or bool(self._control)

    def _hang_up(self, reason: str, now: float) -> None:
        self._pings.stop()
        self._control.clear()
        self._frames.on_its_way.clear()
        self._sending.disconnected()
        self._hello_until = NEVER
        if self.state == states.CLOSED:
            self._close("done", f"connection lost while closing: {reason}", clean=False, cause="disconnected")
        else:
            self._events.append(events.Disconnected(one_line(reason)))

    # --- Frames, from the owner -------------------------------------------------------------------------------

    def capture(self, frame: int, captured_at: float) -> None:
        """A frame was captured: from here on it is counted, and ends in one Answered or FrameDropped.

        Raises LocalProtocolError if the number is not larger than all before.
        """
        self._frames.capture(frame, captured_at)
        if self.state in (states.STOPPING, states.CLOSING, states.CLOSED):
            self._frames.drop(frame, "stopped")

    def fail(self, frame: int, cause: str, detail: str, now: float) -> None:
        """The node gives a frame up before it is sent (encode_failed, superseded, too_old, stopped)."""
        self._frames.give_up(frame, cause, detail)

    def unchanged(self, frame: int, of: int, now: float) -> None:
        """The node repeats the answer to frame `of` instead of sending `frame`, whose latent is the same."""
        self._frames.repeat(frame, of)
        self._check_drained(now)

    @property
    def part_bytes(self) -> int:
        """Frames go in parts of at most so many bytes; 0: whole. A transport may set it before it says `connected`."""
        return self._frames.part_bytes

    @part_bytes.setter
    def part_bytes(self, part_bytes: int) -> None:
        self._frames.part_bytes = part_bytes

    def offer(
        self, frame: int, payload: bytes, marks: StageMarks, now: float, *, kind: FrameKind = "bitstream"
    ) -> None:
        """The frame is encoded. It is sent when credit allows; until then a newer one supersedes it (live)."""
        self._now = now
        self._frames.offer(frame, payload, marks, kind, self._payload_bytes_max(kind))

    def can_send(self) -> bool:
        """Whether a frame that is offered now would be sent at once. `CreditChanged` says when it becomes true."""
        return self.state == states.OPEN and self.credit.available(self._now) > self._frames.pending

    @property
    def credit_available(self) -> int:
        """Frames that may be sent now."""
        return self.credit.available(self._now) if self.state == states.OPEN else 0

    def set_tasks(self, tasks: Sequence[str], top_k: int, now: float) -> None:
        """Ask for other tasks; TasksNow tells the outcome. Without a connection the next Hello asks."""
        self.tasks, self.top_k = tuple(tasks), top_k
        if self.state == states.OPEN:
            self._queue(messages.SetTasks(list(tasks), top_k))

    def request_bundle(self, codec_id: str, offset: int, now: float) -> None:
        """Ask for a piece of the edge half of the server's bundle; BundlePartReceived brings it."""
        if self.state == states.OPEN:
            self._queue(messages.BundleRequest(codec_id, offset))

    def stop(self, now: float, *, drain_s: float = 0.0) -> None:
        """End the session. Frames that are not sent end as `stopped`; those under way may be answered for `drain_s`."""
        if self.state in (states.CLOSING, states.CLOSED):
            return
        said_hello = self.state == states.OPENING
        self._move("stop")
        if self.state == states.CLOSED:
            self._close("done", "", clean=True, cause="stopped")
            if said_hello:
                self._control.append(messages.Goodbye("done"))
            return
        self._frames.drop_unsent("stopped")
        self._stop_until = min(self._stop_until, now + drain_s)
        self._check_drained(now)

    def unsent(self, outgoing: Outgoing, detail: str, now: float) -> None:
        """The transport could not hand over what `poll_send` gave it (the network did not take it in time)."""
        if outgoing.frame is not None:
            self._frames.drop(outgoing.frame, "send_failed", detail)

    # --- Out --------------------------------------------------------------------------------------------------

    def poll_send(self, now: float) -> Outgoing | None:
        """See Session. Control first, then the parts of a frame that has begun, then the next frame."""
        self._now = now
        if self._control:
            return self._poll_control(now)
        return self._sending.next(now, is_open=self.state == states.OPEN)

    # --- Timers -----------------------------------------------------------------------------------------------

    def timer_at(self) -> float | None:
        """See Session."""
        if self.state == states.CLOSED:
            return None
        at = min(self._pings.next_at, self._hello_until, self._stop_until, self._goodbye_until)
        if self.state in (states.OPEN, states.STOPPING):
            at = min(at, self._idle_at())
        at = min(at, self._frames.next_due_at(), self._sending.next_at)
        return None if at == NEVER else at

    def timer(self, now: float) -> None:
        """See Session."""
        self._now = now
        try:
            self._do_due(now)
        except LimitError as error:
            self._broken(error, now)

    def _do_due(self, now: float) -> None:
        self._frames.end_overdue(now, connected=self.state in (states.OPEN, states.STOPPING))
        if self.state == states.OPENING and now >= self._hello_until:
            self._move("hello_timeout")
            self._hang_up(f"no Welcome within {limits.HELLO_TIMEOUT_MS} ms", now)
        elif self.state in (states.OPEN, states.STOPPING) and now >= self._idle_at():
            self._move("idle_timeout")
            self._hang_up(f"nothing from the server for {limits.IDLE_TIMEOUT_MS} ms", now)
        elif self.state == states.CLOSING and now >= self._goodbye_until:
            self._close("done", "the server did not say Goodbye", clean=True, cause="stopped")
        self._check_drained(now)
        if self.state == states.CLOSED:
            return
        if self._sending.due(now):
            self._queue_ping()
        if self._pings.due(now):
            self._queue_ping()

    def _check_drained(self, now: float) -> None:
        if self.state == states.STOPPING and (not self._frames or now >= self._stop_until):
            self._move("drained")
            self._stop_until = NEVER
            self._frames.on_its_way.clear()
            self._frames.drop_all("stopped")
            self._goodbye_until = now + limits.GOODBYE_TIMEOUT_MS / 1000.0
            self._control.append(messages.Goodbye("done", sent_frames=self.credit.sent))

    # --- Messages ---------------------------------------------------------------------------------------------

    def _is_late(self, message: messages.Message) -> bool:
        return self.state in (states.IDLE, states.DETACHED)

    def _on_welcome(self, message: messages.Welcome, now: float) -> None:
        known = self.welcome.session if self.welcome is not None and self._resume_token else ""
        if self.state != states.OPENING:
            if message.session != known:
                raise RemoteProtocolError(f"Welcome to session {message.session!r} while {known!r} is {self.state}")
            return  # Doubled.
        if message.resumed and message.session != known:
            raise RemoteProtocolError(f"Welcome resumes {message.session!r}, asked for {known or 'a new session'!r}")
        self._move("Welcome")
        if not message.resumed:
            self._end_session("the server does not know the session any more")
        elif self.lossless:
            self._frames.resend()
        self._hello_until = NEVER
        self.welcome = message
        self._sending.parity_parts_max = message.parity_parts_max
        self._resume_token = message.resume_token
        self._pings.start(now)
        self._events.append(events.Connected(message))
        if message.codec_id != self.codec_id:
            self._events.append(events.BundleOffered(message.codec_id, message.bundle_id))
        self._take_credit(message.sent_frames_max, message.credit_valid_ms, now)

    def _on_result(self, message: messages.Result, now: float) -> None:
        if len(message.stages_us) != len(SERVER_STAGES):
            raise RemoteProtocolError(f"Result has {len(message.stages_us)} stages, expected {len(SERVER_STAGES)}")
        record = self._frames.spoken_of("Result", message.frame)
        self.loss.told(message.settled, message.parts_received)
        self._take_credit(message.sent_frames_max, message.credit_valid_ms, now)
        if self.control is not None:
            self.control.acknowledged(message.frame, message.received_at_us / 1e6, now)
        if not self._frames.answered(message.frame) or record is None:
            return  # Counted as late or doubled.
        assert record.marks is not None
        assert record.sent_at is not None
        stages = stages_ms(record.marks, record.sent_at, message, now, self.clock.offset_s)
        error_s = self.clock.error_s
        self._events.append(
            events.Answered(
                message.frame,
                tuple(message.tasks),
                stages,
                sum(stages.values()),
                None if error_s is None else error_s * 1e3,
                record.payload_bytes,
                record.wire_bytes,
                message.decoded_layers,
                message.layers,
                message,
            )
        )
        self._check_drained(now)

    def _on_dropped(self, message: messages.Dropped, now: float) -> None:
        if message.cause not in SERVER_CAUSES and message.cause not in COMMON_CAUSES:
            causes = ", ".join(SERVER_CAUSES)
            raise RemoteProtocolError(f"Dropped has cause {message.cause[:40]!r}, expected one of {causes}")
        record = self._frames.spoken_of("Dropped", message.frame)
        self.loss.told(message.settled, message.parts_received)
        if message.sent_frames_max:
            self._take_credit(message.sent_frames_max, message.credit_valid_ms, now)
        if self.control is not None:
            undecodable = message.cause in ("incomplete", "undecodable")
            self.control.refused(message.frame, now, undecodable=undecodable)
        if record is not None:
            self._frames.drop(message.frame, message.cause, one_line(message.detail))
            self._check_drained(now)

    def _pinged(self, sent_at: float, received_at: float, now: float) -> None:
        if self.control is not None:
            self.control.pinged(sent_at, received_at, now)

    def _on_credit(self, message: messages.Credit, now: float) -> None:
        self._take_credit(message.sent_frames_max, message.valid_for_ms, now)

    def _take_credit(self, sent_frames_max: int, valid_ms: int, now: float) -> None:
        before = self.credit.available(self._now)
        self._now = now
        after = self._sending.take_credit(sent_frames_max, valid_ms, now)
        if self.state == states.OPEN and after and not before:
            self._events.append(events.CreditChanged(after))

    def _on_tasks_changed(self, message: messages.TasksChanged, now: float) -> None:
        self._events.append(events.TasksNow(tuple(message.tasks), one_line(message.error)))

    def _on_bundle_part(self, message: messages.BundlePart, now: float) -> None:
        size_max = limits.EDGE_BUNDLE_BYTES_MAX
        if message.total > size_max or message.offset + len(message.part) > message.total:
            raise LimitError(
                f"BundlePart has bytes {message.offset} to {message.offset + len(message.part)} of {message.total}, "
                f"limit {size_max}"
            )
        self._events.append(events.BundlePartReceived(message))

    def _on_goodbye(self, message: messages.Goodbye, now: float) -> None:
        trigger = states.trigger_of(message)
        reason = one_line(message.reason)
        detail = one_line(message.detail)
        self.peer_frames = message.sent_frames
        if self.state in (states.STOPPING, states.CLOSING) or trigger == "Goodbye":
            clean = reason == "done" or self.state in (states.STOPPING, states.CLOSING)
            cause = "stopped" if self.state == states.CLOSING else "disconnected"
            self._close(reason, detail, clean, cause, message.retry_after_s, message.peer)
            return
        self._move(trigger)
        # A hostile server may ask for an endless wait; an edge comes back within the resume window.
        self.reconnect_at = now + min(max(0.0, message.retry_after_s), limits.RESUME_WINDOW_MS / 1000.0)
        self.peer = message.peer
        if trigger == "Goodbye+token":
            self._resume_token = message.resume_token
        else:
            self._end_session(f"the server ended the session: {reason}")
        self._hang_up(f"{reason}: {detail}" if detail else reason, now)

    # --- Ends -------------------------------------------------------------------------------------------------

    def _end_session(self, detail: str) -> None:
        """The server's side of the session is gone; frames that were with it will never be answered."""
        self._resume_token = b""
        self._sending.begin()
        if self.lossless:
            self._frames.resend()
        else:
            self._frames.drop_sent("disconnected", detail)

    def _broken(self, error: RemoteProtocolError, now: float) -> None:
        reason, detail = reason_of(error), one_line(str(error))
        self._close(reason, detail, clean=False, cause="disconnected")
        self._control.append(messages.Goodbye(reason, detail, sent_frames=self.credit.sent))

    def _close(
        self, reason: str, detail: str, clean: bool, cause: str, retry_after_s: float = 0.0, peer: str = ""
    ) -> None:
        self.state = states.CLOSED
        self._pings.stop()
        self._control.clear()
        self._frames.on_its_way.clear()
        self._resume_token = b""
        self._frames.drop_all(cause, detail)
        self._events.append(events.Closed(reason, detail, clean, retry_after_s, peer))

    def _payload_bytes_max(self, kind: FrameKind) -> int:
        if kind == "jpeg":
            return limits.JPEG_BYTES_MAX
        return limits.PAYLOAD_BYTES_MAX if self.welcome is None else self.welcome.payload_bytes_max

    def _sent_frames(self) -> int:
        return self._sending.settled_frames(self._now)
