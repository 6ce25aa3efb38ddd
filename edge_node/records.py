"""What the edge knows of a frame once it has ended, and the log of such records."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO, NamedTuple, Self

import msgspec

from edge_node.pictures import Notify
from pipeline import accounting
from pipeline.errors import ConfigError
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.messages import TaskResult

ANSWERED = "answered"
LOG_RECORDS = 30
"""Records that a log holds back at most: a second of frames."""
UNCHANGED = accounting.UNCHANGED


class LabelScore(msgspec.Struct, frozen=True):
    """A label and its score (softmax probability, 0 to 1)."""

    label: str
    score: float


class FrameRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One frame in its terminal state. Times of `_ms` are milliseconds, `captured_at` is monotonic seconds."""

    frame: int
    state: str
    """"answered", "unchanged" (an earlier answer is repeated), or the cause of its drop."""
    captured_at: float = 0.0
    media_time: float | None = None
    detail: str = ""
    """Why it was dropped, for people."""
    tasks: dict[str, list[LabelScore]] = {}
    """Task → labels, best first."""
    task_errors: dict[str, str] = {}
    """Task → why it has no labels."""
    stages_ms: dict[str, float] = {}
    capture_to_result_ms: float = 0.0
    clock_error_ms: float | None = None
    """`uplink` and `downlink` are right to ± this; None: not known yet."""
    payload_bytes: int = 0
    wire_bytes: int = 0
    layers: int = 0
    decoded_layers: int = 0
    batch: int = 0
    operating_point: str = ""
    expected_loss_points: float | None = None
    """Points of top-1 that its operating point and layers lose, as measured for the bundle; None: not measured."""
    reference: int | None = None
    """The frame that it was coded against; unchanged: the frame whose answer this is."""
    alone_bytes: int = 0
    """About what its payload would have been without a reference; 0: not known."""
    answer_age_ms: float = 0.0
    """Unchanged: age of the repeated answer's frame when this one was captured."""
    bits_per_pixel: float = 0.0
    """Payload bits per pixel of the encoder's input."""
    credits: int | None = None
    """Frames that might still have been sent when this one ended."""
    clock_offset_ms: float | None = None
    """The server's clock minus ours, right to ± `clock_error_ms`; None: not known yet."""

    @property
    def answered(self) -> bool:
        return self.state == ANSWERED


def labels_by_task(results: tuple[TaskResult, ...]) -> tuple[dict[str, list[LabelScore]], dict[str, str]]:
    """The labels of each task, and the errors of those that have none."""
    labels = {
        result.task: [LabelScore(label.name, label.score) for label in result.labels]
        for result in results
        if result.labels
    }
    errors = {result.task: result.error for result in results if result.error}
    return labels, errors


class LinkState(NamedTuple):
    """What the session knows as a frame ends, for logs and traces."""

    credits: int
    clock_offset_s: float | None
    input_pixels: int
    """Pixels of the encoder's input."""


def link_state(session: EdgeSession, *, input_pixels: int) -> LinkState:
    """On the session's thread."""
    return LinkState(session.credit_available, session.clock.offset_s, input_pixels)


def with_link(record: FrameRecord, link: LinkState | None) -> FrameRecord:
    """`record` with all that is in `link`; as it is where that is not known."""
    if link is None:
        return record
    return msgspec.structs.replace(
        record,
        bits_per_pixel=round(record.payload_bytes * 8 / link.input_pixels, 4),
        credits=link.credits,
        clock_offset_ms=None if link.clock_offset_s is None else link.clock_offset_s * 1e3,
    )


class FrameLog:
    """Writes records to a file, one line of JSON each (JSON Lines). Use as a context manager.

    Records are completed and encoded LOG_RECORDS at a time: in between two frames' networks, with cold caches, one
    alone costs several times as much. Where the disk is full the log ends, `notify` hears of it, and later records are
    not kept: the stream goes on.
    """

    def __init__(self, path: str | Path, *, notify: Notify = lambda line: None) -> None:
        self._path = path
        self._notify = notify
        self._ended = False
        try:
            self._file: IO[bytes] = Path(path).open("wb", buffering=1 << 16)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise ConfigError(
                f"frame log {str(path)!r} cannot be written: {error.strerror}: choose another path"
            ) from None
        self._encoder = msgspec.json.Encoder()
        self._waiting: list[tuple[FrameRecord, LinkState | None]] = []

    def write(self, record: FrameRecord, link: LinkState | None = None) -> None:
        if self._ended:
            return
        self._waiting.append((record, link))
        if len(self._waiting) >= LOG_RECORDS:
            self._write_waiting()

    def close(self) -> None:
        """Write what waits. Idempotent."""
        if self._ended:
            return
        self._write_waiting()
        self._ended = True
        try:
            self._file.close()
        except OSError as error:
            self._fail(error)

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            self._file.write(self._encoder.encode_lines([with_link(record, link) for record, link in waiting]))
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self._ended = True
        with contextlib.suppress(OSError):  # it would write what it still holds
            self._file.close()
        self._notify(
            f"the log {str(self._path)!r} ends before its time ({error.strerror or error}): later frames are not in it"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
