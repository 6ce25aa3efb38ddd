"""All sessions of a server: who may open one, and which one a resume token means. Pure.

A session lives above connections and transports; this is where a new connection finds it again. Tokens are 128
random bits, are bound to the client's key, and each serves once (the predecessor of the newest holds until the edge
is heard again, in case that Welcome was lost with the connection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from pipeline import limits
from pipeline.wire.messages import Goodbye, Hello, Message
from pipeline.wire.server_session import ServerSession
from pipeline.wire.states import CLOSED


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """Who is at the other end of a connection, as far as the transport knows."""

    transport: str
    """Scheme: tcp, ipc, memory, …"""
    address: str = ""
    """For people: host or path."""
    key: bytes = b""
    """The client's public key if the transport authenticated it, else empty."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A connection gets no session: send this and forget the connection."""

    goodbye: Goodbye


@dataclass(slots=True)
class _Entry:
    session: ServerSession
    key: bytes
    home: object
    tokens: tuple[bytes, ...] = field(default=())


class SessionDirectory:
    """Sessions by resume token.

    Transports that share one take turns: `guard` is what they hold meanwhile (a threading.RLock when there are
    several; nothing otherwise, since this package knows no threads).
    """

    def __init__(
        self,
        make_session: Callable[[PeerInfo], ServerSession],
        *,
        sessions_max: int = limits.SESSIONS_MAX,
        guard: AbstractContextManager[object] | None = None,
    ) -> None:
        self._make_session = make_session
        self.sessions_max = sessions_max
        self.guard = guard or nullcontext()
        self.draining = False
        """True: no new session is opened (Goodbye "draining")."""
        self.refused = 0
        """Connections that got no session."""
        self._entries: dict[int, _Entry] = {}
        self._by_token: dict[bytes, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[ServerSession]:
        return iter([entry.session for entry in self._entries.values()])

    def find(self, hello: Hello, peer: PeerInfo) -> ServerSession | None:
        """The session that `hello` asks to resume, if `peer` may."""
        entry = self._by_token.get(hello.resume_token) if hello.resume_token else None
        if entry is None or entry.key != peer.key or entry.session.state == CLOSED:
            return None
        return entry.session if hello.resume_token in entry.session.resume_tokens else None

    def home(self, session: ServerSession) -> object:
        """The transport whose thread the session belongs to."""
        return self._entries[id(session)].home

    def move(self, session: ServerSession, home: object) -> None:
        """The session belongs to another transport's thread from now on."""
        self._entries[id(session)].home = home

    def admit(self, peer: PeerInfo, message: Message, now: float, *, home: object = None) -> ServerSession | Refusal:
        """The first message of a connection: the session that it opens or resumes, having received it.

        `home` is the transport that asks; a session that lives elsewhere must have been given up there before. One
        that was still thought to be connected is disconnected first: its edge came back on another way.
        """
        if not isinstance(message, Hello):
            name = type(message).__name__
            # `retry`: it may be an edge whose session ended here unnoticed.
            detail = f"the first message is {name}, expected Hello: connect again"
            return self._refuse("protocol", detail, retry_after_s=0.1)
        session = self.find(message, peer)
        if session is None:
            if self.draining:
                return self._refuse("draining", "this server is stopping", retry_after_s=1.0)
            if len(self._entries) >= self.sessions_max:
                detail = f"{len(self._entries)} sessions, limit {self.sessions_max}"
                return self._refuse("full", detail, retry_after_s=5.0)
            session = self._make_session(peer)
            session.connected(now)
            self._entries[id(session)] = _Entry(session, peer.key, home)
        else:
            session.disconnected("the edge connected again", now)
            self._entries[id(session)].home = home
        try:
            session.receive(message, "control", now)
        except Exception:  # a bug of ours: whoever asked is told, and nothing stays
            self.forget(session)
            raise
        self._index(session)
        return session

    def forget(self, session: ServerSession) -> None:
        """The session is closed."""
        entry = self._entries.pop(id(session), None)
        if entry is not None:
            for token in entry.tokens:
                self._by_token.pop(token, None)

    def _index(self, session: ServerSession) -> None:
        entry = self._entries[id(session)]
        for token in entry.tokens:
            self._by_token.pop(token, None)
        entry.tokens = session.resume_tokens
        for token in entry.tokens:
            self._by_token[token] = entry

    def _refuse(self, reason: str, detail: str, retry_after_s: float = 0.0) -> Refusal:
        self.refused += 1
        return Refusal(Goodbye(reason, detail, retry_after_s=retry_after_s))
