"""What a run says: CSV with one header, a line each time without a terminal, a bar on one."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from rich.console import Console  # noqa: E402

from pipeline.training.log import Counters, CsvFile, TrainingLog  # noqa: E402

COLUMNS = ["loss", "distortion", "bytes_low", "kl_net"]


def told(out: Path, *, terminal: bool) -> str:
    """Four steps in rows of two, the second half with a new term."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=200, soft_wrap=True, color_system=None)
    log = TrainingLog(out, columns=COLUMNS, steps=2, console=console)
    for step in range(1, 5):
        figures = {"loss": float(step), "distortion": 0.5, "bytes_low": 2300.0}
        log.add(
            Counters(step, 10 * step, 2.0 * step), "task", step / 8, figures | ({"kl_net": 0.2} if step > 2 else {})
        )
    log.close()
    return stream.getvalue()


def test_csv_has_means_under_one_header(tmp_path: Path) -> None:
    """A row is the mean of its steps; a term that the phase did not have stays empty."""
    told(tmp_path, terminal=False)
    rows = list(csv.DictReader((tmp_path / "train.csv").open()))
    assert [row["loss"] for row in rows] == ["1.5", "3.5"]
    assert [row["kl_net"] for row in rows] == ["", "0.2"]
    assert rows[1]["crops_per_s"] == "5"
    assert (rows[1]["step"], rows[1]["phase"], rows[1]["progress"]) == ("4", "task", "0.5")


def test_lines_without_a_terminal(tmp_path: Path) -> None:
    """Place, speed, time left and every figure, a line for each row."""
    lines = told(tmp_path, terminal=False).splitlines()
    assert lines[1].startswith(" 50.0% task step 4 5 crops/s, 0 min left | bytes_low 2300 distortion 0.5 kl_net 0.2")
    assert len(lines) == 2


def test_bar_on_a_terminal(tmp_path: Path) -> None:
    """The last state of the bar has distortion, bytes, speed and time left."""
    shown = told(tmp_path, terminal=True)
    assert "50.0% task, 5 crops/s, 0 min left" in shown
    assert "distortion 0.500, loss 3.500, bytes 2300" in shown


def test_resuming_appends_and_another_header_starts_anew(tmp_path: Path) -> None:
    """The same columns go on in the same file; other columns leave it beside, numbered."""
    CsvFile(tmp_path / "a.csv", ["x", "y"]).append({"x": 1})
    CsvFile(tmp_path / "a.csv", ["x", "y"]).append({"x": 2.5, "y": 3})
    assert (tmp_path / "a.csv").read_text() == "x,y\n1,\n2.5,3\n"
    CsvFile(tmp_path / "a.csv", ["z"]).append({"z": 4})
    assert (tmp_path / "a.csv").read_text() == "z\n4\n"
    assert (tmp_path / "a.1.csv").read_text() == "x,y\n1,\n2.5,3\n"
