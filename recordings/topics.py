"""What a recording holds: its topics, their messages and schemas. The file is MCAP (mcap.dev/spec), profile below.

    /session     json      who talks with whom: ids, tasks, epoch; again after each connection
    /bitstream   protobuf  one frame as it was sent: bytes, kind, budget
    /result      json      the labels of one frame
    /drop        json      a frame without answer, and why
    /unchanged   json      a frame that was not sent since an earlier one's answer holds for it
    /stages      json      where one frame's time went, in milliseconds
    /clock       json      what was thought of the server's clock
    /thumbnail   protobuf  foxglove.CompressedImage: small JPEGs, if wanted

Times of MCAP are nanoseconds since 1970: `log_time` when it happened here, `publish_time` when the frame was captured.
JSON schemas are flat, without references and maps, since that is what Foxglove reads; Protobuf saves base64.

Evolution as on the wire: new fields have defaults, types and names never change. `FORMAT` grows when a reader of today
would misunderstand.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from pipeline.stages import CAPTURE_TO_RESULT
from pipeline.wire.messages import TaskResult
from recordings import protobuf
from recordings.protobuf import BYTES, MESSAGE, STRING, UINT64, Field, bytes_field, number_field

PROFILE: Final = "frankenstream"
FORMAT: Final = 1
FACTS: Final = "frankenstream"
"""Name of the metadata record with `Facts`, the first in the file."""
ENDING: Final = "frankenstream.ending"
"""Name of the metadata record with `Ending`, written when a recording is closed in good order."""

SESSION, BITSTREAM, RESULT, DROP, UNCHANGED, STAGES, CLOCK, THUMBNAIL = (
    "/session", "/bitstream", "/result", "/drop", "/unchanged", "/stages", "/clock", "/thumbnail",
)  # fmt: skip
TOPICS: Final = (SESSION, BITSTREAM, RESULT, DROP, UNCHANGED, STAGES, CLOCK, THUMBNAIL)
"""In the order of their channel numbers, from 1: they hold even where the part of a file that says so is lost."""

ANSWERED: Final = "answered"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a recording is about; text throughout, as MCAP's metadata want it."""

    format: str = str(FORMAT)
    frankenstream: str = ""
    """Version of the program that recorded."""
    role: str = "edge"
    """edge or server: whose view it is."""
    source: str = ""
    codec_id: str = ""
    """Hash of the edge half of the bundle that the bitstreams are coded with."""
    bundle_id: str = ""
    operating_point: str = ""
    encoder: str = ""
    """What analysed, where, in which precision."""
    coder: str = ""
    python: str = ""
    machine: str = ""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a recording went."""

    messages: str = "0"
    lost: str = "0"
    """Messages that could not be written."""
    lost_by_topic: str = ""
    """For people: /bitstream 3, /thumbnail 20."""


class RecordedTask(msgspec.Struct, frozen=True):
    name: str
    backbone: str
    classes: int = 0
    version: int = 1


class SessionStart(msgspec.Struct, frozen=True, kw_only=True):
    """A session was welcomed (or resumed)."""

    session: str
    resumed: bool = False
    codec_id: str = ""
    bundle_id: str = ""
    backbone: str = ""
    """The backbone that tasks without one use."""
    tasks: list[RecordedTask] = []
    """What results carry, in that order."""
    wanted: list[str] = []
    """What the edge asked for; empty: every task."""
    top_k: int = 1
    lossless: bool = False
    reference_epoch: int = 0
    client: str = ""
    server: str = ""
    """The server's program, version and engines."""


class RecordedLabel(msgspec.Struct, frozen=True):
    index: int
    name: str
    score: float


class RecordedAnswer(msgspec.Struct, frozen=True):
    task: str
    labels: list[RecordedLabel]
    error: str = ""


class FrameResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a frame."""

    frame: int
    tasks: list[RecordedAnswer]
    layers: int = 0
    decoded_layers: int = 0
    batch: int = 0
    payload_bytes: int = 0
    wire_bytes: int = 0
    media_time: float = -1.0
    """Time within the source, in seconds; negative: a live source."""


class FrameDrop(msgspec.Struct, frozen=True, kw_only=True):
    frame: int
    cause: str
    detail: str = ""


class FrameRepeat(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to frame `of` holds for `frame` as well."""

    frame: int
    of: int


class FrameStages(msgspec.Struct, frozen=True, kw_only=True):
    """Every stage of pipeline.stages.CAPTURE_TO_RESULT in milliseconds; a server knows its own only."""

    frame: int
    capture_to_result_ms: float = 0.0
    capture: float = 0.0
    preprocess: float = 0.0
    analysis: float = 0.0
    entropy_encode: float = 0.0
    send_wait: float = 0.0
    uplink: float = 0.0
    entropy_decode: float = 0.0
    queue: float = 0.0
    synthesis: float = 0.0
    tail: float = 0.0
    heads: float = 0.0
    downlink: float = 0.0

    @property
    def stages_ms(self) -> dict[str, float]:
        return {stage: getattr(self, stage) for stage in CAPTURE_TO_RESULT}


class ClockEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """The server's clock minus the edge's, both monotonic, and how wrong that can be."""

    offset_s: float
    error_ms: float
    round_trip_ms: float


class Bitstream(msgspec.Struct, frozen=True, kw_only=True):
    """One frame as it was sent."""

    frame: int
    captured_ns: int
    """Since 1970."""
    payload: bytes
    kind: str = "bitstream"
    """bitstream, or jpeg for the unmodified backbone."""
    budget_us: int = 0
    """0: no deadline (lossless)."""
    media_us: int = 0
    """Time within the source plus 1, in microseconds; 0: a live source."""

    def encode(self) -> bytes:
        """As frankenstream.Bitstream."""
        return (
            bytes_field(1, protobuf.timestamp(self.captured_ns))
            + number_field(2, self.frame)
            + bytes_field(3, self.kind)
            + number_field(4, self.budget_us)
            + number_field(5, self.media_us)
            + bytes_field(6, self.payload)
        )

    @property
    def media_time(self) -> float | None:
        """Time within the source in seconds; None: a live source."""
        return (self.media_us - 1) / 1e6 if self.media_us else None

    @classmethod
    def decode(cls, data: bytes) -> Bitstream:
        """Raises ValueError if `data` is no frankenstream.Bitstream."""
        found = dict(protobuf.fields(data))
        return cls(
            frame=_number(found.get(2, 0)), captured_ns=_time_ns(_data(found.get(1, b""))),
            payload=_data(found.get(6, b"")), kind=_data(found.get(3, b"bitstream")).decode(),
            budget_us=_number(found.get(4, 0)), media_us=_number(found.get(5, 0)),
        )  # fmt: skip


class Thumbnail(msgspec.Struct, frozen=True, kw_only=True):
    """A small JPEG of a captured frame."""

    captured_ns: int
    frame: int
    jpeg: bytes

    def encode(self) -> bytes:
        """As foxglove.CompressedImage; `frame_id` carries the frame's number."""
        return (
            bytes_field(1, protobuf.timestamp(self.captured_ns))
            + bytes_field(2, self.jpeg)
            + bytes_field(3, "jpeg")
            + bytes_field(4, str(self.frame))
        )

    @classmethod
    def decode(cls, data: bytes) -> Thumbnail:
        """Raises ValueError."""
        found = dict(protobuf.fields(data))
        return cls(
            captured_ns=_time_ns(_data(found.get(1, b""))), jpeg=_data(found.get(2, b"")),
            frame=int(_data(found.get(4, b"0"))),
        )  # fmt: skip


def recorded_answers(results: list[TaskResult] | tuple[TaskResult, ...]) -> list[RecordedAnswer]:
    """Results of the wire, as recordings hold them."""
    return [
        RecordedAnswer(
            result.task, [RecordedLabel(label.index, label.name, label.score) for label in result.labels], result.error
        )
        for result in results
    ]


class TopicKind(msgspec.Struct, frozen=True):
    """How a topic's messages are written."""

    message_encoding: str
    schema_name: str
    schema_encoding: str
    schema: bytes


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where a number is expected")
    return value


def _data(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes are expected")
    return value


def _time_ns(data: bytes) -> int:
    found = dict(protobuf.fields(data))
    return _number(found.get(1, 0)) * 1_000_000_000 + _number(found.get(2, 0))


# --- Schemas --------------------------------------------------------------------------------------------------

_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def _json_schema(kind: type[msgspec.Struct], name: str) -> bytes:
    """A flat JSON schema: numbers, text, and arrays of such objects or of text."""
    return msgspec.json.encode({"title": name, **_described(kind)})


def _described(kind: type[msgspec.Struct]) -> dict[str, Any]:
    properties = {field.name: _property(field.type) for field in msgspec.structs.fields(kind)}
    return {"type": "object", "properties": properties}


def _property(kind: Any) -> dict[str, Any]:
    if kind in _TYPES:
        return {"type": _TYPES[kind]}
    (item,) = kind.__args__  # list[…]
    return {"type": "array", "items": _described(item) if item not in _TYPES else {"type": _TYPES[item]}}


def _json(kind: type[msgspec.Struct], name: str) -> TopicKind:
    full_name = f"frankenstream.{name}"
    return TopicKind("json", full_name, "jsonschema", _json_schema(kind, full_name))


def _protobuf(package: str, message: str, of: tuple[Field, ...]) -> TopicKind:
    time = Field("timestamp", 1, MESSAGE, ".google.protobuf.Timestamp")
    file = protobuf.file_descriptor(
        f"{package}/{message}.proto", package, message, (time, *of), (protobuf.TIMESTAMP_FILE,)
    )
    schema = protobuf.descriptor_set(protobuf.TIMESTAMP, file)
    return TopicKind("protobuf", f"{package}.{message}", "protobuf", schema)


KINDS: Final[dict[str, TopicKind]] = {
    SESSION: _json(SessionStart, "Session"),
    BITSTREAM: _protobuf(
        "frankenstream", "Bitstream",
        (Field("frame", 2, UINT64), Field("kind", 3, STRING), Field("budget_us", 4, UINT64),
         Field("media_us", 5, UINT64), Field("data", 6, BYTES)),
    ),
    RESULT: _json(FrameResult, "Result"),
    DROP: _json(FrameDrop, "Drop"),
    UNCHANGED: _json(FrameRepeat, "Unchanged"),
    STAGES: _json(FrameStages, "Stages"),
    CLOCK: _json(ClockEstimate, "Clock"),
    THUMBNAIL: _protobuf(
        "foxglove", "CompressedImage",
        (Field("data", 2, BYTES), Field("format", 3, STRING), Field("frame_id", 4, STRING)),
    ),
}  # fmt: skip
"""Every topic with its encoding and schema."""
