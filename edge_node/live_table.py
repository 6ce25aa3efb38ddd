"""The live table on a terminal, and one line a second where there is no terminal."""

from __future__ import annotations

from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edge_node.monitor import Monitor
from edge_node.records import FrameRecord, LabelScore
from edge_node.summary import Rolling
from pipeline.clock import Clock, monotonic
from pipeline.stages import CAPTURE_TO_RESULT, SERVER_STAGES

REFRESHES_PER_S = 8
LINE_EVERY_S = 1.0
"""Headless: seconds between two lines."""

_NETWORK = ("send_wait", "uplink", "downlink")
_SHORT = {"entropy_encode": "encode", "entropy_decode": "decode", "send_wait": "wait"}
_BAR_CELLS = 10


class LiveTable:
    """Shows a run while it goes on. Use as a context manager and call `tick` often; it draws when it is time to.

    `headless` (or a console that is no terminal) prints a line a second instead of drawing.
    """

    def __init__(
        self,
        monitor: Monitor,
        *,
        console: Console | None = None,
        headless: bool = False,
        clock: Clock = monotonic,
    ) -> None:
        self._monitor = monitor
        self._console = console if console is not None else Console()
        self._clock = clock
        self._next_line = clock() + LINE_EVERY_S
        self._live: Live | None = None
        if not headless and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._next_draw = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.update(render(self._monitor, self._console.width), refresh=True)
            self._live.stop()

    def tick(self) -> None:
        """Draw or print, if it is time to."""
        now = self._clock()
        if self._live is not None:
            if now >= self._next_draw:
                self._next_draw = now + 1 / REFRESHES_PER_S
                self._live.update(render(self._monitor, self._console.width), refresh=True)
        elif now >= self._next_line:
            self._next_line = max(self._next_line + LINE_EVERY_S, now)
            self._console.print(headless_line(self._monitor), soft_wrap=True, highlight=False, markup=False)

    def say(self, line: str) -> None:
        """A line for people, above the table."""
        self._console.print(Text(line, style="yellow"), soft_wrap=True)


def headless_line(monitor: Monitor) -> str:
    """The state of a run in one line."""
    captured, answered, dropped = monitor.counts
    record = monitor.last
    if record is None:
        return f"captured {captured}  answered 0  dropped {dropped}"
    rolling = monitor.rolling()
    labels = "  ".join(f"{task} {_label(record, task)}" for task in (*record.tasks, *record.task_errors))
    return (
        f"frame {record.frame}  {rolling.answered_fps:.1f}/s  {rolling.capture_to_result_ms:.0f} ms  "
        f"{rolling.payload_bytes:.0f} B  {rolling.kbps:.0f} kbit/s  {_rate_words(monitor)}{labels}  "
        f"answered {answered}  {_unchanged_words(monitor)}dropped {dropped}"
    )


def render(monitor: Monitor, width: int) -> RenderableType:
    """The whole picture for a terminal of `width` columns (made for 80 and up)."""
    record = monitor.last
    parts: list[RenderableType] = [_head(monitor, record, width)]
    if record is None:
        parts.append(Text("waiting for the first answer …", style="dim"))
    else:
        rolling = monitor.rolling()
        parts += [Text(""), _tasks(record, width), Text(""), _rates(record, rolling, width)]
        if monitor.choice is not None:
            parts.append(_rate_control(monitor, record, rolling, width))
        parts += [_stage_bar(record, width), _stage_figures(record, width)]
    parts += [Text(""), _counts(monitor, width)]
    return Group(*parts)


def _head(monitor: Monitor, record: FrameRecord | None, width: int) -> Text:
    facts = monitor.facts
    words = [facts.source, facts.backbone, facts.transport, facts.link and f"link {facts.link}", facts.operating_point]
    frame = f"frame {record.frame}" if record is not None else ""
    line = Text(" · ".join(word for word in words if word), style="bold", no_wrap=True, overflow="ellipsis")
    line.truncate(max(width - len(frame) - 3, 10), overflow="ellipsis")
    line.append(f"   {frame}", style="bold cyan")
    return line


def _tasks(record: FrameRecord, width: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim", width=width)
    table.add_column("task", no_wrap=True, max_width=18)
    table.add_column("label", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("score", justify="right", no_wrap=True, width=5)
    table.add_column("", no_wrap=True, width=_BAR_CELLS)
    for task, labels in record.tasks.items():
        if labels:
            table.add_row(task, _labels(labels), f"{labels[0].score:.0%}", _bar(labels[0].score))
    for task, error in record.task_errors.items():
        table.add_row(task, Text(error, style="red"), "", "")
    return table


def _labels(labels: list[LabelScore]) -> Text:
    text = Text(labels[0].label, style="bold" if labels[0].score >= 0.5 else "")
    for other in labels[1:]:
        text.append(f"  {other.label} {other.score:.0%}", style="dim")
    return text


def _bar(score: float) -> Text:
    cells = round(score * _BAR_CELLS)
    return Text("━" * cells, style="green" if score >= 0.5 else "yellow") + Text(
        "━" * (_BAR_CELLS - cells), style="grey30"
    )


def _rates(record: FrameRecord, rolling: Rolling, width: int) -> Text:
    figures = [
        f"{record.payload_bytes:,} bytes",
        f"{rolling.kbps:,.0f} kbit/s",
        f"{rolling.answered_fps:.1f} answers/s",
    ]
    error = "" if record.clock_error_ms is None else f" (network split ± {record.clock_error_ms:.1f} ms)"
    text = Text(f"capture to result {record.capture_to_result_ms:.1f} ms", style="bold", no_wrap=True)
    text.append(f"   {'   '.join(figures)}")
    if width >= 100:
        text.append(error, style="dim")
    return text


def _rate_control(monitor: Monitor, record: FrameRecord, rolling: Rolling, width: int) -> Text:
    """What rate control knows and chose, what its choice loses, and what references save."""
    choice = monitor.choice
    assert choice is not None
    text = Text(f"rate {choice.name}", style="bold magenta", no_wrap=True)
    loss = record.expected_loss_points
    text.append(f"  expected loss {'unknown' if loss is None else f'{loss:.1f} points'}", style="default")
    if 0 < record.decoded_layers < record.layers:
        text.append(f" ({record.decoded_layers}/{record.layers})", style="yellow")  # layers
    text.append("  link " + ("unknown" if choice.kbps is None else f"{choice.kbps:,.0f} kbit/s"), style="blue")
    if rolling.alone_bytes > 0:
        saved = max(0.0, 1 - rolling.payload_bytes / rolling.alone_bytes)
        text.append(f"  saved {saved:.0%}", style="green")
    text.truncate(max(width, 10), overflow="ellipsis")
    return text


def _rate_words(monitor: Monitor) -> str:
    choice = monitor.choice
    if choice is None:
        return ""
    loss = "" if choice.expected_loss_points is None else f" (loss {choice.expected_loss_points:.1f})"
    return f"{choice.name}{loss}  "


def _unchanged_words(monitor: Monitor) -> str:
    return f"unchanged {monitor.unchanged}  " if monitor.unchanged else ""


def _style(stage: str) -> str:
    if stage in _NETWORK:
        return "blue"
    return "magenta" if stage in SERVER_STAGES else "green"


def _stage_bar(record: FrameRecord, width: int) -> Text:
    """Where the time went: edge green, network blue, server magenta; cells in proportion."""
    total = sum(record.stages_ms.get(stage, 0.0) for stage in CAPTURE_TO_RESULT)
    bar = Text(no_wrap=True)
    drawn, seen = 0, 0.0
    for number, stage in enumerate(CAPTURE_TO_RESULT):
        seen += record.stages_ms.get(stage, 0.0)
        cells = round(seen / total * width) - drawn if total > 0 else 0
        bar.append(("█", "▓")[number % 2] * cells, style=_style(stage))
        drawn += cells
    return bar


def _stage_figures(record: FrameRecord, width: int) -> Table:
    """Name over milliseconds, all twelve stages side by side, or in two rows where they do not fit."""
    per_row = 12 if width >= 110 else 6
    table = Table.grid(padding=(0, 1), expand=True)
    for _ in range(per_row):
        table.add_column(justify="right", no_wrap=True)
    for start in range(0, len(CAPTURE_TO_RESULT), per_row):
        stages = CAPTURE_TO_RESULT[start : start + per_row]
        table.add_row(*(Text(_SHORT.get(stage, stage), style=_style(stage)) for stage in stages))
        table.add_row(*(f"{record.stages_ms.get(stage, 0.0):.1f}" for stage in stages))
    return table


def _counts(monitor: Monitor, width: int) -> Text:
    captured, answered, dropped = monitor.counts
    unchanged = monitor.unchanged
    repeated = f" + unchanged {unchanged}" if unchanged else ""
    in_flight = captured - answered - unchanged - dropped
    text = Text(f"captured {captured} = answered {answered}{repeated} + dropped {dropped} + in flight {in_flight}")
    if dropped:
        causes = ", ".join(
            f"{cause} {frames}" for cause, frames in sorted(monitor.dropped.items(), key=lambda item: -item[1])
        )
        text.append(f"   ({causes})", style="dim")
    text.truncate(max(width, 10), overflow="ellipsis")
    return text


def _label(record: FrameRecord, task: str) -> str:
    labels = record.tasks.get(task)
    if not labels:
        return f"({record.task_errors.get(task, 'no label')})"
    return f"{labels[0].label} {labels[0].score:.0%}"
