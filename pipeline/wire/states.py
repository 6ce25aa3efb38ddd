"""The states of a session as data: which trigger leads where, on both sides.

Theory of operation. A *session* lives above the connections that carry it: it survives reconnects, and every count
belongs to it. A *connection* is what a transport has up at the moment; a session has at most one. Two things happen
to a session:

- a **message** arrives. Its trigger is the message's type name. `Goodbye` has three: `Goodbye` ends the session,
  `Goodbye+token` ends the connection only (the session may be resumed with that token), `Goodbye+retry` ends the
  session on the server, and the edge may begin a new one after `retry_after_s`.
- something **local** happens (lower case): the transport connects or disconnects, the owner stops, a timer runs out.

A message that has no entry for the present state is a RemoteProtocolError: the session says Goodbye("protocol") and is
closed; nothing else is disturbed. A local trigger without entry is a LocalProtocolError: a bug on this side. Messages
that may be doubled or overtaken on the way (channels `frames` and `results` promise nothing) have an entry wherever
they can turn up; whether they still mean something is decided by the accounts, not by the state.

`closed` is final on both sides: what arrives there is ignored without a word, so that two Goodbyes cannot answer
each other for ever. The diagrams in docs/protocol.md are drawn from these tables (`scripts/draw_states.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipeline.wire.messages import Goodbye, Message

Table = Mapping[str, Mapping[str, str]]

# --- Edge ----------------------------------------------------------------------------------------------------
IDLE: Final = "idle"
"""No session yet; waits for a connection."""
OPENING: Final = "opening"
"""Hello is sent, Welcome awaited."""
OPEN: Final = "open"
"""Frames flow."""
DETACHED: Final = "detached"
"""No connection; the session waits to be resumed."""
STOPPING: Final = "stopping"
"""The owner stops: no frame is sent any more, answers of frames under way are awaited."""
CLOSING: Final = "closing"
"""Goodbye is sent, the peer's is awaited."""
CLOSED: Final = "closed"

# What a server may say at any time, with no change of state on the edge.
_SERVER_TALK: Final = ("Welcome", "Result", "Dropped", "Credit", "TasksChanged", "BundlePart", "Ping", "Pong")


_GOODBYES: Final = ("Goodbye", "Goodbye+token", "Goodbye+retry")

EDGE_TRANSITIONS: Final[Table] = {
    IDLE: {
        # The remainder of a connection that has ended is ignored, here and in `detached`.
        **dict.fromkeys((*_SERVER_TALK, *_GOODBYES), IDLE),
        "connected": OPENING,
        "disconnected": IDLE,
        "refused": CLOSED,
        "stop": CLOSED,
    },
    OPENING: {
        # A result may overtake Welcome when a session is resumed: the channels are independent.
        **dict.fromkeys(_SERVER_TALK, OPENING),
        "Welcome": OPEN,
        "Goodbye": CLOSED,
        "Goodbye+token": DETACHED,
        "Goodbye+retry": IDLE,
        "hello_timeout": DETACHED,
        "disconnected": DETACHED,
        "refused": CLOSED,
        "stop": CLOSED,
    },
    OPEN: {
        **dict.fromkeys(_SERVER_TALK, OPEN),
        "Goodbye": CLOSED,
        "Goodbye+token": DETACHED,
        "Goodbye+retry": IDLE,
        "idle_timeout": DETACHED,
        "disconnected": DETACHED,
        "stop": STOPPING,
    },
    DETACHED: {
        **dict.fromkeys((*_SERVER_TALK, *_GOODBYES), DETACHED),
        "connected": OPENING,
        "disconnected": DETACHED,
        "refused": CLOSED,
        "stop": CLOSED,
    },
    STOPPING: {
        **dict.fromkeys(_SERVER_TALK, STOPPING),
        **dict.fromkeys(_GOODBYES, CLOSED),
        "idle_timeout": CLOSED,
        "disconnected": CLOSED,
        "stop": STOPPING,
        "drained": CLOSING,
    },
    CLOSING: {
        **dict.fromkeys(_SERVER_TALK, CLOSING),
        **dict.fromkeys(_GOODBYES, CLOSED),
        "goodbye_timeout": CLOSED,
        "disconnected": CLOSED,
        "stop": CLOSING,
    },
    CLOSED: {},
}

# --- Server --------------------------------------------------------------------------------------------------
WAITING: Final = "waiting"
"""A connection is there, its Hello awaited."""

_EDGE_TALK: Final = ("Frame", "FramePart", "JpegFrame", "SetTasks", "BundleRequest", "Ping", "Pong")

SERVER_TRANSITIONS: Final[Table] = {
    WAITING: {
        "Hello": OPEN,
        "refused": CLOSED,
        "Goodbye": CLOSED,
        "hello_timeout": CLOSED,
        "disconnected": CLOSED,
        "goodbye": CLOSED,
    },
    OPEN: {
        **dict.fromkeys(_EDGE_TALK, OPEN),
        "Hello": OPEN,
        "refused": CLOSED,
        "Goodbye": CLOSED,
        "goodbye": CLOSED,
        "goodbye+token": DETACHED,
        "idle_timeout": DETACHED,
        "disconnected": DETACHED,
    },
    DETACHED: {
        # What was under way when the server hung up. It is ignored: the edge counts it as it does all that is lost.
        **dict.fromkeys(_EDGE_TALK, DETACHED),
        "Hello": OPEN,
        "Goodbye": CLOSED,
        "refused": CLOSED,
        "resume_timeout": CLOSED,
        "disconnected": DETACHED,
        "goodbye": CLOSED,
        "goodbye+token": DETACHED,
    },
    CLOSED: {},
}

# The states in which a connection is in use: a transport that has one up in any other state takes it down.
EDGE_CONNECTED: Final = frozenset({OPENING, OPEN, STOPPING, CLOSING})


def trigger_of(message: Message) -> str:
    """Name of the trigger that a message is: its type, and for Goodbye what it leaves possible."""
    if isinstance(message, Goodbye):
        if message.resume_token:
            return "Goodbye+token"
        return "Goodbye+retry" if message.retry_after_s > 0 else "Goodbye"
    return type(message).__name__
