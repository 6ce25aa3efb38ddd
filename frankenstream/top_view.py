"""How `frankenstream top` draws a server's figures: pure functions from figures to rich text, made for 80 columns.

The figures are those of `GET /api/v1/events` (analytics_server/figures.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

Figures = Mapping[str, Any]

DRIFT_LOOK, DRIFT_CHANGED = 0.1, 0.25
"""Where a population stability index turns yellow and red."""
SESSION_COLUMNS = ("client", "fps", "kbit/s", "p50 ms", "p95 ms", "drop/s", "± ms", "tasks")

_STAGE_STYLES = {"queue": "yellow", "entropy_decode": "cyan"}
_COMPUTE = "magenta"
_EIGHTHS = " ▏▎▍▌▋▊▉"


def head(figures: Figures, width: int) -> Text:
    """What is watched, and the rates of all of it, in two lines."""
    frames, process = figures["frames"], figures["process"]
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append((figures["urls"] or [figures["name"]])[0], style="bold")
    state = figures["state"]
    text.append(f"  {state}", style="green" if state == "ready" else "bold red")
    text.append(f"  up {_duration(process['up_s'])}", style="dim")
    text.append(f"  bundle {figures['bundle_id'][:12]}" if width >= 100 else "", style="dim")
    text.append(f"  cpu {process['cpu_percent']:.0f}/{100 * process['cores']} %  {process['rss_mb']:.0f} MB\n")
    text.append(f"{frames['answered_fps']:.1f} answers/s", style="bold cyan")
    text.append(f"  {figures['sessions_open']} sessions  {frames['payload_kbps']:,.0f} kbit/s")
    text.append(f"  {frames['payload_bytes_mean']:,.0f} B a frame  ")
    dropped = frames["dropped_fps"]
    text.append(f"{dropped:.1f} dropped/s", style="bold red" if dropped >= 0.05 else "dim")
    return text


def stages(figures: Figures, width: int) -> Table:
    """p50 (full) and p95 (shaded) of each stage as bars on one scale, and of the whole."""
    frames = figures["frames"]
    rows = [(name, found, _STAGE_STYLES.get(name, _COMPUTE)) for name, found in frames["stages_ms"].items()]
    longest = max((found["p95"] for _, found, _ in rows if found), default=0.0)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", width=width)
    table.add_column("stage", no_wrap=True, width=14)
    table.add_column("p50", justify="right", no_wrap=True, width=6)
    table.add_column("p95 ms", justify="right", no_wrap=True, width=6)
    cells = max(width - 30, 8)
    table.add_column("", no_wrap=True, width=cells)
    for name, found, style in rows:
        if found:
            table.add_row(name, _ms(found["p50"]), _ms(found["p95"]), bar(found, longest, cells, style))
        else:
            table.add_row(name, "-", "-", "")
    whole = frames["answer_ms"]
    if whole:
        table.add_row(Text("on the server", style="bold"), _ms(whole["p50"]), _ms(whole["p95"]), "")
    return table


def bar(found: Mapping[str, float], longest: float, cells: int, style: str) -> Text:
    """A full bar up to p50, shaded up to p95."""
    if longest <= 0:
        return Text("")
    p50, p95 = (found[name] / longest * cells for name in ("p50", "p95"))
    whole, rest = int(p50), p50 - int(p50)
    text = Text("█" * whole, style=style)
    if rest >= 0.125 and whole < cells:
        text.append(_EIGHTHS[int(rest * 8)], style=style)
    text.append("░" * max(0, round(p95) - len(text)), style=style)
    return text


def engines(figures: Figures, width: int) -> Table:
    """Each engine: device, how busy, and what a frame costs."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", width=width)
    table.add_column("engine", no_wrap=True, overflow="ellipsis", ratio=1)
    for name, cells in (("busy", 9), ("batch", 5), ("ms", 5)):
        table.add_column(name, justify="left" if name == "busy" else "right", no_wrap=True, width=cells)
    for engine in figures["engines"]:
        busy = engine["busy"]
        style = "red" if busy > 0.9 else "yellow" if busy > 0.7 else "green"
        gauge = Text("█" * round(busy * 5) + "░" * (5 - round(busy * 5)), style=style).append(f"{busy:4.0%}")
        title = f"{_short(engine['backbone'])} {engine['backend']}/{engine['device']}"
        table.add_row(title, gauge, f"{engine['batch_mean']:.1f}", _ms(engine["frame_ms"]))
    return table


def drops(figures: Figures) -> Text:
    """Drops by cause, of the last seconds; and drift where the bundle has a yardstick."""
    dropped = figures["frames"]["dropped"]
    text = Text(f"drops in {figures['window_s']} s  ", style="dim")
    if not dropped:
        text.append("none", style="green")
    for cause, count in sorted(dropped.items(), key=lambda item: -item[1]):
        text.append(f"{cause} {count}  ", style="bold red")
    for one in figures["drift"]:
        psi = one["psi"]
        style = "bold red" if psi > DRIFT_CHANGED else "yellow" if psi > DRIFT_LOOK else "dim"
        text.append(f"\ndrift {one['signal']} {_short(one['of'])} {psi:.2f}", style=style)
    return text


def tasks(figures: Figures, width: int) -> Table:
    """Each task: who asks, how often it is answered, what it costs."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", width=width)
    table.add_column("task", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("classes", "asked by", "answers/s", "ms a frame"):
        table.add_column(name, justify="right", no_wrap=True)
    asked = [task for task in figures["tasks"] if task["sessions"] or task["error"]]
    for task in asked:
        who = Text(f"{task['name']}@{_short(task['backbone'])}")
        if task["error"]:
            who.append(f"  {task['error']}", style="red")
        cost = f"{task['ms_a_frame']:.3f}" if task["answers_per_s"] else "-"
        table.add_row(who, f"{task['classes']:,}", str(task["sessions"]), f"{task['answers_per_s']:.1f}", cost)
    idle = [f"{task['name']}@{_short(task['backbone'])}" for task in figures["tasks"] if task not in asked]
    if idle:
        table.add_row(Text(f"{len(idle)} more: {', '.join(idle)}", style="dim"), "", "0", "", "")
    return table


def session_cells(row: Figures) -> list[Text]:
    """One session as the cells of SESSION_COLUMNS."""
    first, *middle, last = _session_words(row)
    return [Text(first), *(Text(word, justify="right") for word in middle), Text(f" {last}", no_wrap=True)]


def _session_words(row: Figures) -> list[str]:
    took, error = row["answer_ms"], row["clock_error_ms"]
    client = row["client"].removeprefix("frankenstream ") or "?"
    return [
        f"{client} {row['session'][:6]}" + ("" if row["state"] == "open" else f" ({row['state']})"),
        f"{row['fps']:.1f}",
        f"{row['payload_kbps']:,.0f}",
        _ms(took["p50"]) if took else "-",
        _ms(took["p95"]) if took else "-",
        f"{row['dropped_fps']:.1f}",
        "-" if error is None else f"{error:.1f}",
        ",".join(row["tasks"]),
    ]


def events(told: Sequence[Figures], lines: int) -> Text:
    """The last things that happened, newest last."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for event in told[-lines:]:
        facts = {key: value for key, value in event.items() if key not in ("number", "at", "kind", "what")}
        words = " ".join(_fact(key, value) for key, value in facts.items() if value)
        text.append(f"{_clock(event['at'])} ", style="dim")
        text.append(f"{event['kind']} {event['what']}", style="bold")
        text.append(f" {words}\n")
    text.rstrip()
    return text


def _one(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)[:40]


def _fact(key: str, value: Any) -> str:
    return str(value)[:6] if key == "session" else f"{key}={_one(value)}"


def _short(name: str) -> str:
    return name.replace("tf_efficientnet_", "")


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    minutes, _ = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min" if minutes else f"{int(seconds)} s"


def _clock(at: float) -> str:
    import time

    return time.strftime("%H:%M:%S", time.localtime(at))
