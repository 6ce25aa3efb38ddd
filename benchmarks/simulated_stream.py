"""A stream over a simulated link in virtual time: real sessions, messages and rate control, a modelled edge and server.

Everything that happens is a function of the seeds, and a minute of streaming takes a second. The edge does what
`edge_node.node` does: newest frame first, encoded when it is its turn. What a frame's bytes are is the `Coder`'s
business: real codecs (benchmarks.networks) or plausible sizes (tests).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from pipeline.rate_control import EncodeChoice, RateChoice, RateControl
from pipeline.transports.link_model import LinkModel, SharedLink
from pipeline.transports.memory import MemoryEdge, MemoryNetwork
from pipeline.wire import CreditPolicy, EdgeSession, ServerOffer, ServerSession, SessionDirectory, StageMarks
from pipeline.wire.events import Answered, EdgeEvent, FrameDropped, FrameReceived, FrameUnchanged, JpegReceived
from pipeline.wire.messages import Label, TaskInfo, TaskResult, Welcome

CODEC_ID = "0" * 64
TASKS = ("imagenet1k", "food101", "cifar100", "flowers102")
RESULTS = [TaskResult(name, [Label(7, "some label", 0.5)]) for name in TASKS]
INFOS = tuple(TaskInfo(name, "simulated", 1000) for name in TASKS)
LOWEST = EncodeChoice(0)
AGE_EVERY_S = 0.01
"""How often the age of the newest result is looked at."""


class Coder(Protocol):
    """Both ends of a codec. Frames are numbers from 0; the pictures behind them are the coder's."""

    kind: str
    encode_s: float
    """What the edge needs for a frame, all stages together."""
    decode_s: float
    server_s: float
    """What the engine needs for a frame, one after the other."""

    def encode(self, frame: int, choice: EncodeChoice) -> bytes | int:
        """The payload; a number says that the frame is like the answered one of that number and need not be sent."""
        ...

    def decode(self, frame: int, payload: bytes) -> tuple[int, int] | None:
        """(layers decoded, layers sent); None: undecodable."""
        ...

    def opened(self, welcome: Welcome) -> None: ...

    def answered(self, frame: int, decoded_layers: int) -> None: ...

    def dropped(self, frame: int, cause: str) -> None: ...


class LossyUp(SharedLink):
    """A link that loses packets on its way up only: answers over WebRTC are in the three datagrams that follow, too.

    `down`: the other way, as up without the loss if not given.
    """

    def __init__(self, model: LinkModel, *, down: LinkModel | None = None) -> None:
        self.seed = model.seed
        self._up = model.up()
        self._down = (replace(model, loss=0.0) if down is None else down).down()


@dataclass(slots=True)
class FrameTrack:
    """What became of a frame. Times are seconds of the virtual clock."""

    captured_at: float
    state: str = ""
    ended_at: float = 0.0
    of: int = -1
    """The frame whose answer it has."""
    choice: EncodeChoice | None = None
    payload_bytes: int = 0
    wire_bytes: int = 0
    stages_ms: dict[str, float] = field(default_factory=dict)


@dataclass
class Run:
    """What one edge saw."""

    frames: list[FrameTrack]
    choices: list[tuple[float, RateChoice]]
    ages_s: list[tuple[float, float]]
    """(when, age of the newest result then)."""
    backlog_bytes: list[tuple[float, float, int]]
    """(when a frame was sent, seconds that the link still had to do for earlier ones, bytes of the frame)."""
    sent_bytes: int
    duration_s: float

    def count(self, state: str) -> int:
        return sum(track.state == state for track in self.frames)

    @property
    def answered(self) -> int:
        """Frames with an answer in time, repeated ones included."""
        return self.count("answered") + self.count("unchanged")

    def answered_between(self, since: float, until: float) -> int:
        states = ("answered", "unchanged")
        return sum(track.state in states and since <= track.captured_at < until for track in self.frames)

    def ages_ms(self, since: float = 0.0, until: float = float("inf")) -> np.ndarray:
        """Age of the newest result over time, in milliseconds."""
        return np.array([age * 1e3 for at, age in self.ages_s if since <= at < until])

    @property
    def kbps(self) -> float:
        return self.sent_bytes * 8 / 1000 / self.duration_s


class SimulatedServer:
    """Sessions on a memory network, one engine for all of them."""

    def __init__(self, network: MemoryNetwork, name: str = "server", *, window: int = 4, seed: int = 0) -> None:
        self.window = window
        self.coders: dict[str, Coder] = {}
        """Client name → its coder."""
        self._network = network
        self._engine_free_at = 0.0
        offer = ServerOffer(CODEC_ID, "simulated", lambda tasks, backbone: ("simulated", INFOS))
        randbytes = random.Random(seed).randbytes
        directory = SessionDirectory(
            lambda peer: ServerSession(offer, random=randbytes, credit=CreditPolicy(self.window))
        )
        self.transport = network.listen(name, directory, self._on_event)

    def _on_event(self, handle: Any, event: Any) -> None:
        if not isinstance(event, FrameReceived | JpegReceived):
            return
        payload = event.bitstream if isinstance(event, FrameReceived) else event.image
        coder = self.coders[handle.session.client]
        decoded = coder.decode(event.frame, payload)
        now = self._network.clock()
        if decoded is None:
            self._network.at(
                now + coder.decode_s,
                lambda: handle.call(lambda session, at: session.drop(event.frame, "undecodable", "", at)),
            )
            return
        ready_at = now + coder.decode_s
        starts_at = max(ready_at, self._engine_free_at)
        done_at = self._engine_free_at = starts_at + coder.server_s
        micros = [round(part * 1e6) for part in (coder.decode_s, starts_at - ready_at, coder.server_s)]
        stages = [*micros, 0, 0]
        layers, sent_layers = decoded

        def answer() -> None:
            handle.call(
                lambda session, at: session.answer(
                    event.frame, RESULTS, stages, at, decoded_layers=layers, layers=sent_layers, batch=1
                )
            )

        self._network.at(done_at, answer)


class SimulatedEdge:
    """Captures at `fps` for `seconds` from when it is made. `control` None: every frame as `fixed` says."""

    def __init__(
        self,
        network: MemoryNetwork,
        server: SimulatedServer,
        coder: Coder,
        link: LinkModel | SharedLink,
        *,
        name: str = "edge",
        control: RateControl | None = None,
        fixed: EncodeChoice = LOWEST,
        fps: float = 30.0,
        seconds: float = 10.0,
        budget_ms: float = 500.0,
        part_bytes: int = 0,
    ) -> None:
        self.frames: list[FrameTrack] = []
        self.choices: list[tuple[float, RateChoice]] = []
        self._ages: list[tuple[float, float]] = []
        self._backlog: list[tuple[float, float, int]] = []
        self.control = control
        self._network, self._coder, self._fixed = network, coder, fixed
        self._newest: int | None = None
        self._encoding = False
        self._newest_result = -1
        self._turn_planned_at = float("inf")
        self.session = EdgeSession(codec_id=CODEC_ID, client=name, budget_ms=budget_ms, control=control)
        server.coders[name] = coder
        self._began = network.clock() + 0.5  # time for Hello and the first pings
        self._seconds = seconds
        self.edge: MemoryEdge = network.connect(
            "server", self.session, self._on_event, link=link, on_traffic=self._on_traffic, part_bytes=part_bytes
        )
        for number in range(round(fps * seconds)):
            network.at(self._began + number / fps, lambda number=number: self._capture(number))  # type: ignore[misc]
        for tick in range(round(seconds / AGE_EVERY_S)):
            network.at(self._began + tick * AGE_EVERY_S, self._look)
        self._sent_before = 0
        network.at(self._began, self._begin)

    def result(self) -> Run:
        """After the network has run."""
        sent = self.edge.traffic.sent_bytes - self._sent_before
        shift = self._began
        return Run(
            self.frames,
            [(at - shift, choice) for at, choice in self.choices],
            [(at - shift, age) for at, age in self._ages],
            [(at - shift, waiting, size) for at, waiting, size in self._backlog],
            sent,
            self._seconds,
        )

    def _begin(self) -> None:
        self._sent_before = self.edge.traffic.sent_bytes

    # --- What the node does -----------------------------------------------------------------------------------

    def _capture(self, number: int) -> None:
        now = self._network.clock()
        self.frames.append(FrameTrack(now - self._began))
        self.edge.call(lambda session, at: session.capture(number, at))
        if self._newest is not None:
            self._give_up(self._newest, "superseded")
        self._newest = number
        self._try()

    def _give_up(self, number: int, cause: str) -> None:
        self.edge.call(lambda session, at: session.fail(number, cause, "", at))

    def _try(self) -> None:
        """Encode the newest frame if it is its turn, or come back when it is."""
        now = self._network.clock()
        if self._encoding or self._newest is None:
            return
        if self.control is not None:
            turn_at = self.control.turn_at(now) - self._coder.encode_s
            if turn_at > now + 1e-6:
                if turn_at < self._turn_planned_at or self._turn_planned_at <= now:
                    self._turn_planned_at = turn_at
                    self._network.at(turn_at, self._try)
                return
            wanted = self.control.choice_at(now)
            if wanted != (self.choices[-1][1] if self.choices else None):
                self.choices.append((now, wanted))
        number, self._newest = self._newest, None
        choice = self._fixed if self.control is None else self.control.choice_at(now).encode
        self._encoding = True
        self._network.at(now + self._coder.encode_s, lambda: self._encoded(number, choice))

    def _encoded(self, number: int, choice: EncodeChoice) -> None:
        self._encoding = False
        payload = self._coder.encode(number, choice)
        self.frames[number].choice = choice
        now = self._network.clock()
        if isinstance(payload, int):
            of = payload
            self.edge.call(lambda session, at: session.unchanged(number, of, at))
        else:
            data = payload
            captured_at = self.frames[number].captured_at + self._began
            marks = StageMarks(captured_at, now - self._coder.encode_s, now, now, now)
            kind: Any = self._coder.kind
            self.edge.call(lambda session, at: session.offer(number, data, marks, at, kind=kind))
        self._try()

    def _on_event(self, event: EdgeEvent) -> None:
        if isinstance(event, Welcome):
            return
        if hasattr(event, "welcome"):
            self._coder.opened(event.welcome)
        elif isinstance(event, Answered):
            self._end(event.frame, "answered", event.frame)
            track = self.frames[event.frame]
            track.payload_bytes, track.wire_bytes, track.stages_ms = (
                event.payload_bytes, event.wire_bytes, event.stages_ms,
            )  # fmt: skip
            self._coder.answered(event.frame, event.decoded_layers)
        elif isinstance(event, FrameUnchanged):
            self._end(event.frame, "unchanged", event.of)
            self._coder.dropped(event.frame, "unchanged")
        elif isinstance(event, FrameDropped):
            self._end(event.frame, event.cause, -1)
            self._coder.dropped(event.frame, event.cause)
        self._network.at(self._network.clock(), self._try)

    def _end(self, number: int, state: str, of: int) -> None:
        track = self.frames[number]
        track.state, track.of, track.ended_at = state, of, self._network.clock() - self._began
        if of >= 0:
            self._newest_result = max(self._newest_result, number)

    # --- What is looked at ------------------------------------------------------------------------------------

    def _look(self) -> None:
        now = self._network.clock()
        if self._newest_result >= 0:
            self._ages.append((now, now - self._began - self.frames[self._newest_result].captured_at))

    def _on_traffic(self, direction: str, channel: str, data: bytes, now: float) -> None:
        if direction == "up" and channel == "frames":
            link: Any = self.edge.pump._link
            waiting = link._up.waiting_s(now)  # with this frame's own time
            self._backlog.append((now, waiting, len(data)))


def stream(
    coder: Coder,
    link: LinkModel | SharedLink,
    *,
    control: RateControl | None = None,
    fixed: EncodeChoice = LOWEST,
    seconds: float = 10.0,
    fps: float = 30.0,
    window: int = 4,
    budget_ms: float = 500.0,
    part_bytes: int = 0,
    disturb: Sequence[tuple[float, Callable[[MemoryEdge, SimulatedServer], None]]] = (),
) -> Run:
    """One edge, from start to end; `disturb` does something at a time of the stream."""
    network = MemoryNetwork()
    server = SimulatedServer(network, window=window)
    edge = SimulatedEdge(
        network, server, coder, link, control=control, fixed=fixed, fps=fps, seconds=seconds, budget_ms=budget_ms,
        part_bytes=part_bytes,
    )  # fmt: skip
    for at, action in disturb:
        network.at(0.5 + at, lambda action=action: action(edge.edge, server))  # type: ignore[misc]
    network.run_for(0.5 + seconds + 1.2)
    assert edge.session.account.balanced
    return edge.result()
