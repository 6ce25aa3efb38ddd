"""Tables out of recordings: the same values in each format."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from recordings.export import COLUMNS, write_csv, write_jsonl, write_parquet
from recordings.frames import RecordedFrame, recorded_frames
from recordings.reader import Recording
from tests.recordings.made import chain, record, reference_codec


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[RecordedFrame]:
    payloads, _ = chain(reference_codec(), 5)
    path = record(tmp_path_factory.mktemp("e") / "a.mcap", payloads, dropped=[3], tasks=("animals", "birds"))
    return list(recorded_frames(Recording(path)))


def test_csv(frames: list[RecordedFrame], tmp_path: Path) -> None:
    """A row for each label of each task; a dropped frame has one. Numbers come back to the last bit."""
    assert write_csv(frames, tmp_path / "a.csv") == 17
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == 17
    assert (rows[0]["task"], rows[0]["label"], rows[0]["rank"]) == ("animals", "zebra", "1")
    assert rows[1]["label"] == "ñandú"
    assert float(rows[0]["score"]) == frames[0].answers[0].labels[0].score
    (dropped,) = (row for row in rows if row["state"] == "lost")
    assert (dropped["frame"], dropped["task"], dropped["detail"]) == ("3", "", "no answer")


def test_jsonl(frames: list[RecordedFrame], tmp_path: Path) -> None:
    assert write_jsonl(frames, tmp_path / "a.jsonl") == 5
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[1]["time_s"] == pytest.approx(0.1)
    assert lines[1]["tasks"]["birds"][0]["label"] == "zebra"
    assert lines[1]["tail_ms"] == 9.0
    assert lines[3]["tasks"] == {}


def test_parquet_has_what_csv_has(frames: list[RecordedFrame], tmp_path: Path) -> None:
    """Absent values are null, types are those of the columns."""
    parquet = pytest.importorskip("pyarrow.parquet")
    assert write_parquet(frames, tmp_path / "a.parquet") == 17
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == list(COLUMNS)
    assert str(table.schema.field("score").type) == "double"
    assert str(table.schema.field("frame").type) == "int64"
    write_csv(frames, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        expected = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    got = [
        {name: str(value) for name, value in row.items() if value is not None and value != ""}
        for row in table.to_pylist()
    ]
    assert got == expected


def test_without_pyarrow_one_line_says_what_to_install(
    frames: list[RecordedFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'frankenstream\[parquet\]', or export to .csv"):
        write_parquet(frames, tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_files_are_not_overwritten_and_halves_do_not_stay(frames: list[RecordedFrame], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_csv(frames, tmp_path / "a.csv")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_jsonl(frames, tmp_path / "nowhere" / "a.jsonl")

    def breaking() -> object:
        yield frames[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(ConfigError, match="No space left on device: free some space"):
        write_csv(breaking(), tmp_path / "b.csv")  # type: ignore[arg-type]
    assert not (tmp_path / "b.csv").exists()
