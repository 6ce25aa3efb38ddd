"""Messages of recordings against the libraries that other programs read them with."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import protobuf
from recordings.topics import BITSTREAM, KINDS, THUMBNAIL, TOPICS, Bitstream, FrameStages, Thumbnail

times = st.integers(0, 2**62)
numbers = st.integers(0, 2**53)


def message_class(topic: str) -> Any:
    """The class that protobuf makes of the schema in the file."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(KINDS[topic].schema).file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(KINDS[topic].schema_name))


@given(numbers, times, st.binary(max_size=300), numbers, numbers)
def test_bitstreams_come_back_and_read_with_protobuf(
    frame: int, captured_ns: int, payload: bytes, budget_us: int, media_us: int
) -> None:
    bitstream = Bitstream(frame=frame, captured_ns=captured_ns, payload=payload, budget_us=budget_us, media_us=media_us)
    data = bitstream.encode()
    theirs = message_class(BITSTREAM).FromString(data)

    assert Bitstream.decode(data) == bitstream
    assert (theirs.frame, theirs.data, theirs.kind, theirs.budget_us) == (frame, payload, "bitstream", budget_us)
    assert theirs.timestamp.seconds * 10**9 + theirs.timestamp.nanos == captured_ns


@given(numbers, times, st.binary(max_size=300))
def test_thumbnails_are_foxglove_images(frame: int, captured_ns: int, jpeg: bytes) -> None:
    """Field numbers and schema name as in Foxglove's published CompressedImage."""
    thumbnail = Thumbnail(captured_ns=captured_ns, frame=frame, jpeg=jpeg)
    theirs = message_class(THUMBNAIL).FromString(thumbnail.encode())

    assert Thumbnail.decode(thumbnail.encode()) == thumbnail
    assert (theirs.data, theirs.format, theirs.frame_id) == (jpeg, "jpeg", str(frame))
    assert KINDS[THUMBNAIL].schema_name == "foxglove.CompressedImage"
    fields = {field.name: field.number for field in theirs.DESCRIPTOR.fields}
    assert fields == {"timestamp": 1, "data": 2, "format": 3, "frame_id": 4}


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_raise_value_error(data: bytes) -> None:
    for kind in (Bitstream, Thumbnail):
        try:
            kind.decode(data)
        except ValueError:  # UnicodeDecodeError is one
            continue


@pytest.mark.parametrize("number", [0, 1, 127, 128, 2**63 - 1, 2**64 - 1, -1])
def test_varints_come_back(number: int) -> None:
    ((_, value),) = protobuf.fields(protobuf.number_field(1, number)) if number else ((1, 0),)
    assert value == number % 2**64


def test_json_schemas_are_flat() -> None:
    """No references, no maps: what Foxglove's panels read. Every message's fields are named."""

    def check(schema: dict[str, Any]) -> None:
        assert "$ref" not in schema
        assert "anyOf" not in schema
        for inner in schema.get("properties", {}).values():
            check(inner)
        if "items" in schema:
            check(schema["items"])

    for topic in TOPICS:
        if KINDS[topic].schema_encoding == "jsonschema":
            schema = json.loads(KINDS[topic].schema)
            assert schema["type"] == "object"
            check(schema)
    assert set(json.loads(KINDS["/stages"].schema)["properties"]) == set(FrameStages.__struct_fields__)
