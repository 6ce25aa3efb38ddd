"""Transports: pumps between sessions and the world, by URL (memory://, tcp://, ipc://)."""

from __future__ import annotations

from pipeline.transports.base import (
    EdgeTransport,
    ServerTransport,
    SessionHandle,
    Traffic,
    connect,
    listen,
)
from pipeline.transports.keys import ClientKeys, ServerKeys
from pipeline.transports.link_model import PROFILES, LinkModel

__all__ = [
    "PROFILES",
    "ClientKeys",
    "EdgeTransport",
    "LinkModel",
    "ServerKeys",
    "ServerTransport",
    "SessionHandle",
    "Traffic",
    "connect",
    "listen",
]
