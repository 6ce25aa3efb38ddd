"""What edge and server session have in common: the state table, the outbox, events, pings and the clock offset.

A session is pure: messages and `now` go in; messages, events and the next timer come out. No socket, no clock, no
thread. A transport is the pump around it (pipeline.transports):

    session.receive_data(data, now)            bytes of one message arrived (or `receive` for a decoded one)
    while out := session.poll_send(now): ...   hand `out.data` to the network
    while event := session.next_event(): ...   tell the owner
    session.timer(now)                         at session.timer_at()

Whatever arrives gives events, or Goodbye and `Closed` for this session alone; never another exception.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from pipeline import limits
from pipeline.accounting import FrameAccount
from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.wire import messages
from pipeline.wire.clock_offset import ClockOffset, PingSchedule
from pipeline.wire.messages import LimitError, Message, Ping, Pong
from pipeline.wire.stage_marks import micros
from pipeline.wire.states import CLOSED, Table, trigger_of

Channel = Literal["control", "frames", "results"]
"""control: reliable and in order, both ways. frames: up, may lose, double, reorder. results: down, may too."""

CHANNELS: Final[dict[type, Channel]] = {
    messages.Hello: "control",
    messages.Welcome: "control",
    messages.BundleRequest: "control",
    messages.BundlePart: "control",
    messages.Frame: "frames",
    messages.FramePart: "frames",
    messages.JpegFrame: "frames",
    messages.Result: "results",
    messages.Dropped: "results",
    messages.Credit: "control",
    messages.SetTasks: "control",
    messages.TasksChanged: "control",
    messages.Ping: "control",
    messages.Pong: "control",
    messages.Goodbye: "control",
}
"""The channel that each message belongs to. A transport with one pipe for all tells them apart by type."""

_CHANNEL_OF_TAG: Final[dict[int, Channel]] = {
    int(kind.__struct_config__.tag): channel  # type: ignore[attr-defined]
    for kind, channel in CHANNELS.items()
}


def channel_of(data: bytes | memoryview) -> Channel:
    """The channel that an encoded message belongs to, from its tag alone; what is no message counts as control."""
    # msgpack: fixarray (one byte) or array16 (three bytes), then the tag as a small integer.
    at = 3 if len(data) and data[0] == 0xDC else 1
    return _CHANNEL_OF_TAG.get(data[at], "control") if len(data) > at else "control"


NEVER: Final = float("inf")

_DETAIL_CHARS_MAX: Final = 500

EventT = TypeVar("EventT")


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One message to be handed to the network now.

    `data` is the encoded message; `expires_at` (monotonic seconds, None: never) says from when on it is not worth
    sending; `frame` is the frame that it carries or answers, if any.
    """

    channel: Channel
    message: Message
    data: bytes
    expires_at: float | None = None
    frame: int | None = None


class Session(Generic[EventT]):
    """Base of EdgeSession and ServerSession. Belongs to one thread: its transport's."""

    _transitions: Table
    _role: str

    def __init__(self, state: str) -> None:
        self.state = state
        self.account = FrameAccount()
        """The frame counts (docs/protocol.md, laws)."""
        self.clock = ClockOffset()
        """The peer's clock; reset with every connection."""
        self._pings = PingSchedule()
        self._control: deque[Message | Callable[[float], Message]] = deque()
        self._events: deque[EventT] = deque()
        self._handlers: dict[type, Callable[[Any, float], None]] = {Ping: self._on_ping, Pong: self._on_pong}
        self._last_received_at = NEVER

    # --- In ---------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes | memoryview, now: float) -> None:
        """Bytes of one message arrived on a transport whose pipe carries all channels."""
        if self.state == CLOSED:
            return
        try:
            message = messages.decode(data)
        except RemoteProtocolError as error:
            self._broken(error, now)
            return
        self.receive(message, CHANNELS[type(message)], now)

    def receive(self, message: Message, channel: Channel, now: float) -> None:
        """A message arrived. Never raises for what the peer did."""
        if self.state == CLOSED:
            return
        try:
            self._check(message, channel)
            self._last_received_at = now
            if self._is_late(message):
                return
            self._handlers[type(message)](message, now)
        except RemoteProtocolError as error:
            self._broken(error, now)

    def _is_late(self, message: Message) -> bool:
        """Whether the message is a remainder of a connection that has ended, and means nothing any more."""
        return False

    def _check(self, message: Message, channel: Channel) -> None:
        expected = CHANNELS[type(message)]
        if channel != expected:
            raise RemoteProtocolError(
                f"{type(message).__name__} came on channel {channel}, expected {expected}: send it there"
            )
        row = self._transitions[self.state]
        trigger = type(message).__name__
        if trigger == "Goodbye":
            trigger = trigger_of(message)
        if trigger not in row:
            allowed = ", ".join(sorted(name for name in row if name[0].isupper()))
            raise RemoteProtocolError(
                f"{trigger} came while the {self._role} session is {self.state}, expected {allowed or 'nothing'}"
            )

    # --- Out --------------------------------------------------------------------------------------------------

    def poll_send(self, now: float) -> Outgoing | None:
        """The next message to hand to the network, or None. Counts as sent at `now`."""
        raise NotImplementedError

    def next_event(self) -> EventT | None:
        """What the owner should know, oldest first, or None."""
        return self._events.popleft() if self._events else None

    def timer_at(self) -> float | None:
        """When `timer` must be called (monotonic seconds), or None."""
        raise NotImplementedError

    def timer(self, now: float) -> None:
        """Do what is due at `now`. Calling it early or often does no harm."""
        raise NotImplementedError

    def _poll_control(self, now: float) -> Outgoing | None:
        if not self._control:
            return None
        entry = self._control.popleft()
        # Pings carry the time at which they leave, so they are made now.
        message = entry(now) if callable(entry) else entry
        return Outgoing("control", message, messages.encode(message))

    def _queue(self, entry: Message | Callable[[float], Message]) -> None:
        if len(self._control) >= limits.CONTROL_QUEUE_MAX:
            raise LimitError(
                f"{len(self._control)} control messages wait for a peer that does not read, "
                f"limit {limits.CONTROL_QUEUE_MAX}: read faster or ask less often"
            )
        self._control.append(entry)

    # --- States -----------------------------------------------------------------------------------------------

    def _move(self, trigger: str) -> None:
        target = self._transitions[self.state].get(trigger)
        if target is None:
            raise LocalProtocolError(f"{trigger} is not possible while the {self._role} session is {self.state}")
        self.state = target

    def _broken(self, error: RemoteProtocolError, now: float) -> None:
        raise NotImplementedError

    # --- Pings ------------------------------------------------------------------------------------------------

    def _sent_frames(self) -> int:
        return 0

    def _queue_ping(self) -> None:
        self._queue(lambda now: Ping(self._pings.sent(now), micros(now), self._sent_frames()))

    def _on_ping(self, message: Ping, now: float) -> None:
        received_at_us = micros(now)
        self._queue(lambda later: Pong(message.ping, message.sent_at_us, received_at_us, micros(later)))

    def _on_pong(self, message: Pong, now: float) -> None:
        sent_at = self._pings.answered(message.ping)
        if sent_at is None:
            return  # Doubled, or of an earlier connection.
        self.clock.add(sent_at, message.received_at_us / 1e6, message.replied_at_us / 1e6, now)
        self._pinged(sent_at, message.received_at_us / 1e6, now)

    def _pinged(self, sent_at: float, received_at: float, now: float) -> None:
        """A Ping of ours that left at `sent_at` was there at `received_at` on the peer's clock."""

    def _idle_at(self) -> float:
        return self._last_received_at + limits.IDLE_TIMEOUT_MS / 1000.0


def reason_of(error: RemoteProtocolError) -> str:
    """The reason of the Goodbye that answers it."""
    return "limit" if isinstance(error, LimitError) else "protocol"


def one_line(text: str) -> str:
    """Text for a `detail` field: one line, of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _DETAIL_CHARS_MAX else line[: _DETAIL_CHARS_MAX - 1] + "…"
