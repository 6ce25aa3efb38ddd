"""Results of a recording as tables: CSV and Parquet (a row a label), JSON Lines (a line a frame)."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.errors import ConfigError
from pipeline.stages import CAPTURE_TO_RESULT
from recordings.frames import RecordedFrame

COLUMNS: Final[dict[str, type]] = {
    "frame": int,
    "time_s": float,
    "captured_ns": int,
    "media_time_s": float,
    "state": str,
    "detail": str,
    "task": str,
    "rank": int,
    "label": str,
    "label_index": int,
    "score": float,
    "task_error": str,
    "payload_bytes": int,
    "wire_bytes": int,
    "layers": int,
    "decoded_layers": int,
    "batch": int,
    "capture_to_result_ms": float,
    **{f"{stage}_ms": float for stage in CAPTURE_TO_RESULT},
}
"""Columns of CSV and Parquet. `time_s` counts from the first capture, `rank` from 1; absent values are empty."""
_ROWS_A_GROUP = 65_536

Row = dict[str, Any]


def rows(frames: Iterable[RecordedFrame]) -> Iterator[Row]:
    """A row for each label of each task of each frame; one for a frame or a task without."""
    first_ns: int | None = None
    for frame in frames:
        if first_ns is None and frame.captured_ns:
            first_ns = frame.captured_ns
        base = _frame_values(frame, first_ns or 0)
        if not frame.answers:
            yield base
        for answer in frame.answers:
            if not answer.labels:
                yield base | {"task": answer.task, "task_error": answer.error}
            for rank, label in enumerate(answer.labels, start=1):
                yield base | {
                    "task": answer.task, "rank": rank, "label": label.name, "label_index": label.index,
                    "score": label.score,
                }  # fmt: skip


def write_csv(frames: Iterable[RecordedFrame], to: Path) -> int:
    """Write UTF-8 with a header line; returns the rows. Raises ConfigError if `to` cannot be written."""
    count = 0
    with _Written(to), to.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS), restval="")
        writer.writeheader()
        for row in rows(frames):
            writer.writerow(row)
            count += 1
    return count


def write_jsonl(frames: Iterable[RecordedFrame], to: Path) -> int:
    """Write a JSON object a frame; returns the frames. Raises ConfigError if `to` cannot be written."""
    count = 0
    encoder = msgspec.json.Encoder()
    first_ns: int | None = None
    with _Written(to), to.open("wb") as file:
        for frame in frames:
            if first_ns is None and frame.captured_ns:
                first_ns = frame.captured_ns
            values = _frame_values(frame, first_ns or 0)
            values["tasks"] = {
                answer.task: [
                    {"label": label.name, "index": label.index, "score": label.score} for label in answer.labels
                ]
                for answer in frame.answers
            }
            if errors := {answer.task: answer.error for answer in frame.answers if answer.error}:
                values["task_errors"] = errors
            file.write(encoder.encode(values) + b"\n")
            count += 1
    return count


def write_parquet(frames: Iterable[RecordedFrame], to: Path) -> int:
    """Write one Parquet file; returns the rows. Raises ConfigError without pyarrow, or if `to` cannot be written."""
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise ConfigError("Parquet needs pyarrow: pip install 'frankenstream[parquet]', or export to .csv") from None
    types = {int: arrow.int64(), float: arrow.float64(), str: arrow.string()}
    schema = arrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    count = 0
    with _Written(to), parquet.ParquetWriter(str(to), schema) as writer:
        for group in _groups(rows(frames)):
            columns = {name: [row.get(name) for row in group] for name in COLUMNS}
            writer.write_table(arrow.table(columns, schema=schema))
            count += len(group)
    return count


def _frame_values(frame: RecordedFrame, first_ns: int) -> Row:
    """What is known of a frame; what is not is left out."""
    values: Row = {"frame": frame.frame, "state": frame.state}
    if frame.captured_ns:
        values |= {"time_s": (frame.captured_ns - first_ns) / 1e9, "captured_ns": frame.captured_ns}
    if frame.media_time is not None:
        values["media_time_s"] = frame.media_time
    if frame.detail:
        values["detail"] = frame.detail
    if frame.payload_bytes:
        values["payload_bytes"] = frame.payload_bytes
    if (result := frame.result) is not None:
        values |= {
            "wire_bytes": result.wire_bytes, "layers": result.layers, "decoded_layers": result.decoded_layers,
            "batch": result.batch,
        }  # fmt: skip
    if (stages := frame.stages) is not None:
        values["capture_to_result_ms"] = stages.capture_to_result_ms
        values |= {f"{stage}_ms": value for stage, value in stages.stages_ms.items()}
    return values


def _groups(all_rows: Iterator[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in all_rows:
        group.append(row)
        if len(group) == _ROWS_A_GROUP:
            yield group
            group = []
    if group:
        yield group


class _Written:
    """Turns an OSError into a line; half a file does not stay."""

    def __init__(self, to: Path) -> None:
        self._to = to
        if to.exists():
            raise ConfigError(f"{str(to)!r} exists already: choose another name, or remove it first")

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._to.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConfigError(
                f"{str(self._to)!r} cannot be written: {error.strerror or error}: "
                "free some space or choose another path"
            ) from None
