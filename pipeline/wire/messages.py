"""The messages of the wire: frozen msgspec structs, packed as msgpack arrays with an integer tag.

Evolution (docs/protocol.md): tags and field types never change; a new field goes last and has a default. Receivers
ignore fields beyond those that they know. Times are integer microseconds (`_us`) or milliseconds (`_ms`); sizes are
bytes. `frame` is the edge's frame number within the session, from 0.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from pipeline import limits
from pipeline.errors import RemoteProtocolError

PROTOCOL_VERSION: Final = 1

Name = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Micros = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Token = Annotated[bytes, Meta(max_length=64)]
Payload = bytes
"""A frame's bytes: how many there may be is for the session to say, with Goodbye("limit")."""


class LimitError(RemoteProtocolError):
    """The peer exceeded one of pipeline.limits: Goodbye says "limit" instead of "protocol"."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag_field="type"):
    pass


class Hello(_Message, tag=1, frozen=True):
    """Edge → server, first message on a connection (control)."""

    protocol: Count
    """PROTOCOL_VERSION of the sender; another one is refused with Goodbye("protocol")."""
    codec_id: Name
    """Hex SHA-256 of the edge half of the bundle; empty: the edge has none and asks for the server's."""
    client: Name = ""
    """Free text for people: program and version."""
    tasks: Annotated[list[Name], Meta(max_length=limits.TASKS_PER_SESSION_MAX)] = []
    """`task` or `task@backbone`; empty: every task of `backbone`."""
    backbone: Name = ""
    """Backbone for tasks that name none; empty: the server's default."""
    top_k: Annotated[int, Meta(ge=1, le=limits.TOP_K_MAX)] = 1
    """Labels wanted per task and frame."""
    lossless: bool = False
    """Replay: the edge waits for credit instead of superseding frames; budgets do not shed."""
    resume_token: Token = b""
    """Token of the last Welcome: asks to go on with that session."""


class TaskInfo(msgspec.Struct, frozen=True, array_like=True):
    """A task that a server offers."""

    name: Name
    backbone: Name
    classes: Count
    version: Count = 1
    title: Name = ""


class Welcome(_Message, tag=2, frozen=True):
    """Server → edge, answer to Hello (control)."""

    session: Name
    """Id of the session; it lives above the transport and survives reconnects."""
    resume_token: Token
    """128 random bits, valid once, bound to the client's key."""
    resumed: bool
    """True: the session of Hello.resume_token goes on, counts included."""
    codec_id: Name
    bundle_id: Name
    backbone: Name
    """The backbone that tasks without one use in this session."""
    tasks: list[TaskInfo]
    """The tasks that this session's results carry, in that order."""
    sent_frames_max: Count
    """First credit, see Credit."""
    credit_valid_ms: Count
    payload_bytes_max: Count
    reference_window: Count
    """Acknowledged frames that the server keeps as references; 0: none."""
    reference_epoch: Count
    """New whenever the server lost its references; a frame that names another epoch is `undecodable`."""
    server: Name = ""
    """Free text for people: program and version."""
    parity_parts_max: Count = 0
    """Parity parts that a frame in parts may have; 0: the server knows none."""


class BundleRequest(_Message, tag=3, frozen=True):
    """Edge → server: asks for a byte range of the packed edge half of a bundle (control)."""

    codec_id: Name
    offset: Count = 0


class BundlePart(_Message, tag=4, frozen=True):
    """Server → edge: a piece of the packed edge half (a .zip of `edge/`), at most BUNDLE_PART_BYTES (control)."""

    codec_id: Name
    offset: Count
    total: Count
    part: Annotated[bytes, Meta(max_length=limits.BUNDLE_PART_BYTES)]


class Frame(_Message, tag=5, frozen=True):
    """Edge → server: one frame's bitstream (frames)."""

    frame: Count
    age_at_send_us: Micros
    """Capture to this message's handing to the transport, on the edge's clock."""
    budget_us: Micros
    """Age at which an answer is no longer wanted, from capture; 0: no deadline (lossless)."""
    bitstream: Payload
    sent: Count = 0
    """Ordinal among the frames sent since Welcome, from 1: credit counts in these, lost frames show as gaps."""


class FramePart(_Message, tag=6, frozen=True):
    """Edge → server: a run of a frame's bytes, for channels that lose messages (frames)."""

    frame: Count
    part: Count
    """From 0; from `parts` on it is a parity part."""
    parts: Annotated[int, Meta(ge=1, le=limits.FRAME_PARTS_MAX)]
    age_at_send_us: Micros
    budget_us: Micros
    bytes: Payload
    sent: Count = 0
    """Ordinal among the frames sent since Welcome, from 1: credit counts in these, lost frames show as gaps."""
    parity: Annotated[int, Meta(ge=0, le=limits.FRAME_PARITY_PARTS_MAX)] = 0
    """Parity parts that the frame has besides its `parts`."""


class JpegFrame(_Message, tag=7, frozen=True):
    """Edge → server: a JPEG or WebP picture for the unmodified backbone (frames)."""

    frame: Count
    age_at_send_us: Micros
    budget_us: Micros
    image: Payload
    sent: Count = 0
    """Ordinal among the frames sent since Welcome, from 1: credit counts in these, lost frames show as gaps."""


class Label(msgspec.Struct, frozen=True, array_like=True):
    """One class and its score (softmax probability, 0 to 1)."""

    index: Count
    name: str
    score: float


class TaskResult(msgspec.Struct, frozen=True, array_like=True):
    """The top labels of one task for one frame, best first; `error` says why there are none."""

    task: Name
    labels: list[Label]
    error: str = ""


class Result(_Message, tag=8, frozen=True):
    """Server → edge: the answer to one frame (results)."""

    frame: Count
    tasks: list[TaskResult]
    received_at_us: Micros
    """Server's clock when the frame arrived."""
    sent_at_us: Micros
    """Server's clock when this message was handed to the transport. No stage rests on it."""
    stages_us: list[Micros]
    """pipeline.stages.SERVER_STAGES, consecutive from received_at_us."""
    sent_frames_max: Count
    """Credit, see there."""
    credit_valid_ms: Count
    decoded_layers: Count = 0
    """Layers that decoded; > 0 acknowledges this frame as a reference."""
    layers: Count = 0
    """Layers that the bitstream announced."""
    batch: Count = 0
    """Frames in the batch that this one was computed in."""
    settled: Count = 0
    """Frames up to this ordinal are counted in `parts_received`."""
    parts_received: Count = 0
    """Parts that arrived of them since Welcome; a whole frame counts as one."""


class Dropped(_Message, tag=9, frozen=True):
    """Server → edge: a frame that will get no answer, and why (results)."""

    frame: Count
    cause: Name
    """One of accounting.SERVER_CAUSES."""
    detail: str = ""
    """One line for people."""
    decoded_layers: Count = 0
    """Layers that decoded before it was dropped; > 0: the server holds it as a reference. Our edges refer to answered
    frames only."""
    sent_frames_max: Count = 0
    """Credit, see there; 0: unchanged."""
    credit_valid_ms: Count = 0
    settled: Count = 0
    parts_received: Count = 0
    """Both as in Result."""


class Credit(_Message, tag=10, frozen=True):
    """Server → edge: how many frames may have been sent since Welcome, cumulative and idempotent (control)."""

    sent_frames_max: Count
    valid_for_ms: Count


class SetTasks(_Message, tag=11, frozen=True):
    """Edge → server: other tasks from now on (control). Answered with TasksChanged."""

    tasks: Annotated[list[Name], Meta(max_length=limits.TASKS_PER_SESSION_MAX)]
    top_k: Annotated[int, Meta(ge=1, le=limits.TOP_K_MAX)] = 1


class TasksChanged(_Message, tag=12, frozen=True):
    """Server → edge: the tasks that results carry from now on (control)."""

    tasks: list[TaskInfo]
    error: str = ""
    """Why a wish was not met; the tasks stay as they were."""


class Ping(_Message, tag=13, frozen=True):
    """Either side: asks for a Pong, for liveness and the clock offset (control)."""

    ping: Count
    sent_at_us: Micros
    """Sender's clock."""
    sent_frames: Count = 0
    """Edge: frames sent since Welcome. Credit goes on even if every frame of the window was lost."""


class Pong(_Message, tag=14, frozen=True):
    """Answer to Ping (control)."""

    ping: Count
    sent_at_us: Micros
    """Echoed from the Ping."""
    received_at_us: Micros
    """Answerer's clock when the Ping came."""
    replied_at_us: Micros
    """Answerer's clock when this was handed to the transport."""


class Goodbye(_Message, tag=15, frozen=True):
    """Either side: the last message of a session on this connection (control)."""

    reason: Name
    """protocol, codec, full, draining, done, limit, idle, unauthorised, error."""
    detail: str = ""
    """One line for people: what was wrong, the value seen, what to do."""
    resume_token: Token = b""
    """Not empty: the session may be resumed, here or at `peer`."""
    retry_after_s: float = 0.0
    peer: Name = ""
    """URL of another server to go to; empty: the same."""
    sent_frames: Count = 0
    """Edge: frames sent in this session. Server: frames received. Reconciles both counts."""


Message = (
    Hello
    | Welcome
    | BundleRequest
    | BundlePart
    | Frame
    | FramePart
    | JpegFrame
    | Result
    | Dropped
    | Credit
    | SetTasks
    | TasksChanged
    | Ping
    | Pong
    | Goodbye
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Pack a message to bytes."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview) -> Message:
    """Unpack and validate one message.

    Raises LimitError if `data` is longer than MESSAGE_BYTES_MAX, RemoteProtocolError if it is no message of this
    protocol.
    """
    size = len(data)
    if size > limits.MESSAGE_BYTES_MAX:
        raise LimitError(f"message is {size} bytes, limit {limits.MESSAGE_BYTES_MAX}: send smaller messages")
    try:
        message: Message = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"{size} bytes are no FrankenStream message: {error}") from None
    return message
