"""The server's sessions: who is welcome, what becomes of their frames and wishes. Runs on the transports' threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import structlog

from analytics_server.decoding import Decoding
from analytics_server.metrics import ServerMetrics
from analytics_server.offer import TaskOffer
from analytics_server.recording import SessionRecordings
from analytics_server.work import FrameWork, Handle, SessionState
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.errors import FrankenError
from pipeline.transports.base import SessionHandle
from pipeline.wire import PeerInfo, ServerOffer, ServerSession
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

log = structlog.get_logger(__name__)

VERSION_TEXT = "frankenstream server"
_TRUSTED_TRANSPORTS = ("ipc", "memory")


class Sessions:
    """Every session of one server, whichever transport it is on. A session's events come one after the other."""

    def __init__(
        self,
        bundle: Bundle,
        offer: TaskOffer,
        decoding: Decoding,
        metrics: ServerMetrics,
        random: Callable[[int], bytes],
        *,
        description: str = VERSION_TEXT,
        recordings: SessionRecordings | None = None,
    ) -> None:
        self._bundle = bundle
        self._offer = offer
        self._decoding = decoding
        self._metrics = metrics
        self._random = random
        self._description = description
        self._recordings = recordings
        self._states: dict[str, SessionState] = {}
        self._packed_edge: bytes | None = None

    def __len__(self) -> int:
        return len(self._states)

    @property
    def under_way(self) -> int:
        """Frames between receipt and answer, of all sessions. Thread-safe."""
        return sum(state.under_way for state in list(self._states.values()))

    def make_session(self, peer: PeerInfo) -> ServerSession:
        """A new session for a peer that the transport let in."""
        offer = ServerOffer(
            codec_id=self._bundle.codec_id,
            bundle_id=self._bundle.bundle_id,
            resolve_tasks=self._offer.resolve,
            server=self._description,
            reference_window=limits.REFERENCE_WINDOW if self._decoding.codec.takes_references else 0,
            hands_out_bundle=bool(peer.key) or peer.transport in _TRUSTED_TRANSPORTS,
        )
        session = ServerSession(offer, random=self._random)
        state = SessionState(session.session_id, session.reference_epoch)
        state.transport = peer.transport
        self._states[state.session_id] = state
        return session

    def on_event(self, handle: SessionHandle, event: ServerEvent) -> None:
        """What a session tells its owner."""
        state = self._states.get(handle.id)
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
                self._opened(handle, state, event)
            case TasksWanted():
                self._set_tasks(handle, state, event)
            case BundleRequested():
                self._send_bundle_part(handle, event)
            case Disconnected():
                self._metrics.events.post("session", "disconnected", session=handle.id, reason=event.reason)
                log.info("session disconnected", session=handle.id, reason=event.reason)
            case Closed():
                del self._states[handle.id]
                if self._recordings is not None:
                    self._recordings.closed(handle.id)
                self._metrics.watch.forget(handle.id)
                self._metrics.events.post("session", "closed", session=handle.id, reason=event.reason)
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
        self._metrics.received(kind, len(payload), state.session_id)
        work = FrameWork(
            handle=handle, session=state, frame=event.frame, kind=kind, payload=payload, received_at=event.received_at,
            deadline=event.deadline, outcome=self._recordings or self._metrics, tasks=state.tasks, top_k=state.top_k,
        )  # fmt: skip
        if self._recordings is not None:
            self._recordings.received(work)
        state.begin(work)
        self._decoding.add(work)

    def _opened(self, handle: SessionHandle, state: SessionState, event: SessionOpened) -> None:
        state.tasks, state.top_k = event.tasks, event.top_k
        if event.resumed:
            handle.call(lambda session, now: self._refresh(handle.id, session, now))  # what went while it was away
        elif handle.session.hello is not None:
            state.wanted = tuple(handle.session.hello.tasks)
        if self._recordings is not None:
            self._recordings.opened(handle.session, resumed=event.resumed)
        self._metrics.opened(resumed=event.resumed)
        self._metrics.events.post("session", "resumed" if event.resumed else "opened", session=event.session,
                                  client=event.client)  # fmt: skip
        log.info("session resumed" if event.resumed else "session opened", session=event.session, client=event.client,
                 transport=state.transport, tasks=[task.name for task in event.tasks])  # fmt: skip

    def _set_tasks(self, handle: SessionHandle, state: SessionState, event: TasksWanted) -> None:
        error = ""
        try:
            _, state.tasks = self._offer.resolve(event.tasks, handle.session.backbone)
            state.top_k, state.wanted = event.top_k, event.tasks
        except FrankenError as refusal:
            error = str(refusal)
        tasks, top_k = state.tasks, state.top_k
        handle.call(lambda session, now: session.set_tasks(tasks, error, now, top_k=top_k))

    def refresh_tasks(self, handles: Iterable[SessionHandle]) -> None:
        """Heads came, changed or went: every session whose tasks that touches hears it (TasksChanged). Thread-safe."""
        for handle in handles:
            handle.call(lambda session, now, id=handle.id: self._refresh(id, session, now))  # type: ignore[misc]

    def _refresh(self, session_id: str, session: ServerSession, now: float) -> None:
        state = self._states.get(session_id)
        if state is None or session.hello is None:
            return
        tasks, error = self._offer.follow(state.wanted, session.backbone, state.tasks)
        if tasks != state.tasks or error:
            state.tasks = tasks
            session.set_tasks(tasks, error, now)

    def choose_tasks(self, handle: SessionHandle, tasks: tuple[str, ...], top_k: int) -> None:
        """Other tasks for a session from now on, as if its edge had asked. Raises ConfigError. Thread-safe."""
        self._offer.resolve(tasks, handle.session.backbone)
        state = self._states.get(handle.id)
        if state is not None:
            handle.call(lambda session, now: self._set_tasks(handle, state, TasksWanted(tasks, top_k)))

    def _send_bundle_part(self, handle: SessionHandle, event: BundleRequested) -> None:
        codec_id = self._bundle.codec_id
        refusal = _refusal(handle.session, event.codec_id, codec_id)
        if refusal:
            handle.call(lambda session, now: session.goodbye(*refusal, now))
            return
        if self._packed_edge is None:
            self._packed_edge = self._bundle.pack_edge()
        packed = self._packed_edge
        part = packed[event.offset : event.offset + limits.BUNDLE_PART_BYTES]
        handle.call(lambda session, now: session.send_bundle_part(codec_id, event.offset, len(packed), part, now))


def _refusal(session: ServerSession, wanted: str, codec_id: str) -> tuple[str, str] | None:
    """(reason, detail) for an edge that may not have the bundle, or None.

    An edge runs what it fetches, so over a transport without proof of who is there it must know beforehand, by its
    hash, what it will get.
    """
    if wanted != codec_id:
        return "codec", f"codec {wanted[:12]} was asked for, this server has {codec_id[:12]}"
    pinned = session.hello is not None and session.hello.codec_id == codec_id
    if not pinned and not session.offer.hands_out_bundle:
        return "unauthorised", "without keys a bundle is handed out only to an edge that names its codec id: pin it"
    return None
