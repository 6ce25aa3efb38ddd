"""What a WebSocket message is: a channel byte, then the message (docs/protocol.md, WebSocket). Pure."""

from __future__ import annotations

from typing import Final

from pipeline.wire.session import Channel, channel_of

CHANNEL_BYTES: Final[dict[Channel, bytes]] = {"control": b"\x00", "frames": b"\x01", "results": b"\x02"}

NO_MESSAGE: Final = b"\xc1"
"""A byte that is never valid msgpack: the session closes over it with Goodbye("protocol")."""


def written(message: bytes) -> bytes:
    """The WebSocket message that carries `message`."""
    return CHANNEL_BYTES[channel_of(message)] + message


def read(data: bytes) -> bytes:
    """The message in a WebSocket message; NO_MESSAGE if there is none on the channel that its type belongs to."""
    message = data[1:]
    if not message or data[:1] != CHANNEL_BYTES[channel_of(message)]:
        return NO_MESSAGE
    return message
