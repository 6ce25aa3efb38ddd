"""Records of ended frames, and their log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_node.records import LOG_RECORDS, FrameLog, FrameRecord, LabelScore, labels_by_task
from pipeline.errors import ConfigError
from pipeline.wire.messages import Label, TaskResult


def test_the_log_has_one_line_of_json_a_frame(tmp_path: Path) -> None:
    """What has its default is left out."""
    with FrameLog(tmp_path / "frames.jsonl") as log:
        log.write(
            FrameRecord(frame=0, state="answered", tasks={"food101": [LabelScore("pizza", 0.5)]}, payload_bytes=7)
        )
        log.write(FrameRecord(frame=1, state="lost", detail="no answer"))
    lines = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
    assert lines == [
        {"frame": 0, "state": "answered", "tasks": {"food101": [{"label": "pizza", "score": 0.5}]}, "payload_bytes": 7},
        {"frame": 1, "state": "lost", "detail": "no answer"},
    ]


def test_a_log_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    """With the path and the reason."""
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        FrameLog(tmp_path / "nowhere" / "frames.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("records", [1, 10 * LOG_RECORDS])
def test_a_full_disk_ends_the_log_and_nothing_else(records: int) -> None:
    """Told once, on the way or, for what was still waiting, at the end."""
    told: list[str] = []
    with FrameLog("/dev/full", notify=told.append) as log:
        for number in range(records):
            log.write(FrameRecord(frame=number, state="lost", detail="x" * 10_000))
        assert not log._waiting or records == 1
    assert told == ["the log '/dev/full' ends before its time (No space left on device): later frames are not in it"]


def test_tasks_with_labels_and_tasks_with_errors_are_told_apart() -> None:
    """A head that failed is named and has no labels."""
    results = (TaskResult("food101", [Label(3, "pizza", 0.5)]), TaskResult("cifar100", [], "head gave NaN"))
    assert labels_by_task(results) == ({"food101": [LabelScore("pizza", 0.5)]}, {"cifar100": "head gave NaN"})
