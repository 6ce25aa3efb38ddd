"""What the edge knows of a frame once it has ended, and the log of such records."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Self

import msgspec

from pipeline.errors import ConfigError
from pipeline.wire.messages import TaskResult

ANSWERED = "answered"


class LabelScore(msgspec.Struct, frozen=True):
    """A label and its score (softmax probability, 0 to 1)."""

    label: str
    score: float


class FrameRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One frame in its terminal state. Times of `_ms` are milliseconds, `captured_at` is monotonic seconds."""

    frame: int
    state: str
    """"answered", or the cause of its drop."""
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


class FrameLog:
    """Writes records to a file, one line of JSON each (JSON Lines). Use as a context manager."""

    def __init__(self, path: str | Path) -> None:
        try:
            self._file: IO[bytes] = Path(path).open("wb", buffering=1 << 16)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise ConfigError(
                f"frame log {str(path)!r} cannot be written: {error.strerror}: choose another path"
            ) from None
        self._encoder = msgspec.json.Encoder()

    def write(self, record: FrameRecord) -> None:
        self._file.write(self._encoder.encode(record) + b"\n")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
