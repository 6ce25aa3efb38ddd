"""What a run says while it trains: averages over some steps, as CSV, for people, and for TensorBoard if it is there.

On a terminal people see a bar with distortion, rate, bytes, crops a second and the time that is left; otherwise a line
each time.
"""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Figures = dict[str, float]


@dataclass
class Counters:
    """Where a run is; part of its checkpoint. ``elapsed_s`` counts training only, over all resumes."""

    step: int = 0
    crops: int = 0
    elapsed_s: float = 0.0
    phase: str = ""
    """The phase of the last step."""
    phase_began: int = 0
    """The step that it began with."""


@dataclass(frozen=True)
class Row:
    """One line of the log: ``figures`` are means over the steps since the last one."""

    counters: Counters
    phase: str
    progress: float
    crops_per_s: float
    figures: Figures

    @property
    def left_min(self) -> float:
        """Minutes that are left at this pace; not a number at the very start."""
        elapsed_s = self.counters.elapsed_s
        return elapsed_s * (1 - self.progress) / self.progress / 60 if self.progress > 0 else float("nan")

    def cells(self) -> dict[str, Any]:
        """The row of the CSV file."""
        place = {"phase": self.phase, "progress": self.progress, "crops_per_s": self.crops_per_s}
        return vars(self.counters) | place | self.figures


class TrainingLog:
    """Takes each step's figures and writes a row every ``steps`` steps. ``columns``: names that figures may have."""

    def __init__(self, out: Path, *, columns: Sequence[str], steps: int, console: Console | None = None) -> None:
        console = console if console is not None else Console(highlight=False, soft_wrap=True, emoji=False)
        self._steps = steps
        self._sums: dict[str, list[float]] = {}
        self._mark: tuple[float, int] | None = None
        self._place = (Counters(), "", 0.0)
        self._csv = CsvFile(out / "train.csv", list(Row(Counters(), "", 0.0, 0.0, {}).cells()) + list(columns))
        self._display = _Bar(console) if console.is_terminal else _Lines(console)
        self._board = _tensorboard(out / "tensorboard")

    def add(self, counters: Counters, phase: str, progress: float, figures: Figures) -> None:
        """Take one step's figures."""
        if self._mark is None:
            self._mark = (counters.elapsed_s, counters.crops)
        for name, value in figures.items():
            self._sums.setdefault(name, []).append(value)
        self._display.move(progress)
        self._place = (counters, phase, progress)
        if counters.step % self._steps == 0:
            self._write()

    def _write(self) -> None:
        assert self._mark is not None
        counters, phase, progress = self._place
        seconds, crops = counters.elapsed_s - self._mark[0], counters.crops - self._mark[1]
        means = {name: sum(values) / len(values) for name, values in sorted(self._sums.items())}
        row = Row(counters, phase, progress, crops / seconds if seconds > 0 else 0.0, means)
        self._csv.append(row.cells())
        self._display.show(row)
        if self._board is not None:
            for name, value in means.items():
                self._board.add_scalar(name, value, counters.step)
        self._sums, self._mark = {}, (counters.elapsed_s, counters.crops)

    def close(self) -> None:
        """Write what is left, and end the bar."""
        if self._sums:
            self._write()
        self._display.close()
        if self._board is not None:
            self._board.close()


class CsvFile:
    """Rows under one header; a file whose header is another one is kept beside it, numbered."""

    def __init__(self, file: Path, columns: list[str]) -> None:
        self._file = file
        self._columns = columns
        if file.exists() and file.read_text().partition("\n")[0].strip() != ",".join(columns):
            number = 1
            while (aside := file.with_suffix(f".{number}.csv")).exists():
                number += 1
            file.rename(aside)

    def append(self, row: dict[str, Any]) -> None:
        """Write a row; columns that it lacks stay empty."""
        fresh = not self._file.exists()
        with self._file.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, self._columns, lineterminator="\n")
            if fresh:
                writer.writeheader()
            cells = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
            writer.writerow(cells)


class _Lines:
    """A line a row."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def move(self, progress: float) -> None:
        """Nothing between rows."""

    def show(self, row: Row) -> None:
        place = f"{row.progress:6.1%} {row.phase} step {row.counters.step}"
        speed = f"{row.crops_per_s:.0f} crops/s, {row.left_min:.0f} min left"
        figures = " ".join(f"{name} {value:.4g}" for name, value in row.figures.items())
        self._console.print(f"{place} {speed} | {figures}", markup=False)

    def close(self) -> None:
        """Nothing is open."""


class _Bar:
    """A bar with pace and time left, and a line with the figures that matter."""

    def __init__(self, console: Console) -> None:
        self._bar = ProgressBar(total=1.0, width=24)
        self._pace = "starting"
        self._figures = ""
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)
        self._live.start()

    def move(self, progress: float) -> None:
        self._bar.update(progress)

    def show(self, row: Row) -> None:
        sizes = [f"{value:.0f}" for name, value in row.figures.items() if name.startswith("bytes_")]
        parts = {"distortion": ".3f", "bits_per_pixel": ".3f", "agreement": ".1f", "loss": ".3f"}
        texts = [f"{name} {row.figures[name]:{form}}" for name, form in parts.items() if name in row.figures]
        self._pace = f"{row.phase}, {row.crops_per_s:.0f} crops/s, {row.left_min:.0f} min left"
        self._figures = "  " + ", ".join([*texts, *([f"bytes {'/'.join(sizes)}"] if sizes else [])])

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> Group:
        line = Table.grid(padding=(0, 1))
        line.add_row(self._bar, f"{self._bar.completed:6.1%}", self._pace)
        return Group(line, Text(self._figures))


def _tensorboard(folder: Path) -> Any:
    """A SummaryWriter, or None where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
