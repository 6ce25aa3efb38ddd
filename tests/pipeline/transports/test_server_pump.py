"""ServerPump over a network that takes what the test lets it take: nothing is lost with a connection that stalls."""

from __future__ import annotations

from typing import TypeVar

import pytest

from pipeline import limits
from pipeline.clock import VirtualClock
from pipeline.transports.base import SessionHandle
from pipeline.transports.server_pump import Connection, Sent, ServerPump
from pipeline.wire import ServerSession, messages
from pipeline.wire.directory import PeerInfo
from pipeline.wire.events import FrameReceived, ServerEvent
from pipeline.wire.messages import Frame, Goodbye, Hello, Message, Result, Welcome
from pipeline.wire.states import DETACHED
from tests.pipeline.transports.streams import make_directory
from tests.pipeline.wire.pairs import CODEC_ID, RESULTS

MessageT = TypeVar("MessageT")


class Network:
    """Takes messages while `takes` is YES; a frame waits in `frames` for its answer."""

    def __init__(self) -> None:
        self.takes = Sent.YES
        self.tries = 0
        self.sent: list[tuple[Connection, Message]] = []
        self.frames: list[tuple[SessionHandle, int]] = []
        self.clock = VirtualClock(10.0)
        self.pump = ServerPump(make_directory(), self._on_event, self.clock, send=self._send, wake=lambda: None)

    def receive(self, connection: str, message: Message) -> None:
        self.pump.received(connection, messages.encode(message), lambda: PeerInfo("test"))

    def hello(self, connection: str, *, resume_token: bytes = b"") -> Welcome:
        self.receive(connection, Hello(1, CODEC_ID, resume_token=resume_token))
        self.pump.run()  # the first Ping
        return self.of(Welcome, connection)[-1]

    def of(self, kind: type[MessageT], connection: str) -> list[MessageT]:
        return [message for to, message in self.sent if isinstance(message, kind) and to == connection]

    def answer(self) -> None:
        """All frames that wait."""
        for handle, frame in self.frames:
            handle.call(lambda session, now, frame=frame: session.answer(frame, RESULTS, [1, 2, 3, 4, 5], now))  # type: ignore[misc]
        self.frames.clear()
        self.pump.run()

    def _send(self, connection: Connection, data: bytes) -> Sent:
        self.tries += 1
        if self.takes is Sent.YES:
            self.sent.append((connection, messages.decode(data)))
        return self.takes

    def _on_event(self, handle: SessionHandle, event: ServerEvent) -> None:
        if isinstance(event, FrameReceived):
            self.frames.append((handle, event.frame))


def frame(number: int = 0) -> Frame:
    return Frame(number, 0, 5_000_000, b"x", number + 1)


def test_a_flood_on_a_stalled_connection_is_remembered_once() -> None:
    """Whatever a peer sends that does not read: the next look tries its connection once."""
    network = Network()
    network.hello("one")
    network.receive("one", frame())
    network.takes = Sent.LATER
    network.answer()
    for _ in range(100):
        network.receive("one", frame())
    network.tries = 0
    network.pump.run()
    assert (network.tries, network.pump.stalled) == (1, True)
    network.takes = Sent.YES
    network.pump.run()
    assert [result.frame for result in network.of(Result, "one")] == [0]
    assert not network.pump.stalled


def test_a_goodbye_waits_for_a_connection_that_stalls() -> None:
    """The connection stays until the token is out."""
    network = Network()
    network.hello("one")
    network.takes = Sent.LATER
    network.pump.say_goodbye(peer="", retry_after_s=0.0)
    assert network.pump.knows("one")
    network.takes = Sent.YES
    network.pump.run()
    assert [goodbye.reason for goodbye in network.of(Goodbye, "one")] == ["draining"]
    assert not network.pump.knows("one")


def test_a_peer_that_never_reads_holds_nothing() -> None:
    """Neither a session that is over nor one that may be resumed keeps its connection for a Goodbye that stalls."""
    network = Network()
    for connection in ("ended", "detached"):
        network.hello(connection)
    network.takes = Sent.LATER
    network.receive("ended", network.of(Welcome, "ended")[0])  # breaks the contract
    network.pump.say_goodbye(peer="", retry_after_s=0.0)
    network.pump.run()
    assert len(network.pump.handles()) == 2
    network.clock.advance(limits.GOODBYE_TIMEOUT_MS / 1000.0)
    network.pump.run()
    assert not network.pump.stalled
    assert not network.pump.knows("ended")
    assert not network.pump.knows("detached")
    assert [handle.session.state for handle in network.pump.handles()] == [DETACHED]


def test_an_answer_that_stalled_comes_on_the_next_connection() -> None:
    """Whether the edge came back before or after the server knew that it was gone."""
    for told in (True, False):
        network = Network()
        welcome = network.hello("one")
        network.receive("one", frame())
        network.takes = Sent.LATER
        network.answer()
        if told:
            network.pump.lost("one", "gone")
        network.takes = Sent.YES
        assert network.hello("two", resume_token=welcome.resume_token).resumed
        assert [result.frame for result in network.of(Result, "two")] == [0]


def test_a_session_that_fails_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug at one session, whoever calls: its edge is told and may begin again, all others go on."""
    network = Network()
    network.hello("one")
    network.hello("two")
    one = network.pump.handles()[0]

    def fail(now: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(one.session, "timer", fail)
    network.clock.advance(1.0)
    network.pump.run()
    (goodbye,) = network.of(Goodbye, "one")
    assert (goodbye.reason, goodbye.retry_after_s > 0) == ("error", True)
    assert [handle.id for handle in network.pump.handles()] == [network.of(Welcome, "two")[0].session]
    network.receive("two", frame())
    network.answer()
    assert [result.frame for result in network.of(Result, "two")] == [0]
    assert len(network.pump.directory) == 1


def test_a_hello_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it disturb anybody."""
    network = Network()
    network.hello("one")

    def fail(session: ServerSession, message: Hello, now: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ServerSession, "_on_hello", fail)
    network.receive("two", Hello(1, CODEC_ID))
    assert [goodbye.reason for goodbye in network.of(Goodbye, "two")] == ["error"]
    assert len(network.pump.directory) == len(network.pump.handles()) == 1
