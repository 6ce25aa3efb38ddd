"""The analytics server: sessions on one side, engines on the other, nothing in between that can grow without bound.

Threads: one for each transport (its sessions live there), a few decoders, one engine for each backbone, one for HTTP.
A frame goes transport → decoder → lane(s) → back to its transport's inbox as an answer; every frame ends once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import structlog

from analytics_server.batcher import Batcher
from analytics_server.decoding import Decoding
from analytics_server.http import HttpAdmin
from analytics_server.lane import EngineLane
from analytics_server.metrics import ServerMetrics
from analytics_server.offer import TaskOffer
from analytics_server.warm_up import warm_up
from analytics_server.work import FrameWork, Handle, SessionState
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.clock import Clock, monotonic
from pipeline.errors import ConfigError, FrankenError
from pipeline.runtime.engine import Engine
from pipeline.runtime.engines import choose_engine, usable_cores
from pipeline.transports.base import ServerTransport, SessionHandle, listen
from pipeline.transports.keys import ServerKeys
from pipeline.wire import PeerInfo, ServerOffer, ServerSession, SessionDirectory
from pipeline.wire.events import (
    BundleRequested,
    Closed,
    Disconnected,
    FrameDropped,
    FrameReceived,
    JpegReceived,
    ServerEvent,
    SessionOpened,
    TasksWanted,
)
from pipeline.wire.states import OPEN
from tasks import HeadStack, bundle_heads

log = structlog.get_logger(__name__)

VERSION_TEXT = "frankenstream server"
DRAIN_S = 5.0
"""How long frames under way may still be answered when the server stops, in seconds."""
DECODE_THREADS_MAX = 4
_TRUSTED_TRANSPORTS = ("ipc", "memory")

State = Literal["new", "warming up", "ready", "draining", "stopped"]


class Server:
    """Serves `bundle` at `listen_urls`, with the admin interface at `http_address` (empty: none).

    `engines`: ready ones (tests, benchmarks); None: built for `backbones` (empty: all of the bundle, its default first)
    with `backend`, `device`, `threads`. `batch_size_max`, `batch_delay_ms`: see batcher. `keys`: beyond loopback.

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
        cache_dir: Path | None = None,
        clock: Clock = monotonic,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not listen_urls:
            raise ConfigError("no URL to listen on: name at least one, for example tcp://127.0.0.1:5555")
        self.bundle = bundle
        self.metrics = ServerMetrics()
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
        self._sessions: dict[str, SessionState] = {}
        self._lanes: dict[str, EngineLane] = {}
        self._transports: list[ServerTransport] = []
        self._packed_edge: bytes | None = None
        self._offer: TaskOffer
        self._decoding: Decoding
        self._directory = SessionDirectory(self._make_session, guard=threading.RLock())
        self._http = HttpAdmin(self, http_address, token=admin_token) if http_address else None
        self._register_metrics()

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
            if self._http:
                self._http.start()
            self._build_lanes()
            self._decoding = Decoding(self.bundle, self._lanes, threads=_decode_threads(), clock=self._clock)
            for lane in self._lanes.values():
                lane.on_room = self._decoding.wake
                lane.start()
            self._decoding.start()
            for url in self._listen_urls:
                self._transports.append(
                    listen(url, self._directory, self._on_event, keys=self._keys, clock=self._clock)
                )
        except BaseException:
            self.stop(drain_s=0.0)
            raise
        self.state = "ready"
        log.info("ready", urls=self.urls, http=self.http_url, coder=self._decoding.codec.coder,
                 bundle=self.bundle.bundle_id[:12], codec=self.bundle.codec_id[:12],
                 tasks=[f"{task.name}@{task.backbone}" for task in self._offer.tasks])  # fmt: skip

    def stop(self, drain_s: float = DRAIN_S, *, peer: str = "") -> None:
        """Answer what is under way (at most `drain_s` seconds), say Goodbye with a resume token, end every thread.

        `peer`: URL of another server that edges should go to.
        """
        if self.state == "stopped":
            return
        self.state = "draining"
        transports, self._transports = self._transports, []
        if transports:
            log.info("draining", sessions=len(self._sessions), drain_s=drain_s)
            _close_together(transports, drain_s, peer)
        if hasattr(self, "_decoding"):
            self._decoding.stop()
        for lane in self._lanes.values():
            lane.stop()
        if self._http:
            self._http.stop()
        self.state = "stopped"
        log.info("stopped")

    @property
    def urls(self) -> list[str]:
        """Where it listens, with real ports."""
        return [transport.url for transport in self._transports]

    @property
    def http_url(self) -> str:
        """Where the admin interface is, or empty."""
        return self._http.url if self._http else ""

    @property
    def lanes(self) -> dict[str, EngineLane]:
        """Engines with their heads, by backbone tag."""
        return self._lanes

    def replace_heads(self, backbone: str, heads: HeadStack) -> None:
        """Serve other heads on a backbone from now on; sessions keep the tasks that they have. Thread-safe."""
        self._lanes[backbone].replace_heads(heads)
        self._offer.replace(backbone, heads.infos())

    def _build_lanes(self) -> None:
        offered = {}
        for engine in self._engines():
            heads = HeadStack(
                bundle_heads(self.bundle, engine), backbone=engine.backbone, feature_width=engine.feature_width
            )
            batcher: Batcher[FrameWork] = Batcher(**self._batching)  # type: ignore[arg-type]
            warm_up(engine, heads, batcher, self._latent_shape(), self._clock)
            self._lanes[engine.backbone] = EngineLane(
                engine, heads, batcher=batcher, clock=self._clock, observe=self.metrics.batch
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

    # --- Sessions (on their transports' threads) --------------------------------------------------------------

    def _make_session(self, peer: PeerInfo) -> ServerSession:
        offer = ServerOffer(
            codec_id=self.bundle.codec_id,
            bundle_id=self.bundle.bundle_id,
            resolve_tasks=self._offer.resolve,
            server=VERSION_TEXT,
            reference_window=limits.REFERENCE_WINDOW if self._decoding.codec.takes_references else 0,
            hands_out_bundle=bool(peer.key) or peer.transport in _TRUSTED_TRANSPORTS,
        )
        session = ServerSession(offer, random=self._random)
        state = SessionState(session.session_id, session.reference_epoch)
        state.transport = peer.transport
        self._sessions[state.session_id] = state
        return session

    def _on_event(self, handle: SessionHandle, event: ServerEvent) -> None:
        state = self._sessions.get(handle.id)
        if state is None:
            return
        match event:
            case FrameReceived():
                self._take(handle, state, event, "latent", event.bitstream)
            case JpegReceived():
                self._take(handle, state, event, "picture", event.image)
            case FrameDropped():
                work = state.end(event.frame)
                if work is not None:
                    work.cancel(event.cause)
            case SessionOpened():
                self._opened(state, event)
            case TasksWanted():
                self._set_tasks(handle, state, event)
            case BundleRequested():
                self._send_bundle_part(handle, event)
            case Disconnected():
                log.info("session disconnected", session=handle.id, reason=event.reason)
            case Closed():
                del self._sessions[handle.id]
                log.info("session closed", session=handle.id, reason=event.reason, detail=event.detail,
                         received=handle.session.account.entered, answered=handle.session.account.answered,
                         dropped=handle.session.account.dropped)  # fmt: skip

    def _take(
        self,
        handle: Handle,
        state: SessionState,
        event: FrameReceived | JpegReceived,
        kind: Literal["latent", "picture"],
        payload: bytes,
    ) -> None:
        self.metrics.received(kind, len(payload))
        work = FrameWork(
            handle=handle, session=state, frame=event.frame, kind=kind, payload=payload, received_at=event.received_at,
            deadline=event.deadline, outcome=self.metrics, tasks=state.tasks, top_k=state.top_k,
        )  # fmt: skip
        state.begin(work)
        self._decoding.add(work)

    def _opened(self, state: SessionState, event: SessionOpened) -> None:
        state.tasks, state.top_k = event.tasks, event.top_k
        state.client, state.lossless = event.client, event.lossless
        self.metrics.opened(resumed=event.resumed)
        log.info("session resumed" if event.resumed else "session opened", session=event.session, client=event.client,
                 transport=state.transport, tasks=[task.name for task in event.tasks])  # fmt: skip

    def _set_tasks(self, handle: SessionHandle, state: SessionState, event: TasksWanted) -> None:
        error = ""
        try:
            _, state.tasks = self._offer.resolve(event.tasks, handle.session.backbone)
            state.top_k = event.top_k
        except FrankenError as refusal:
            error = str(refusal)
        tasks, top_k = state.tasks, state.top_k
        handle.call(lambda session, now: session.set_tasks(tasks, error, now, top_k=top_k))

    def _send_bundle_part(self, handle: SessionHandle, event: BundleRequested) -> None:
        codec_id = self.bundle.codec_id
        if event.codec_id != codec_id:
            detail = f"codec {event.codec_id[:12]} was asked for, this server has {codec_id[:12]}"
            handle.call(lambda session, now: session.goodbye("codec", detail, now))
            return
        if self._packed_edge is None:
            self._packed_edge = self.bundle.pack_edge()
        packed = self._packed_edge
        part = packed[event.offset : event.offset + limits.BUNDLE_PART_BYTES]
        handle.call(lambda session, now: session.send_bundle_part(codec_id, event.offset, len(packed), part, now))

    # --- Admin (any thread) -----------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Whether the threads that answer frames are alive."""
        dead = [lane.backbone for lane in self._lanes.values() if not lane.alive] if self.state == "ready" else []
        return {"healthy": not dead, "state": self.state, **({"dead_engines": dead} if dead else {})}

    def readiness(self) -> dict[str, Any]:
        """Whether new sessions are welcome."""
        return {"ready": self.state == "ready", "state": self.state}

    def load(self) -> dict[str, Any]:
        """What autoscalers read."""
        return {
            "streams": {"active": self._active(), "known": len(self._sessions), "max": limits.SESSIONS_MAX},
            "queue_age_ms_p95": round(self.metrics.queue_age_ms_p95(), 3),
            "frames_under_way": self._under_way(),
            "draining": self.state == "draining",
        }

    def task_table(self) -> list[dict[str, Any]]:
        """Every task that is served, with what became of its head."""
        return [
            {
                "name": info.name, "backbone": info.backbone, "classes": info.classes, "version": info.version,
                "title": info.title, "error": lane.heads.failed.get(info.name, ""),
            }
            for lane in self._lanes.values()
            for info in lane.heads.infos()
        ]  # fmt: skip

    def session_table(self) -> list[dict[str, Any]]:
        """Every session with its frame counts."""
        rows = []
        for handle in self._handles():
            account, state = handle.session.account, self._sessions.get(handle.id)
            rows.append({
                "session": handle.id, "client": handle.session.client, "transport": handle.peer.transport,
                "address": handle.peer.address, "state": handle.session.state,
                "tasks": [task.name for task in handle.session.tasks],
                "received": account.entered, "answered": account.answered, "dropped": dict(account.dropped),
                "in_flight": len(account.in_flight), "duplicates": account.duplicates,
                "lossless": bool(state and state.lossless),
            })  # fmt: skip
        return rows

    def metrics_text(self) -> bytes:
        """For Prometheus."""
        return self.metrics.text()

    def request_drain(self, peer: str = "") -> None:
        """Ask whoever runs the server to stop it."""
        self.drain_peer = peer
        self.state = "draining" if self.state == "ready" else self.state
        self.drain_requested.set()

    def _handles(self) -> list[SessionHandle]:
        return [handle for transport in list(self._transports) for handle in transport.handles()]

    def _active(self) -> int:
        return sum(handle.session.state == OPEN for handle in self._handles())

    def _under_way(self) -> int:
        return sum(state.under_way for state in list(self._sessions.values()))

    def _register_metrics(self) -> None:
        metrics = self.metrics
        metrics.gauge("sessions_active", "Sessions with a connection", self._active)
        metrics.gauge("frames_under_way", "Frames between receipt and answer", self._under_way)
        metrics.gauge("ready", "1 when frames are answered", lambda: float(self.state == "ready"))
        metrics.table("queue_frames", "Decoded frames that wait for an engine", "backbone",
                      lambda: {tag: float(len(lane)) for tag, lane in self._lanes.items()})  # fmt: skip
        metrics.table("engine_failures", "Batches that failed", "backbone",
                      lambda: {tag: float(lane.failures) for tag, lane in self._lanes.items()}, total=True)  # fmt: skip
        metrics.table("heads_failed", "Heads that were taken out", "backbone",
                      lambda: {tag: float(len(lane.heads.failed)) for tag, lane in self._lanes.items()})  # fmt: skip


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
