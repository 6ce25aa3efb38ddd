"""Messages: the bytes of the golden vectors, and what is no message."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest

from pipeline import limits
from pipeline.errors import RemoteProtocolError
from pipeline.wire import messages
from pipeline.wire.session import CHANNELS
from tests.golden.wire.make_vectors import FILE, MESSAGES, plain

VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vector(vector: dict[str, Any]) -> None:
    """The bytes have not changed, and give the fields."""
    message = messages.decode(bytes.fromhex(vector["hex"]))
    assert vector["message"] == plain(message)
    assert vector["hex"] == messages.encode(message).hex()


def test_every_message_has_a_vector() -> None:
    """A new message brings its vector, and belongs to a channel."""
    kinds = set(get_args(messages.Message))
    assert kinds == {type(message) for message in MESSAGES.values()}
    assert kinds == set(CHANNELS)
    assert [vector["name"] for vector in VECTORS] == list(MESSAGES)


def test_tags_are_numbered_from_one() -> None:
    """Tags never change; the next message takes the next number."""
    tags = [kind.__struct_config__.tag for kind in get_args(messages.Message)]
    assert list(range(1, len(tags) + 1)) == tags


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\x91\x63",
        b"\x92\x05\x01",
        b"\xc0",
        msgspec.msgpack.encode([5, -1, 0, 0, b""]),
        msgspec.msgpack.encode([13, 2**60, 0]),
        msgspec.msgpack.encode([11, ["x" * (limits.NAME_CHARS_MAX + 1)]]),
        b"\x95\x05" + b"\x91" * 3_000,
    ],
    ids=lambda data: data[:8].hex(),
)
def test_no_message(data: bytes) -> None:
    """Empty, unknown tag, too few fields, out of range, too long, nested for ever: RemoteProtocolError."""
    with pytest.raises(RemoteProtocolError):
        messages.decode(data)


def test_too_large_a_message() -> None:
    """Not looked into: that is a limit, whatever the bytes are."""
    with pytest.raises(messages.LimitError, match="message is 4194305 bytes, limit 4194304: send smaller messages"):
        messages.decode(bytes(limits.MESSAGE_BYTES_MAX + 1))
