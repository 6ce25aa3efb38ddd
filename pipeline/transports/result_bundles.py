"""Results on a channel that loses messages: each datagram repeats the last few, the edge leaves out doubles. Pure.

A lost result would cost a frame that was computed. Repeats ride along in packets that are sent anyway: they cost bytes,
no packets (docs/protocol.md, WebRTC).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from pipeline import limits

REPEATS: Final = 3
"""Earlier results in each datagram, if they fit."""
_LENGTH_BYTES: Final = 2
_REMEMBERED: Final = 32


class ResultBundler:
    """The server's side."""

    def __init__(self) -> None:
        self._last: deque[bytes] = deque(maxlen=REPEATS)

    def pack(self, message: bytes) -> bytes:
        """The datagram for a new message, earlier ones behind it. Raises ValueError beyond 65,535 bytes."""
        if len(message) > 0xFFFF:
            raise ValueError(f"result is {len(message)} bytes, limit 65535: ask for fewer tasks or a smaller top_k")
        pieces = [_framed(message)]
        room = limits.DATAGRAM_BYTES_MAX - len(pieces[0])
        for earlier in self._last:
            room -= len(earlier) + _LENGTH_BYTES
            if room < 0:
                break
            pieces.append(_framed(earlier))
        self._last.appendleft(message)
        return b"".join(pieces)


class ResultReader:
    """The edge's side."""

    def __init__(self) -> None:
        self._had: deque[bytes] = deque(maxlen=_REMEMBERED)
        self.repeats = 0
        """Messages that were here already."""

    def unpack(self, datagram: bytes) -> list[bytes]:
        """The messages that are new, oldest first; what does not fit the format gives an empty message (no msgpack)."""
        found, at = [], 0
        while at < len(datagram):
            start = at + _LENGTH_BYTES
            size = int.from_bytes(datagram[at:start], "little")
            if not size or start + size > len(datagram):
                found.append(b"\xc1")
                break
            found.append(datagram[start : start + size])
            at = start + size
        new = [message for message in found if message not in self._had]
        self.repeats += len(found) - len(new)
        self._had.extend(new)
        return new[::-1]


def _framed(message: bytes) -> bytes:
    return len(message).to_bytes(_LENGTH_BYTES, "little") + message
