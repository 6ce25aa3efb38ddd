"""The analytics server: sessions on one side, engines on the other, nothing in between that can grow without bound.

Threads: one for each transport (its sessions live there), a few decoders, one engine for each backbone, one for HTTP.
A frame goes transport → decoder → lane(s) → back to its transport's inbox as an answer; every frame ends once.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import structlog

from analytics_server.admin import ServerAdmin
from analytics_server.batcher import Batcher
from analytics_server.captures import Captures
from analytics_server.credit import credit_window
from analytics_server.decoding import Decoding
from analytics_server.description import describe_server
from analytics_server.few_shot import FewShot
from analytics_server.front import FrontSettings
from analytics_server.gauges import register_gauges
from analytics_server.http import HttpAdmin
from analytics_server.lane import EngineLane
from analytics_server.lessons import Lessons
from analytics_server.metrics import ServerMetrics
from analytics_server.offer import TaskOffer
from analytics_server.recording import SessionRecordings
from analytics_server.refusal import RequestRefused
from analytics_server.sessions import Sessions
from analytics_server.task_admin import TaskAdmin
from analytics_server.warm_up import warm_up
from analytics_server.work import FrameWork
from pipeline.bundle import Bundle
from pipeline.clock import Clock, monotonic
from pipeline.errors import ConfigError
from pipeline.runtime.engine import Engine
from pipeline.runtime.engines import choose_engine, usable_cores
from pipeline.transports.base import ServerTransport, SessionHandle, check_listen, listen
from pipeline.transports.keys import ServerKeys
from pipeline.wire import SessionDirectory
from pipeline.wire.states import OPEN
from tasks import HeadStack
from tasks.store import HeadStore

log = structlog.get_logger(__name__)

DRAIN_S = 5.0
"""How long frames under way may still be answered when the server stops, in seconds."""
DECODE_THREADS_MAX = 4
CREDIT_LOOK_S = 0.25
"""How often credit is fitted to the load, in seconds."""

State = Literal["new", "warming up", "ready", "draining", "stopped"]


class Server:
    """Serves `bundle` at `listen_urls`, with the admin interface at `http_address` (empty: none).

    `engines`: ready ones (tests, benchmarks); None: built for `backbones` (empty: all of the bundle, its default first)
    with `backend`, `device`, `threads`. `batch_size_max`, `batch_delay_ms`: see batcher. `keys`: beyond loopback.
    `heads_dir`: users' heads are served from there and kept there (None: neither). `record_dir`: every session is
    recorded there.

        with Server(Bundle.open(), ["tcp://127.0.0.1:0"]) as server:
            print(server.urls)
    """

    def __init__(
        self,
        bundle: Bundle,
        listen_urls: Sequence[str],
        http_address: str = "",
        *,
        engines: Sequence[Engine] | None = None,
        backbones: Sequence[str] = (),
        backend: str = "auto",
        device: str = "auto",
        threads: int = 0,
        batch_size_max: int = 16,
        batch_delay_ms: float = 4.0,
        keys: ServerKeys | None = None,
        admin_token: str = "",
        front: FrontSettings | None = None,
        cache_dir: Path | None = None,
        heads_dir: Path | None = None,
        record_dir: Path | None = None,
        clock: Clock = monotonic,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not listen_urls:
            raise ConfigError("no URL to listen on: name at least one, for example tcp://127.0.0.1:5555")
        self.bundle = bundle
        points = [point.name for point in bundle.operating_points]
        self.metrics = ServerMetrics(bundle.manifest.reference, points, clock=clock)
        self.state: State = "new"
        self.drain_requested = threading.Event()
        """Set by POST /api/v1/drain; whoever runs the server then calls `stop`."""
        self.drain_peer = ""
        self._listen_urls = tuple(listen_urls)
        self._given_engines = engines
        self._backbones = tuple(backbones) or tuple(backbone.tag for backbone in bundle.backbones)
        self._engine_settings = {"backend": backend, "device": device, "threads": threads, "cache_dir": cache_dir}
        self._batching = {"batch_size_max": batch_size_max, "batch_delay_s": batch_delay_ms / 1e3}
        self._keys = keys
        self._clock = clock
        self._random = random
        self._lanes: dict[str, EngineLane] = {}
        self._transports: list[ServerTransport] = []
        self._credit_due_at = 0.0
        self.captures = Captures(clock)
        self.tasks = TaskAdmin(
            bundle, self._lanes, replace=self.replace_heads, changed=self._tasks_changed,
            store=HeadStore(heads_dir) if heads_dir else None,
        )  # fmt: skip
        self.lessons = Lessons(
            bundle, put=self.tasks.put, tell=self.metrics.events.post, heads_dir=heads_dir, cache_dir=cache_dir,
            clock=clock, folder=heads_dir.parent / "uploads" if heads_dir else None,
        )  # fmt: skip
        self.few_shot = FewShot(
            bundle, free_name=self.tasks.free_name, put=self.tasks.put, heads_dir=heads_dir, clock=clock,
            default_backbone=lambda: self.loaded().default_backbone,
        )  # fmt: skip
        self.record_dir = record_dir
        self._offer: TaskOffer | None = None
        self._decoding: Decoding
        self._sessions: Sessions | None = None
        self._recordings = SessionRecordings(record_dir, bundle, self.metrics, clock=clock) if record_dir else None
        self.admin = ServerAdmin(self)
        self._http = HttpAdmin(self.admin, http_address, token=admin_token, front=front) if http_address else None
        register_gauges(self)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # --- Life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Build engines, warm them up, listen. Returns when frames are answered.

        Raises TransportError (address in use, no keys), EngineError, BundleError, ConfigError; nothing is left running.
        """
        self.state = "warming up"
        try:
            for url in self._listen_urls:
                check_listen(url, self._keys)
            if self._http:
                self._http.start()
            self._build_lanes()
            self._decoding = Decoding(self.bundle, self._lanes, threads=_decode_threads(), clock=self._clock)
            for lane in self._lanes.values():
                lane.on_room = self._decoding.wake
                lane.on_features = self.captures.on_features
                lane.start()
            self._decoding.start()
            self._listen()
        except BaseException:
            self.stop(drain_s=0.0)
            raise
        self.state = "ready"
        self.metrics.events.post("server", "ready", urls=self.urls)
        log.info("ready", urls=self.urls, http=self.http_url, coder=self._decoding.codec.coder,
                 bundle=self.bundle.bundle_id[:12], codec=self.bundle.codec_id[:12],
                 tasks=[f"{task.name}@{task.backbone}" for task in self.loaded().tasks])  # fmt: skip

    def stop(self, drain_s: float = DRAIN_S, *, peer: str = "") -> None:
        """Answer what is under way (at most `drain_s` seconds), say Goodbye with a resume token, end every thread.

        `peer`: URL of another server that edges should go to.
        """
        if self.state == "stopped":
            return
        self.state = "draining"
        self.captures.close()
        self.lessons.close()
        transports, self._transports = self._transports, []
        if transports:
            log.info("draining", sessions=self.sessions_known, drain_s=drain_s)
            _close_together(transports, drain_s, peer)
        if hasattr(self, "_decoding"):
            self._decoding.stop()
        for lane in self._lanes.values():
            lane.stop()
        if self._http:
            self._http.stop()
        if self._recordings:
            self._recordings.close()
        self.state = "stopped"
        log.info("stopped")

    @property
    def urls(self) -> list[str]:
        """Where it listens, with real ports."""
        return [transport.url for transport in self._transports]

    def pairing_link(self) -> str:
        """A link that lets one more device stream, with which it also finds the page; empty without HTTP."""
        return self._http.front.link() if self._http else ""

    @property
    def http_url(self) -> str:
        """Where the admin interface is, or empty."""
        return self._http.url if self._http else ""

    @property
    def lanes(self) -> dict[str, EngineLane]:
        """Engines with their heads, by backbone tag."""
        return self._lanes

    def _listen(self) -> None:
        engines = [lane.engine for lane in self._lanes.values()]
        threads = int(self._engine_settings["threads"] or usable_cores())  # type: ignore[call-overload]
        sessions = Sessions(
            self.bundle, self.loaded(), self._decoding, self.metrics, self._random,
            description=describe_server(engines, self.bundle.backbones, threads), recordings=self._recordings,
        )  # fmt: skip
        self._sessions = sessions
        directory = SessionDirectory(sessions.make_session, guard=threading.RLock())
        for url in self._listen_urls:
            self._transports.append(listen(url, directory, sessions.on_event, keys=self._keys, clock=self._clock))
        if self._http:
            self._transports.append(self._http.open_streams(directory, sessions.on_event, self._clock))

    def replace_heads(self, backbone: str, heads: HeadStack) -> None:
        """Serve other heads on a backbone from the next batch on. Thread-safe."""
        before = {info.name: info.version for info in self._lanes[backbone].heads.infos()}
        after = {info.name: info.version for info in heads.infos()}
        self._lanes[backbone].replace_heads(heads)
        self.loaded().replace(backbone, heads.infos())
        self.metrics.keep_tasks((info.name, tag) for tag, lane in self._lanes.items() for info in lane.heads.infos())
        for name in before.keys() | after.keys():
            what = "added" if name not in before else "removed" if name not in after else "changed"
            if before.get(name) != after.get(name):
                self.metrics.events.post(
                    "task", what, task=name, backbone=backbone, version=after.get(name, before.get(name))
                )

    def _tasks_changed(self) -> None:
        if self._sessions is not None:
            self._sessions.refresh_tasks(self.handles())

    def _build_lanes(self) -> None:
        offered = {}
        for engine in self._engines():
            heads = HeadStack(
                self.tasks.heads_for(engine), backbone=engine.backbone, feature_width=engine.feature_width
            )
            batcher: Batcher[FrameWork] = Batcher(**self._batching)  # type: ignore[arg-type]
            warm_up(engine, heads, batcher, self._latent_shape(), self._clock)
            self._lanes[engine.backbone] = EngineLane(
                engine, heads, batcher=batcher, clock=self._clock, observe=self._computed
            )
            offered[engine.backbone] = heads.infos()
        if not offered:
            raise ConfigError("no backbone to serve: the bundle has none")
        self._offer = TaskOffer(self.bundle, offered, next(iter(offered)))

    def _engines(self) -> Iterable[Engine]:
        if self._given_engines is not None:
            yield from self._given_engines
            return
        for name in dict.fromkeys(self.bundle.backbone(name).tag for name in self._backbones):
            choice = choose_engine(self.bundle, name, progress=lambda line: log.info(line), **self._engine_settings)  # type: ignore[arg-type]
            engine = choice.engine
            log.info("engine", backbone=engine.backbone, backend=engine.backend, device=engine.device, why=choice.why)
            yield engine

    def _latent_shape(self) -> tuple[int, int, int]:
        spec = self.bundle.edge_spec
        side = spec.preprocess.size // spec.latent.stride
        return spec.latent.channels, side, side

    # --- Load -------------------------------------------------------------------------------------------------

    def _computed(self, backbone: str, size: int, seconds: float, heads_s: float) -> None:
        """A lane computed a batch (on its thread): now and then, see whether credit fits the load."""
        self.metrics.batch(backbone, size, seconds, heads_s)
        now = self._clock()
        if now < self._credit_due_at:
            return
        self._credit_due_at = now + CREDIT_LOOK_S
        handles = [handle for handle in self.handles() if handle.session.state == OPEN]
        using = Counter(tag for handle in handles for tag in {task.backbone for task in handle.session.tasks})
        window = credit_window(
            (streams, self._lanes[tag].frame_cost_s(streams)) for tag, streams in using.items() if tag in self._lanes
        )
        for handle in handles:
            if handle.session.credit.window:  # 0: it drains
                handle.session.credit.window = window

    # --- For others (any thread) ------------------------------------------------------------------------------

    def dead(self) -> list[str]:
        """What has ended that frames pass, by name: the server is not healthy then."""
        if self.state != "ready":
            return []
        engines = [f"engine {lane.backbone}" for lane in self._lanes.values() if not lane.alive]
        decoders = [] if self._decoding.alive else ["decoder"]
        return engines + decoders + [f"transport {one.url}" for one in self.transports if not one.alive]

    def loaded(self) -> TaskOffer:
        """What is offered, once every engine is built. Raises RequestRefused before."""
        if self._offer is None:
            raise RequestRefused("the server is still loading: try again in a moment", 503)
        return self._offer

    def request_drain(self, peer: str = "") -> None:
        """Ask whoever runs the server to stop it."""
        self.drain_peer = peer
        self.state = "draining" if self.state == "ready" else self.state
        self.metrics.events.post("server", "draining", peer=peer)
        self.drain_requested.set()

    def choose_tasks(self, handle: SessionHandle, tasks: Sequence[str], top_k: int) -> None:
        """Other tasks for a session from now on. Raises ConfigError."""
        if self._sessions is not None:
            self._sessions.choose_tasks(handle, tuple(tasks), top_k)

    @property
    def transports(self) -> list[ServerTransport]:
        """What it listens with."""
        return list(self._transports)

    def handles(self) -> list[SessionHandle]:
        """Every session, on whichever transport."""
        return [handle for transport in self.transports for handle in transport.handles()]

    @property
    def sessions_active(self) -> int:
        """Those with a connection."""
        return sum(handle.session.state == OPEN for handle in self.handles())

    @property
    def sessions_known(self) -> int:
        """Those that may come back included."""
        return len(self._sessions) if self._sessions else 0

    @property
    def frames_under_way(self) -> int:
        """Between receipt and answer."""
        return self._sessions.under_way if self._sessions else 0


def _close_together(transports: Sequence[ServerTransport], drain_s: float, peer: str) -> None:
    """Each waits for its own sessions; daemon threads, so that an impatient second signal is not held up."""
    closers = [
        threading.Thread(target=transport.close, kwargs={"drain_s": drain_s, "peer": peer}, daemon=True)
        for transport in transports
    ]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join()


def _decode_threads() -> int:
    return max(1, min(DECODE_THREADS_MAX, usable_cores()))
