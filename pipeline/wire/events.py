"""What a Session tells its owner: frozen events, taken with `next_event()`. Times are monotonic seconds here."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.wire.messages import BundlePart, Result, TaskInfo, TaskResult, Welcome

# --- Edge ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """Welcome arrived: frames may flow."""

    welcome: Welcome


@dataclass(frozen=True, slots=True)
class Answered:
    """The terminal state `answered` of a frame.

    `stages_ms` has every stage of `pipeline.stages.CAPTURE_TO_RESULT`; they sum to `capture_to_result_ms`.
    `uplink` and `downlink` come from the clock offset and carry ± `clock_error_ms` (None: offset not known yet,
    then the round trip is split in halves).
    """

    frame: int
    tasks: tuple[TaskResult, ...]
    stages_ms: dict[str, float]
    capture_to_result_ms: float
    clock_error_ms: float | None
    payload_bytes: int
    wire_bytes: int
    decoded_layers: int
    layers: int
    result: Result


@dataclass(frozen=True, slots=True)
class FrameDropped:
    """The terminal state `dropped` of a frame, with its cause (accounting.EDGE_CAUSES or SERVER_CAUSES)."""

    frame: int
    cause: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FrameUnchanged:
    """The terminal state `unchanged` of a frame: its latent is that of frame `of`, whose answer is repeated."""

    frame: int
    of: int


@dataclass(frozen=True, slots=True)
class CreditChanged:
    """More frames may be sent now: `available` of them."""

    available: int


@dataclass(frozen=True, slots=True)
class BundleOffered:
    """The server's bundle has another codec id than the edge; the edge may fetch it (BundleRequest)."""

    codec_id: str
    bundle_id: str


@dataclass(frozen=True, slots=True)
class BundlePartReceived:
    part: BundlePart


# --- Server --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session was welcomed (or resumed)."""

    session: str
    client: str
    tasks: tuple[TaskInfo, ...]
    top_k: int
    lossless: bool
    resumed: bool


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A frame to be answered with `ServerSession.answer` or `.drop`, exactly once.

    `deadline` is monotonic seconds on this side after which no answer is wanted (None: no deadline); it already
    has the age at send and the estimated uplink deducted.
    """

    frame: int
    bitstream: bytes
    received_at: float
    deadline: float | None


@dataclass(frozen=True, slots=True)
class JpegReceived:
    """A picture for the unmodified backbone; as FrameReceived."""

    frame: int
    image: bytes
    received_at: float
    deadline: float | None


@dataclass(frozen=True, slots=True)
class TasksWanted:
    """The edge asks for other tasks; answer with `ServerSession.set_tasks`."""

    tasks: tuple[str, ...]
    top_k: int


@dataclass(frozen=True, slots=True)
class BundleRequested:
    codec_id: str
    offset: int


# --- Both ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TasksNow:
    """The tasks that results carry from now on; `error` says why a wish was not met."""

    tasks: tuple[TaskInfo, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone; the session lives on until its resume window ends."""

    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over for good. `detail` is one line for people; `clean` is False if something was wrong."""

    reason: str
    detail: str
    clean: bool
    retry_after_s: float = 0.0
    peer: str = ""


EdgeEvent = (
    Connected
    | Answered
    | FrameDropped
    | FrameUnchanged
    | CreditChanged
    | BundleOffered
    | BundlePartReceived
    | TasksNow
    | Disconnected
    | Closed
)
ServerEvent = (
    SessionOpened | FrameReceived | JpegReceived | FrameDropped | TasksWanted | BundleRequested | Disconnected | Closed
)
