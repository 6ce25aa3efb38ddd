"""Laws of the wire, for any order, loss, doubling and cut: the counts agree, ends are final, nothing raises."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import limits
from pipeline.transports import LinkModel, SessionHandle
from pipeline.transports.memory import MemoryEdge, MemoryNetwork, MemoryServer
from pipeline.wire import EdgeSession, ServerSession, SessionDirectory, StageMarks, messages
from pipeline.wire.events import Answered, Closed, EdgeEvent, FrameDropped, FrameReceived, ServerEvent
from pipeline.wire.session import CHANNELS
from pipeline.wire.states import CLOSED
from tests.pipeline.wire.pairs import CODEC_ID, RESULTS, make_offer, seeded_bytes

probabilities = st.sampled_from([0.0, 0.02, 0.2, 0.6])

links = st.builds(
    LinkModel,
    rate_kbps=st.sampled_from([0, 200, 5_000]),
    delay_ms=st.sampled_from([0, 5, 60]),
    jitter_ms=st.sampled_from([0, 10, 80]),
    loss=probabilities,
    reorder=probabilities,
    duplicate=probabilities,
    queue_ms=st.sampled_from([10, 200]),
    seed=st.integers(0, 2**16),
)


@dataclass
class World:
    """One server, one edge, frames at 30 fps, and an engine that takes its time, forgets, sheds and answers twice."""

    link: LinkModel
    lossless: bool
    seed: int
    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    edge_events: list[EdgeEvent] = field(default_factory=list)
    server_events: list[tuple[SessionHandle, ServerEvent]] = field(default_factory=list)
    captured: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.server = self.start_server()
        self.session = EdgeSession(codec_id=CODEC_ID, lossless=self.lossless, budget_ms=300, part_bytes=900)
        self.edge: MemoryEdge = self.network.connect(
            "server", self.session, self.edge_events.append, link=self.link, skew_s=self.random.uniform(-1e4, 1e4)
        )

    def start_server(self) -> MemoryServer:
        source = seeded_bytes(self.random.randrange(1 << 30))
        directory = SessionDirectory(lambda peer: ServerSession(make_offer(), random=source))
        return self.network.listen("server", directory, self.on_server_event)

    def on_server_event(self, handle: SessionHandle, event: ServerEvent) -> None:
        self.server_events.append((handle, event))
        if isinstance(event, FrameReceived):
            for _ in range(self.random.choice([0, 1, 1, 1, 1, 2])):
                delay = self.random.choice([0.0, 0.01, 0.05, 0.4])
                self.network.at(self.network.clock() + delay, lambda: self.finish(handle, event.frame))

    def finish(self, handle: SessionHandle, frame: int) -> None:
        if self.random.random() < 0.2:
            handle.call(lambda session, now: session.drop(frame, "shed", "busy", now))
        else:
            handle.call(lambda session, now: session.answer(frame, RESULTS, [1, 2, 3, 4, 5], now, decoded_layers=1))

    def capture(self) -> None:
        def offer(session: EdgeSession, now: float) -> None:
            if self.lossless and not session.can_send():
                return
            session.capture(self.captured, now)
            session.offer(self.captured, bytes(1500), StageMarks(now, now, now, now, now), now)
            self.captured += 1

        self.edge.call(offer)
        assert self.session.credit.sent <= self.session.credit.granted, "credit exceeded"

    def restart(self) -> None:
        """The server process is killed, and another one comes up 100 ms later."""
        self.server.kill()
        self.network.at(self.network.clock() + 0.1, self.come_back)

    def come_back(self) -> None:
        self.server = self.start_server()

    def check(self) -> None:
        """The laws that hold at any moment."""
        account = self.session.account
        assert account.balanced
        assert self.captured == account.entered
        ends = [event for event in self.edge_events if isinstance(event, Answered | FrameDropped)]
        assert len(ends) == len({event.frame for event in ends}), "a frame ended twice"
        assert len(ends) + len(account.in_flight) == self.captured
        for event in ends:
            if isinstance(event, Answered):
                assert sum(event.stages_ms.values()) == event.capture_to_result_ms
                assert min(event.stages_ms.values()) >= 0
        for handle in {id(handle): handle for handle, _ in self.server_events}.values():
            assert handle.session.account.balanced
        frames = [(handle, event) for handle, event in self.server_events if isinstance(event, FrameReceived)]
        received = [(id(handle), event.frame) for handle, event in frames]
        assert len(received) == len(set(received)), "a frame was handed out twice"


acts = st.sampled_from(["capture"] * 12 + ["cut", "cut unnoticed", "restart", "goodbye", "pause"])


@settings(max_examples=60)
@given(links, st.booleans(), st.integers(0, 2**16), st.lists(acts, min_size=5, max_size=80))
def test_counts_agree_whatever_happens(link: LinkModel, lossless: bool, seed: int, schedule: list[str]) -> None:
    """Loss, doubling, reordering, cuts, restarts: every frame ends once, and both sides' equations hold."""
    world = World(link, lossless, seed)
    for act in schedule:
        if act == "capture":
            world.capture()
        elif act == "restart":
            if "server" in world.network.servers:
                world.restart()
        elif act == "goodbye":
            for handle in world.server.handles():
                handle.call(lambda session, now: session.goodbye("draining", "", now, resumable=True))
        elif act == "pause":
            world.network.run_for(0.7)
        else:
            world.edge.cut(0.2, server_notices=act == "cut")
        world.network.run_for(1 / 30)
        world.check()
    world.edge.close(drain_s=0.0)
    world.network.run_for(5.0)
    world.check()
    assert world.session.state == CLOSED
    assert not world.session.account.in_flight
    assert sum(isinstance(event, Closed) for event in world.edge_events) == 1


def test_a_clean_link_answers_everything() -> None:
    """The same world without faults: no frame is lost, on either side."""
    world = World(LinkModel(delay_ms=5), lossless=True, seed=1)
    world.random.choice = lambda options: options[1]  # type: ignore[assignment, method-assign]
    world.random.random = lambda: 1.0  # type: ignore[method-assign]
    world.network.run_for(1.0)
    for _ in range(100):
        world.capture()
        world.network.run_for(1 / 30)
    world.network.run_for(1.0)
    assert (world.captured, world.session.account.answered, world.session.account.dropped) == (100, 100, {})


def test_a_run_can_be_repeated() -> None:
    """The same seeds give the same events, to the microsecond."""

    def run() -> list[EdgeEvent]:
        world = World(LinkModel.profile("lossy", seed=3), lossless=False, seed=5)
        for _ in range(60):
            world.capture()
            world.network.run_for(1 / 30)
        return world.edge_events

    assert run() == run()


# --- What no honest peer sends -------------------------------------------------------------------------------

numbers = st.integers(0, 12) | st.integers(0, 2**53)
micros = st.integers(-(2**53), 2**53) | st.integers(-1000, 1000)
names = st.sampled_from(["", "food101", "imagenet1k", "shed", "deadline", "done"]) | st.text(max_size=5)
blobs = st.binary(max_size=40)
edge_messages = st.one_of(
    st.builds(messages.Hello, st.integers(0, 2), st.sampled_from([CODEC_ID, "", "x"]), resume_token=blobs),
    st.builds(messages.Frame, numbers, micros, micros, blobs, numbers),
    st.builds(messages.FramePart, numbers, st.integers(0, 5), st.integers(1, 5), micros, micros, blobs, numbers),
    st.builds(messages.JpegFrame, numbers, micros, micros, blobs, numbers),
    st.builds(messages.SetTasks, st.lists(names, max_size=3)),
    st.builds(messages.BundleRequest, names, numbers),
    st.builds(messages.Ping, numbers, micros, numbers),
    st.builds(messages.Pong, numbers, micros, micros, micros),
    st.builds(messages.Goodbye, names, names, blobs, st.floats(-1, 10), names, numbers),
)
server_messages = st.one_of(
    st.builds(
        messages.Welcome,
        names,
        blobs,
        st.booleans(),
        names,
        names,
        names,
        st.just([]),
        numbers,
        numbers,
        numbers,
        numbers,
        numbers,
    ),
    st.builds(messages.Result, numbers, st.just([]), micros, micros, st.lists(micros, max_size=6), numbers, numbers),
    st.builds(messages.Dropped, numbers, names, names, numbers, numbers, numbers),
    st.builds(messages.Credit, numbers, numbers),
    st.builds(messages.TasksChanged, st.just([]), names),
    st.builds(messages.BundlePart, names, numbers, numbers, blobs),
)
any_message = edge_messages | server_messages


def drain(session: EdgeSession | ServerSession, now: float) -> None:
    for _ in range(1_000):
        if session.poll_send(now) is None and session.next_event() is None:
            return
    raise AssertionError("the session does not come to rest")


def use(session: EdgeSession | ServerSession, sequence: list[messages.Message | bytes | float]) -> None:
    """Feed a session messages, bytes and pauses; whatever comes, it stays countable and its timers move on."""
    now = 0.0
    for item in sequence:
        if isinstance(item, float):
            now += item
            session.timer(now)
            at = session.timer_at()
            assert at is None or at > now, "a timer that is due for ever"
        elif isinstance(item, bytes):
            session.receive_data(item, now)
        else:
            session.receive(item, CHANNELS[type(item)], now)
        drain(session, now)
        assert session.account.balanced
        if session.state == CLOSED:
            assert not session.account.in_flight


pauses = st.floats(0.001, 30.0)


@given(st.lists(any_message | st.binary(max_size=60) | pauses, max_size=30))
def test_any_messages_to_a_server(sequence: list[messages.Message | bytes | float]) -> None:
    """Any sequence after a good Hello gives events or Goodbye + Closed; never an exception."""
    session = ServerSession(make_offer(hands_out_bundle=True), random=seeded_bytes())
    session.connected(0.0)
    session.receive(messages.Hello(messages.PROTOCOL_VERSION, CODEC_ID), "control", 0.0)
    use(session, sequence)


@given(st.lists(any_message | st.binary(max_size=60) | pauses, max_size=30))
def test_any_messages_to_a_waiting_server(sequence: list[messages.Message | bytes | float]) -> None:
    """The same without Hello."""
    session = ServerSession(make_offer(), random=seeded_bytes())
    session.connected(0.0)
    use(session, sequence)


@given(st.booleans(), st.lists(any_message | st.binary(max_size=60) | pauses, max_size=30))
def test_any_messages_to_an_edge(lossless: bool, sequence: list[messages.Message | bytes | float]) -> None:
    """And from a server that has lost its mind."""
    session = EdgeSession(codec_id=CODEC_ID, lossless=lossless)
    session.connected(0.0)
    welcome = messages.Welcome("s", b"t", False, CODEC_ID, "", "", [], 4, 2000, limits.PAYLOAD_BYTES_MAX, 4, 0)
    session.receive(welcome, "control", 0.0)
    for frame in range(5):
        session.capture(frame, 0.0)
        session.offer(frame, b"x", StageMarks(0, 0, 0, 0, 0), 0.0)
        session.poll_send(0.0)
    use(session, sequence)


@given(any_message)
def test_messages_survive_the_wire(message: messages.Message) -> None:
    """decode(encode(m)) == m."""
    assert message == messages.decode(messages.encode(message))


@given(any_message, st.data())
def test_damaged_messages_are_refused_or_valid(message: messages.Message, data: st.DataObject) -> None:
    """A message with a damaged byte is a message or RemoteProtocolError, nothing else."""
    damaged = bytearray(messages.encode(message))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    session = ServerSession(make_offer(), random=seeded_bytes())
    session.connected(0.0)
    session.receive_data(bytes(damaged), 0.0)
    drain(session, 0.0)


def test_newer_fields_are_ignored() -> None:
    """Evolution: fields beyond those that this version knows do no harm, missing ones at the end have defaults."""
    parts = msgspec.msgpack.decode(messages.encode(messages.Ping(1, 2, 3)))
    assert messages.Ping(1, 2, 3) == messages.decode(msgspec.msgpack.encode([*parts, "from the future"]))
    assert messages.Ping(1, 2) == messages.decode(msgspec.msgpack.encode(parts[:-1]))
