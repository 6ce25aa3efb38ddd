"""What edge and server say to each other: messages, sessions and their laws, without any I/O (docs/protocol.md)."""

from __future__ import annotations

from pipeline.wire.credits import CreditPolicy
from pipeline.wire.directory import PeerInfo, Refusal, SessionDirectory
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.offer import ResolveTasks, ServerOffer
from pipeline.wire.server_session import ServerSession
from pipeline.wire.session import Channel, Outgoing, Session
from pipeline.wire.stage_marks import StageMarks

__all__ = [
    "Channel",
    "CreditPolicy",
    "EdgeSession",
    "Outgoing",
    "PeerInfo",
    "Refusal",
    "ResolveTasks",
    "ServerOffer",
    "ServerSession",
    "Session",
    "SessionDirectory",
    "StageMarks",
]
