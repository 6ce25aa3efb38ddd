"""The server's session with one edge: frames to be answered out, each exactly once. Pure (see session.py).

The owner answers every FrameReceived and JpegReceived with `answer` or `drop`. Frames that the owner forgets are
dropped by the session at their deadline + grace, so nothing is held for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline import limits
from pipeline.accounting import COMMON_CAUSES, SERVER_CAUSES
from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.wire import events, messages, states
from pipeline.wire.credits import CreditGrants, CreditPolicy
from pipeline.wire.cutting import holds_a_layer
from pipeline.wire.messages import LimitError
from pipeline.wire.offer import Refused, ServerOffer
from pipeline.wire.part_loss import PartTally
from pipeline.wire.replies import Replies, Reply
from pipeline.wire.server_frames import ServerFrames
from pipeline.wire.session import NEVER, Channel, Outgoing, Session, one_line, reason_of
from pipeline.wire.stage_marks import micros

FrameMessage = messages.Frame | messages.FramePart | messages.JpegFrame

_GRACE_S = limits.LOST_GRACE_MS / 1000.0


class ServerSession(Session[events.ServerEvent]):
    """One session on the server. `random(n)` gives n unpredictable bytes (os.urandom; tests: seeded)."""

    _transitions = states.SERVER_TRANSITIONS
    _role = "server"

    def __init__(
        self,
        offer: ServerOffer,
        *,
        random: Callable[[int], bytes],
        credit: CreditPolicy | None = None,
    ) -> None:
        super().__init__(states.WAITING)
        self.offer = offer
        self.credit = credit or CreditPolicy()
        """The owner may change `credit.window` at any time."""
        self.session_id = random(8).hex()
        self.resume_tokens: tuple[bytes, ...] = ()
        """Tokens that resume this session: the last one given, and its predecessor until the edge was heard again."""
        self.hello: messages.Hello | None = None
        self.tasks: tuple[messages.TaskInfo, ...] = ()
        self.backbone = ""
        self.top_k = 1
        self.reference_epoch = int.from_bytes(random(4), "big")
        self.edge_frames: int | None = None
        """Frames that the edge sent, as its Goodbye said."""
        self._random = random
        self._asked: tuple[list[str], int] = ([], 1)  # the edge's last wish: tasks and top_k
        self._grants = CreditGrants(self.credit)
        self._frames = ServerFrames(self.account)
        self._tally = PartTally()
        self._replies = Replies()
        self._hello_until = NEVER
        self._resume_until = NEVER
        self._handlers |= {
            messages.Hello: self._on_hello,
            messages.Frame: self._on_frame,
            messages.FramePart: self._on_frame_part,
            messages.JpegFrame: self._on_jpeg_frame,
            messages.SetTasks: self._on_set_tasks,
            messages.BundleRequest: self._on_bundle_request,
            messages.Goodbye: self._on_goodbye,
        }

    # --- The connection ---------------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """A connection without a session so far is up: Hello is due within HELLO_TIMEOUT_MS."""
        self._hello_until = now + limits.HELLO_TIMEOUT_MS / 1000.0

    def disconnected(self, reason: str, now: float) -> None:
        """The connection is gone. The session can be resumed for RESUME_WINDOW_MS."""
        if self.state in (states.CLOSED, states.DETACHED):
            return
        self._move("disconnected")
        if self.state == states.CLOSED:
            self._close(reason, "", clean=False)
        else:
            self._control.clear()
            self._detach(reason, now)

    def receive(self, message: messages.Message, channel: Channel, now: float) -> None:
        """A message arrived. Never raises for what the peer did."""
        if self.state == states.OPEN and not isinstance(message, messages.Hello):
            # The edge has Welcome, so it has the new token: the old one has served its single use.
            self.resume_tokens = self.resume_tokens[-1:]
        super().receive(message, channel, now)

    @property
    def uses_connection(self) -> bool:
        """Whether the connection should stay up."""
        return self.state in (states.WAITING, states.OPEN) or bool(self._control)

    @property
    def lossless(self) -> bool:
        """Whether the edge replays without loss: no deadlines."""
        return self.hello is not None and self.hello.lossless

    @property
    def client(self) -> str:
        """Program and version of the edge, as it says."""
        return "" if self.hello is None else self.hello.client

    def _detach(self, reason: str, now: float) -> None:
        self._pings.stop()
        self._grants.renew_at = NEVER
        self._resume_until = now + limits.RESUME_WINDOW_MS / 1000.0
        self._events.append(events.Disconnected(one_line(reason)))

    # --- Answers, from the owner ------------------------------------------------------------------------------

    def answer(
        self,
        frame: int,
        tasks: Sequence[messages.TaskResult],
        stages_us: Sequence[int],
        now: float,
        *,
        decoded_layers: int = 0,
        layers: int = 0,
        batch: int = 0,
    ) -> bool:
        """The answer to `frame`; `stages_us` are the SERVER_STAGES, consecutive from `received_at`.

        False if the frame has ended meanwhile (deadline, session closed): the answer is then counted as late.
        """
        if not self.account.answer(frame):
            return False
        record = self._frames.end(frame)
        received_at_us = micros(record.received_at)
        tasks, stages = list(tasks), list(stages_us)

        def build(sent_at_us: int, sent_frames_max: int, valid_ms: int) -> messages.Result:
            return messages.Result(
                frame,
                tasks,
                received_at_us,
                sent_at_us,
                stages,
                sent_frames_max,
                valid_ms,
                decoded_layers,
                layers,
                batch,
                self._tally.settled,
                self._tally.parts,
            )

        self._replies.add(Reply(frame, build, record.overdue_at), remember=self.lossless)
        return True

    def drop(self, frame: int, cause: str, detail: str, now: float, *, decoded_layers: int = 0) -> bool:
        """`frame` gets no answer, because of `cause` (accounting.SERVER_CAUSES or "stopped"). False if it has ended."""
        if cause not in SERVER_CAUSES and cause not in COMMON_CAUSES:
            raise LocalProtocolError(f"{cause!r} is no cause on a server, expected one of {', '.join(SERVER_CAUSES)}")
        if not self.account.drop(frame, cause):
            return False
        record = self._frames.end(frame)
        line = one_line(detail)

        def build(sent_at_us: int, sent_frames_max: int, valid_ms: int) -> messages.Dropped:
            told = self._tally.settled, self._tally.parts
            return messages.Dropped(frame, cause, line, decoded_layers, sent_frames_max, valid_ms, *told)

        self._replies.add(Reply(frame, build, record.overdue_at + _GRACE_S), remember=self.lossless)
        return True

    def set_tasks(
        self, tasks: Sequence[messages.TaskInfo], error: str, now: float, *, top_k: int | None = None
    ) -> None:
        """The tasks from now on (answer to TasksWanted, or the server's own change); `error`: what was not met, why."""
        self.tasks = tuple(tasks)
        self.top_k = self.top_k if top_k is None else top_k
        if self.state == states.OPEN:
            self._tell(messages.TasksChanged(list(tasks), one_line(error)), now)

    def send_bundle_part(self, codec_id: str, offset: int, total: int, part: bytes, now: float) -> None:
        """Answer to BundleRequested: at most BUNDLE_PART_BYTES from `offset` of the packed edge half."""
        if len(part) > limits.BUNDLE_PART_BYTES:
            raise LocalProtocolError(f"bundle part is {len(part)} bytes, limit {limits.BUNDLE_PART_BYTES}: send less")
        if self.state == states.OPEN:
            self._tell(messages.BundlePart(codec_id, offset, total, part), now)

    def goodbye(
        self,
        reason: str,
        detail: str,
        now: float,
        *,
        resumable: bool = False,
        retry_after_s: float = 0.0,
        peer: str = "",
    ) -> None:
        """End the connection (`resumable`: the edge may resume, here or at `peer`) or the session."""
        if self.state == states.CLOSED:
            return
        connected = self.state == states.OPEN
        resumable = resumable and self.state != states.WAITING
        self._move("goodbye+token" if resumable else "goodbye")
        token = self.resume_tokens[-1] if resumable else b""
        message = messages.Goodbye(reason, one_line(detail), token, retry_after_s, peer, self.account.entered)
        if resumable:
            if connected:
                self._control.append(message)
                self._detach(f"{reason}: {detail}" if detail else reason, now)
            return
        self._close(reason, one_line(detail), clean=reason in ("done", "draining"), cause="stopped")
        self._control.append(message)

    # --- Out --------------------------------------------------------------------------------------------------

    def poll_send(self, now: float) -> Outgoing | None:
        """See Session. Control first, then answers; answers that nobody waits for any more are left out."""
        if self._control:
            return self._poll_control(now)
        reply = self._replies.take(now) if self.state == states.OPEN else None
        if reply is None:
            return None
        self._tally.settle(now)
        message = reply.build(micros(now), self._grants.grant_now(self._held, now), self.credit.valid_ms)
        return Outgoing("results", message, messages.encode(message), reply.expires_at, reply.frame)

    def unsent(self, outgoing: Outgoing, detail: str, now: float) -> None:
        """The transport could not hand over what `poll_send` gave it: an answer waits for the edge to come back."""
        self._replies.put_back(outgoing.frame)

    @property
    def _held(self) -> int:
        """Frames that are here and not answered, or answered and not gone."""
        return len(self._frames) + len(self._replies)

    def _queue_credit(self) -> None:
        self._grants.renew_at = NEVER
        self._queue(lambda now: messages.Credit(self._grants.grant_now(self._held, now), self.credit.valid_ms))

    def _tell(self, message: messages.Message, now: float) -> None:
        try:
            self._queue(message)
        except LimitError as error:
            self._broken(error, now)

    # --- Timers -----------------------------------------------------------------------------------------------

    def timer_at(self) -> float | None:
        """See Session."""
        if self.state == states.CLOSED:
            return None
        at = min(
            self._pings.next_at,
            self._hello_until,
            self._resume_until,
            self._grants.renew_at,
            self._frames.next_due_at(),
        )
        if self.state == states.OPEN:
            at = min(at, self._idle_at())
        return None if at == NEVER else at

    def timer(self, now: float) -> None:
        """See Session."""
        for frame, prefix in self._frames.ended_assemblies(now):
            if prefix and holds_a_layer(prefix):
                self._hand_over(frame, prefix, now)
            else:
                self._drop_here(frame, "incomplete", "parts of its first layer never came", now)
        for frame in self._frames.overdue(now):
            self._drop_here(frame, "deadline", "not answered in time", now)
        if self.state == states.WAITING and now >= self._hello_until:
            self._move("hello_timeout")
            self._end("protocol", f"no Hello within {limits.HELLO_TIMEOUT_MS} ms")
        elif self.state == states.OPEN and now >= self._idle_at():
            detail = f"nothing from the edge for {limits.IDLE_TIMEOUT_MS} ms"
            self._move("idle_timeout")
            token = self.resume_tokens[-1]
            self._control.append(messages.Goodbye("idle", detail, token, sent_frames=self.account.entered))
            self._detach(detail, now)
        elif self.state == states.DETACHED and now >= self._resume_until:
            self._move("resume_timeout")
            self._close("disconnected", f"not resumed within {limits.RESUME_WINDOW_MS} ms", clean=False)
        if self.state == states.OPEN:
            self._renew(now)

    def _renew(self, now: float) -> None:
        try:
            if self._pings.due(now):
                self._queue_ping()
            if now >= self._grants.renew_at:
                self._queue_credit()
        except LimitError as error:
            self._broken(error, now)

    # --- Messages ---------------------------------------------------------------------------------------------

    def _is_late(self, message: messages.Message) -> bool:
        return self.state == states.DETACHED and not isinstance(message, messages.Hello | messages.Goodbye)

    def _on_hello(self, message: messages.Hello, now: float) -> None:
        if self.state == states.OPEN:
            if message != self.hello:
                raise RemoteProtocolError("a second Hello that differs from the first: change tasks with SetTasks")
            return  # Doubled.
        if self.state == states.DETACHED and message.resume_token not in self.resume_tokens:
            raise RemoteProtocolError("the resume token is not that of this session: begin a new one")
        resumed = self.state == states.DETACHED
        self._control.clear()
        asked = (message.tasks, message.top_k)
        try:
            if resumed:
                self.offer.check(message)
            else:
                self.backbone, self.tasks = self.offer.consider(message)
                self.top_k, self._asked = message.top_k, asked
        except Refused as refusal:
            self._move("refused")
            self._end(refusal.reason, str(refusal))
            return
        self._move("Hello")
        self.hello = message
        self._hello_until = self._resume_until = NEVER
        self.resume_tokens = (*self.resume_tokens[-1:], self._random(16))
        self.clock.reset()
        self._pings.start(now)
        self._queue(
            messages.Welcome(
                self.session_id,
                self.resume_tokens[-1],
                resumed,
                self.offer.codec_id,
                self.offer.bundle_id,
                self.backbone,
                list(self.tasks),
                self._grants.grant_now(self._held, now),
                self.credit.valid_ms,
                self.offer.payload_bytes_max,
                self.offer.reference_window,
                self.reference_epoch,
                self.offer.server,
                limits.FRAME_PARITY_PARTS_MAX,
            )
        )
        self._events.append(
            events.SessionOpened(self.session_id, message.client, self.tasks, self.top_k, message.lossless, resumed)
        )
        if asked != self._asked:  # It asked for others while it was away.
            self._wish(*asked)

    def _on_frame(self, message: messages.Frame, now: float) -> None:
        self._tell_tally(message.sent, 0, now)
        if self._enter(message, len(message.bitstream), self.offer.payload_bytes_max, now):
            self._hand_over(message.frame, message.bitstream, now)

    def _on_jpeg_frame(self, message: messages.JpegFrame, now: float) -> None:
        self._tell_tally(message.sent, 0, now)
        if self._enter(message, len(message.image), limits.JPEG_BYTES_MAX, now):
            record = self._frames[message.frame]
            self._events.append(events.JpegReceived(message.frame, message.image, record.received_at, record.deadline))

    def _on_frame_part(self, message: messages.FramePart, now: float) -> None:
        size, size_max = len(message.bytes), self.offer.payload_bytes_max
        if message.part < message.parts + message.parity:
            self._tell_tally(message.sent, message.part, now)
        if not self._frames.is_assembling(message.frame) and (
            self._frames.is_held(message.frame)
            or self.account.ended(message.frame) is not None  # A late part of a frame that went on already.
            or not self._enter(message, size, size_max, now)
        ):
            return
        bitstream = self._frames.add_part(message, size_max, now)
        if bitstream is not None:
            self._hand_over(message.frame, bitstream, now)

    def _tell_tally(self, ordinal: int, part: int, now: float) -> None:
        if ordinal <= self._grants.granted:  # Others break the contract.
            self._tally.arrived(ordinal, part, now)

    def _enter(self, message: FrameMessage, size: int, size_max: int, now: float) -> bool:
        """Count a frame that arrives. False: nothing is to be done for it (doubled, or too late already)."""
        if size > size_max:
            raise LimitError(f"frame {message.frame} is {size} bytes, limit {size_max}: lower the rate")
        frame = message.frame
        new = self._frames.is_new(frame)
        self._grants.note_sent(message.sent or self._grants.sent + new)
        if not new:
            self.account.duplicates += 1
            self._replies.repeat(frame)  # In lossless mode its answer may have been lost with a connection.
            return False
        deadline = self._deadline(message, now)
        self._frames.enter(frame, deadline, now)
        if self._grants.more_than_told(self._held):
            self._queue_credit()  # Frames were lost on the way: their credit goes back at once.
        if deadline is not None and deadline <= now:
            self._drop_here(frame, "deadline", "too old on arrival", now)
            return False
        return True

    def _deadline(self, message: FrameMessage, now: float) -> float | None:
        """Age at send and the estimated uplink are deducted from the budget."""
        if message.budget_us <= 0 or self.lossless:
            return None
        return now + (message.budget_us - max(0, message.age_at_send_us)) / 1e6 - self.clock.one_way_s

    def _hand_over(self, frame: int, bitstream: bytes, now: float) -> None:
        assert self.hello is not None
        if self.hello.codec_id != self.offer.codec_id:
            self._drop_here(frame, "undecodable", self.offer.mismatch(self.hello), now)
            return
        record = self._frames[frame]
        self._events.append(events.FrameReceived(frame, bitstream, record.received_at, record.deadline))

    def _on_ping(self, message: messages.Ping, now: float) -> None:
        super()._on_ping(message, now)
        self._grants.note_sent(message.sent_frames)
        # An edge that used up what it knows of asks like this: the Result that told it of more may be lost.
        if self._grants.more_than_told(self._held) or message.sent_frames == self._grants.sent < self._grants.granted:
            self._queue_credit()

    def _on_set_tasks(self, message: messages.SetTasks, now: float) -> None:
        self._wish(message.tasks, message.top_k)

    def _wish(self, tasks: list[str], top_k: int) -> None:
        self._asked = (tasks, top_k)
        self._events.append(events.TasksWanted(tuple(tasks), top_k))

    def _on_bundle_request(self, message: messages.BundleRequest, now: float) -> None:
        self._events.append(events.BundleRequested(message.codec_id, message.offset))

    def _on_goodbye(self, message: messages.Goodbye, now: float) -> None:
        self.edge_frames = message.sent_frames
        lost = message.sent_frames - self.account.entered
        detail = f"edge sent {message.sent_frames} frames, {self.account.entered} arrived" if lost else ""
        clean = message.reason == "done"
        self._close(one_line(message.reason), one_line(message.detail) or detail, clean, cause="stopped")
        self._control.append(messages.Goodbye("done", sent_frames=self.account.entered))

    # --- Ends -------------------------------------------------------------------------------------------------

    def _drop_here(self, frame: int, cause: str, detail: str, now: float) -> None:
        """The session itself drops a frame: the owner is told, so that it need not work on it."""
        if self.drop(frame, cause, detail, now):
            self._events.append(events.FrameDropped(frame, cause, detail))

    def _broken(self, error: RemoteProtocolError, now: float) -> None:
        self._end(reason_of(error), str(error))

    def _end(self, reason: str, detail: str) -> None:
        """Close because of the peer, and say so."""
        line = one_line(detail)
        self._close(reason, line, clean=False)
        self._control.append(messages.Goodbye(reason, line, sent_frames=self.account.entered))

    def _close(self, reason: str, detail: str, clean: bool, cause: str = "disconnected") -> None:
        self.state = states.CLOSED
        self.resume_tokens = ()
        self._pings.stop()
        self._control.clear()
        self._replies.clear()
        self._frames.clear()
        for frame in self.account.drop_all(cause):
            self._events.append(events.FrameDropped(frame, cause, detail))
        self._events.append(events.Closed(reason, detail, clean))
