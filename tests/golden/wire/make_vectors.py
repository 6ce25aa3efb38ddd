"""Writes messages.json: every message of the wire as bytes and as fields, for tests in Python and TypeScript; and
parity.json: parts of frames with their parity.

    python -m tests.golden.wire.make_vectors

Run it only when a message was added or got a new field; bytes that change otherwise are a new protocol version.
Bytes fields stand in JSON as {"hex": "…"}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from pipeline.wire import messages as wire
from pipeline.wire.parity import parity_of

FILE = Path(__file__).parent / "messages.json"
PARITY_FILE = Path(__file__).parent / "parity.json"

CODEC = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
TOKEN = bytes(range(16))
TASK = wire.TaskInfo("food101", "lite0", 101, 2, "Food-101")

MESSAGES: dict[str, wire.Message] = {
    "hello": wire.Hello(1, CODEC, "frankenstream 0.1.0", ["food101", "imagenet1k@lite2"], "lite0", 3, True, TOKEN),
    "hello, shortest": wire.Hello(1, ""),
    "welcome": wire.Welcome("00c0ffee", TOKEN, True, CODEC, CODEC, "lite0", [TASK], 4, 2000, 262144, 4, 7, "server", 3),
    "bundle request": wire.BundleRequest(CODEC, 262144),
    "bundle part": wire.BundlePart(CODEC, 262144, 262148, b"PK\x03\x04"),
    "frame": wire.Frame(12, 8_250, 500_000, b"\x01\x02\x03\xff", 11),
    "frame part": wire.FramePart(12, 1, 3, 8_250, 500_000, b"\x00" * 5, 11),
    "parity part": wire.FramePart(12, 3, 3, 8_250, 500_000, b"\x00" * 7, 11, 1),
    "jpeg frame": wire.JpegFrame(13, 8_250, 0, b"\xff\xd8\xff\xd9", 12),
    "result": wire.Result(
        12,
        [wire.TaskResult("food101", [wire.Label(76, "pizza", 0.875)]), wire.TaskResult("birds", [], "head gave NaN")],
        123_456_789,
        123_470_000,
        [900, 1_200, 3_000, 5_000, 111],
        16,
        2000,
        8,
        8,
        2,
        10,
        41,
    ),
    "dropped": wire.Dropped(13, "undecodable", "layer 0: CRC 1f, expected 2e", 0, 17, 2000, 11, 44),
    "dropped, shortest": wire.Dropped(14, "shed"),
    "credit": wire.Credit(20, 2000),
    "set tasks": wire.SetTasks(["cifar100"], 5),
    "tasks changed": wire.TasksChanged([TASK], "task 'birds' is unknown"),
    "ping": wire.Ping(3, 123_000_000, 12),
    "pong": wire.Pong(3, 123_000_000, -45_000_000, -44_999_900),
    "goodbye": wire.Goodbye("draining", "this server is stopping", TOKEN, 1.5, "tcp://192.0.2.7:5555", 12),
    "goodbye, shortest": wire.Goodbye("done"),
    "large numbers": wire.Ping(2**53, -(2**53)),
}


def plain(value: Any) -> Any:
    """A message as JSON knows it: objects with field names, `type` first."""
    if isinstance(value, msgspec.Struct):
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {"type": type(value).__name__, **fields} if isinstance(value, wire.Message) else fields
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def vectors() -> list[dict[str, Any]]:
    """All cases, in order."""
    return [
        {"name": name, "hex": wire.encode(message).hex(), "message": plain(message)}
        for name, message in MESSAGES.items()
    ]


PARTS: dict[str, list[bytes]] = {
    "one part": [b"frame"],
    "unequal parts": [b"first", b"", b"the third one", b"4"],
    "every byte": [bytes(range(256)), bytes(range(255, -1, -1)), bytes(300)],
    "as many as there may be": [bytes([part, 255 - part, part]) for part in range(64)],
}


def parity_vectors() -> list[dict[str, Any]]:
    """Parts and all their parity parts."""
    return [
        {"name": name, "parts": [part.hex() for part in parts], "parity": [code.hex() for code in parity_of(parts, 3)]}
        for name, parts in PARTS.items()
    ]


if __name__ == "__main__":
    PARITY_FILE.write_text(json.dumps(parity_vectors(), indent=1) + "\n")
    FILE.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
