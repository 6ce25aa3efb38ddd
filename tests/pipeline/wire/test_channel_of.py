"""The channel of an encoded message, from its tag alone."""

from __future__ import annotations

import pytest

from pipeline.wire import messages
from pipeline.wire.session import CHANNELS, channel_of

MESSAGES = [
    messages.Hello(1, "codec"),
    messages.Frame(7, 1, 2, b"bits", 1),
    messages.Result(7, [], 1, 2, [0, 0, 0, 0, 0], 4, 2000),
    messages.Dropped(7, "shed"),
    messages.Credit(4, 2000),
    messages.Ping(1, 2),
    messages.Pong(1, 2, 3, 4),
    messages.Goodbye("done"),
    messages.BundlePart("codec", 0, 10, b"part"),
    messages.Welcome("s", b"t", False, "c", "b", "lite0", [], 4, 2000, 1000, 4, 1, "server"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_the_tag_tells_the_channel(message: messages.Message) -> None:
    assert channel_of(messages.encode(message)) == CHANNELS[type(message)]


@pytest.mark.parametrize("data", [b"", b"\x91", b"\xdc\x00", b"nonsense", b"\xdc\x00\x01\xff"])
def test_what_is_no_message_counts_as_control(data: bytes) -> None:
    """Nothing raises: the session refuses it later."""
    assert channel_of(data) == "control"


def test_the_long_form_of_an_array() -> None:
    """As a message of sixteen fields and more would have."""
    assert channel_of(b"\xdc\x00\x10\x08rest") == "results"
