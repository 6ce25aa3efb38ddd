"""The law of references: whatever the network does, the server's symbols are the edge's, frame by frame.

Loss, doubling, reordering, late and lost answers, parts that never come, cuts, resumed sessions and servers that are
killed may cost bytes and frames. They never change a symbol.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from analytics_server.work import SessionState
from edge_node.payload import LatentPayload
from edge_node.records import ANSWERED, FrameRecord
from pipeline.codec import DecodedLatent, EntropyModel, LatentCodec
from pipeline.codec.contexts import Contexts, checkerboard, reference, reference_neighbourhood
from pipeline.codec.table_counts import TableCounter
from pipeline.errors import BitstreamError
from pipeline.frame import Frame
from pipeline.transports import LinkModel, SessionHandle
from pipeline.transports.memory import MemoryEdge, MemoryNetwork, MemoryServer
from pipeline.wire import EdgeSession, Outgoing, ServerSession, SessionDirectory
from pipeline.wire.events import Answered, Connected, EdgeEvent, FrameDropped, FrameReceived, ServerEvent
from pipeline.wire.messages import FramePart
from tests.codecs import CHANNELS, LAYERS, small_spec
from tests.pipeline.wire.pairs import CODEC_ID, RESULTS, make_offer, seeded_bytes

GRID = (4, 4)
FRAMES = 250
"""Frames of one world."""
THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
CONTEXTS = Contexts(
    intra=((checkerboard(1, 3),),) * 3,
    inter=((reference(3), reference_neighbourhood(1, 4)), (reference(2),), (checkerboard(2), reference(1))),
    places=True,
)
PIXELS = np.zeros((1, 1, 3), np.uint8)


class Scene:
    """An encoder without pictures: latents that tremble, creep and, now and then, change altogether."""

    spec = SimpleNamespace(size=32)

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._still = self._rng.laplace(0, 1.0, (CHANNELS, *GRID))

    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def analyse(self, image: np.ndarray) -> np.ndarray:
        if self._rng.random() < 0.02:
            self._still = self._rng.laplace(0, 1.0, self._still.shape)
        self._still += self._rng.normal(0, 0.02, self._still.shape)
        return (self._still + self._rng.normal(0, 0.1, self._still.shape)).astype(np.float32)

    def describe(self) -> str:
        return "scene"


def counted_tables() -> EntropyModel:
    """Tables that fit the scene: frames alone, and against the frame before."""
    spec = small_spec(CONTEXTS)
    counter = TableCounter(LAYERS, len(spec.operating_points), CONTEXTS)
    scene = Scene(0)
    for index, point in enumerate(spec.operating_points):
        before = None
        for _ in range(60):
            latent = scene.analyse(PIXELS)
            scaled = latent * point.gain[:, None, None]
            symbols = np.rint(scaled).astype(np.int16)
            counter.add(symbols, index)
            if before is not None:
                counter.add(symbols, index, reference=before)
            before = symbols
    return counter.model(fill=np.arange(CHANNELS) - 2)


MODEL = counted_tables()


class RecordingCodec(LatentCodec):
    """Keeps a copy of what was encoded last."""

    last: np.ndarray

    def encode(self, symbols: np.ndarray, operating_point: int, **options: Any) -> bytes:
        self.last = symbols.copy()
        return super().encode(symbols, operating_point, **options)


@dataclass
class World:
    """One edge that streams, one server that decodes after a while and answers, sheds or falls silent (`steady`:
    always answers)."""

    link: LinkModel
    seed: int
    part_bytes: int = 0
    steady: bool = False
    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    captured: int = 0
    compared: int = 0
    referring: int = 0
    partial: int = 0
    undecodable: int = 0
    answered: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.codec = RecordingCodec(small_spec(CONTEXTS), MODEL)
        scene: Any = Scene(self.seed)
        points = [replace(p, sticky_threshold=0.8, refresh_threshold=0.6) for p in self.codec.spec.operating_points]
        self.payload = LatentPayload(scene, self.codec, tuple(points), operating_point=1, sticky_threshold=0.8)
        self.sent: OrderedDict[int, np.ndarray] = OrderedDict()
        self.states: dict[str, SessionState] = {}
        self.server = self.start_server()
        self.session = EdgeSession(codec_id=CODEC_ID, budget_ms=400, part_bytes=self.part_bytes)
        self.edge: MemoryEdge = self.network.connect("server", self.session, self.on_edge_event, link=self.link)

    def start_server(self) -> MemoryServer:
        source = seeded_bytes(self.random.randrange(1 << 30))
        directory = SessionDirectory(lambda peer: ServerSession(make_offer(), random=source))
        self.states = {}
        return self.network.listen("server", directory, self.on_server_event)

    def restart(self) -> None:
        """The server is killed with all that it held; another one comes up 50 ms later."""
        if "server" in self.network.servers:
            self.server.kill()
            self.network.at(self.network.clock() + 0.05, self.come_back)

    def come_back(self) -> None:
        self.server = self.start_server()

    # --- Server: decodes with what analytics_server keeps ---------------------------------------------------------

    def on_server_event(self, handle: SessionHandle, event: ServerEvent) -> None:
        if isinstance(event, FrameReceived):
            state = self.states.setdefault(
                handle.session.session_id, SessionState(handle.session.session_id, handle.session.reference_epoch)
            )
            wait = self.random.choice([0.0, 0.0, 0.005, 0.03])
            self.network.at(self.network.clock() + wait, lambda: self.decode(handle, state, event))

    def decode(self, handle: SessionHandle, state: SessionState, event: FrameReceived) -> None:
        try:
            decoded = self.codec.decode(event.bitstream, references=state.references(), grid=GRID)
        except BitstreamError as error:
            self.undecodable += 1
            detail = str(error)
            handle.call(lambda session, now: session.drop(event.frame, "undecodable", detail, now))
            return
        state.remember(decoded.as_reference(epoch=state.reference_epoch, frame=event.frame))
        self.compare(event.frame, decoded)
        end = "answer" if self.steady else self.random.choice(["answer"] * 8 + ["late", "shed", "silence"])
        wait = {"late": self.random.uniform(0.05, 1.2), "answer": self.random.choice([0.0, 0.01])}.get(end, 0.0)
        if end != "silence":
            self.network.at(self.network.clock() + wait, lambda: self.finish(handle, event.frame, decoded, end))

    def finish(self, handle: SessionHandle, frame: int, decoded: DecodedLatent, end: str) -> None:
        layers, got = decoded.layers, decoded.decoded_layers
        if end == "shed":
            handle.call(lambda session, now: session.drop(frame, "shed", "busy", now, decoded_layers=got))
        else:
            handle.call(
                lambda session, now: session.answer(
                    frame, RESULTS, [0, 0, 0, 0, 0], now, decoded_layers=got, layers=layers
                )
            )

    def compare(self, frame: int, decoded: DecodedLatent) -> None:
        """The law."""
        good = sum(LAYERS[: decoded.decoded_layers])
        np.testing.assert_array_equal(self.sent[frame][:good], decoded.symbols[:good], err_msg=f"frame {frame}")
        fill = np.broadcast_to(MODEL.fill[good:, None, None], decoded.symbols[good:].shape)
        np.testing.assert_array_equal(fill, decoded.symbols[good:], err_msg=f"fill of frame {frame}")
        self.compared += 1
        self.referring += decoded.reference is not None
        self.partial += decoded.decoded_layers < decoded.layers

    # --- Edge: what EdgeNode does with its payload ---------------------------------------------------------------

    def on_edge_event(self, event: EdgeEvent) -> None:
        match event:
            case Connected(welcome):
                self.payload.opened(welcome)
            case Answered():
                self.answered.append(event.frame)
                self.payload.ended(FrameRecord(
                    frame=event.frame, state=ANSWERED, layers=event.layers, decoded_layers=event.decoded_layers
                ))  # fmt: skip
            case FrameDropped():
                self.payload.ended(FrameRecord(frame=event.frame, state=event.cause, detail=event.detail))

    def capture(self) -> None:
        number, self.captured = self.captured, self.captured + 1
        now = self.network.clock()
        self.edge.call(lambda session, at: session.capture(number, at))
        encoded = self.payload.encode(Frame(number, now, PIXELS), now)
        self.sent[number] = self.codec.last
        if len(self.sent) > 200:
            self.sent.popitem(last=False)
        self.edge.call(lambda session, at: session.offer(number, encoded.payload, marks_at(encoded.marks, at), at))

    def turn_a_knob(self) -> None:
        """What a rate control does."""
        match self.random.randrange(3):
            case 0:
                self.payload.operating_point = self.random.randrange(2)
            case 1:
                self.payload.layers = self.random.choice([None, None, 1, 2])
            case 2:
                self.payload.sticky_threshold = self.random.choice([None, 0.8, 1.25, 4.0])


def marks_at(marks: Any, now: float) -> Any:
    """The stamps of a frame that took no time; the clock of the edge is the network's here."""
    return type(marks)(now, now, now, now, now)


def a_link(random_: random.Random) -> LinkModel:
    """From clean to hopeless."""
    return LinkModel(
        rate_kbps=random_.choice([0, 0, 200, 1_000]),
        delay_ms=random_.choice([1, 15, 60]),
        jitter_ms=random_.choice([0, 10, 80]),
        loss=random_.choice([0.0, 0.02, 0.2, 0.5]),
        reorder=random_.choice([0.0, 0.05, 0.4]),
        duplicate=random_.choice([0.0, 0.05, 0.3]),
        queue_ms=random_.choice([20, 200]),
        seed=random_.randrange(1 << 16),
    )


def act(world: World) -> None:
    """Once in a while something goes wrong."""
    dice = world.random.random()
    if dice < 0.01:
        world.edge.cut(world.random.choice([0.0, 0.1]), server_notices=world.random.random() < 0.5)
    elif dice < 0.015:
        world.restart()
    elif dice < 0.02:
        for handle in world.server.handles():
            handle.call(lambda session, now: session.goodbye("draining", "", now, resumable=True))
    elif dice < 0.03:
        world.network.run_for(world.random.choice([0.3, 1.0]))
    elif dice < 0.10:
        world.turn_a_knob()


def run_world(seed: int) -> World:
    """Everything that can happen to a session, on a link that the seed picks."""
    chance = random.Random(seed)
    world = World(a_link(chance), seed, part_bytes=chance.choice([0, 0, 40]))
    world.network.run_for(0.5)
    for _ in range(FRAMES):
        act(world)
        world.capture()
        world.network.run_for(1 / 30)
    assert world.session.account.balanced
    return world


@pytest.mark.parametrize("seed", range(12))
def test_the_server_has_the_edges_symbols(seed: int) -> None:
    """In worlds from clean to hopeless."""
    world = run_world(seed)
    assert world.compared > 0


@pytest.mark.slow
@pytest.mark.skipif(not THOROUGH, reason="two minutes: HYPOTHESIS_PROFILE=thorough runs it")
def test_the_server_has_the_edges_symbols_for_a_night() -> None:
    """100,000 decoded frames, most of them against a reference, and some cut short or undecodable."""
    compared = referring = partial = undecodable = 0
    for seed in itertools.count(1_000):
        world = run_world(seed)
        compared += world.compared
        referring += world.referring
        partial += world.partial
        undecodable += world.undecodable
        if compared >= 100_000:
            break
    assert referring > compared / 2
    assert min(partial, undecodable) > 100


def a_clean_world(**changes: Any) -> World:
    world = World(LinkModel(delay_ms=5, **changes), seed=1, steady=True)
    world.network.run_for(0.5)
    return world


def stream(world: World, frames: int) -> None:
    for _ in range(frames):
        world.capture()
        world.network.run_for(1 / 30)


def test_on_a_clean_link_nearly_every_frame_refers_to_another() -> None:
    """Only the first frame and changes of scene stand alone, and none is undecodable."""
    world = a_clean_world()
    stream(world, 200)
    assert world.undecodable == 0
    assert world.compared >= 199
    assert world.referring > 0.9 * world.compared


@pytest.mark.parametrize("what", ["restart", "cut"])
def test_a_stream_finds_back_to_references(what: str) -> None:
    """After a cut the session and its references go on; after a restart they begin anew, within a second."""
    world = a_clean_world()
    stream(world, 60)
    world.restart() if what == "restart" else world.edge.cut(0.1)
    world.network.run_for(2.0)
    stream(world, 30)
    before, undecodable = world.referring, world.undecodable
    stream(world, 60)
    assert world.referring - before >= 50
    assert world.undecodable == undecodable


def test_a_frame_that_is_lost_in_part_costs_only_itself() -> None:
    """Without parity: frames of which the first part is lost are `incomplete`; those after them refer as before."""
    world = a_clean_world()
    world.session.part_bytes = 20
    world.payload.sticky_threshold = 0.0  # frames of more than one part
    world.session._sending.parity_parts_max = 0
    stream(world, 60)
    before, compared = world.referring, world.compared
    poll, lost = world.session.poll_send, []

    def losing(now: float) -> Outgoing | None:
        out = poll(now)
        if out is not None and isinstance(out.message, FramePart) and out.message.part == 0 and out.frame % 3 == 0:
            lost.append(out.frame)
            return poll(now)
        return out

    world.session.poll_send = losing  # type: ignore[method-assign]
    stream(world, 60)
    world.network.run_for(1.0)
    assert len(lost) > 15
    assert world.session.account.dropped == {"incomplete": len(lost)}
    assert world.referring - before >= 0.9 * (world.compared - compared)


def test_lost_answers_are_no_references() -> None:
    """The edge refers only to what it knows to have arrived: with most answers lost it still decodes everything."""
    world = a_clean_world(loss=0.3)
    stream(world, 300)
    assert world.referring > 0
    assert world.undecodable <= 0.05 * world.compared
