"""`frankenstream recordings`: look at recordings, cut, export, recover and play them."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.codec import LatentCodec
from pipeline.errors import ConfigError, InputError
from recordings.copies import Copied
from recordings.reader import Recording
from recordings.statistics import LatencyFigures, RecordingFigures, figures

app = App(name="recordings", help="Look at recordings, cut, export, recover and play them.")

FORMATS = (".csv", ".parquet", ".jsonl", ".mp4")
_BARS = " ▁▂▃▄▅▆▇█"
_BAR_CELLS = 30

Output = Annotated[Path | None, Parameter(name=["--output", "-o"])]


@app.command
def info(file: Path, *, json: bool = False) -> None:
    """Show what a recording holds: duration, frames, bitrate and latency, tasks, bundle, engine, damage.

    Parameters
    ----------
    file:
        The recording (.mcap).
    json:
        Print JSON.
    """
    console = Console(highlight=False, soft_wrap=True)
    found = figures(Recording(file))
    if json:
        console.out(msgspec.json.format(msgspec.json.encode(found), indent=2).decode(), highlight=False)
        return
    _print_facts(found, console)
    _print_frames(found, console)
    for topic, count in found.topics.items():
        console.print(f"  {topic:<12} {count:>8,} messages", style="dim")
    if found.lost:
        console.print(f"not written when it was recorded: {found.lost}", style="yellow")
    for damage in found.damage:
        console.print(escape(damage), style="yellow")
    if found.damage:
        console.print(f"make it whole: frankenstream recordings recover {file}", style="yellow")


@app.command
def cut(
    file: Path,
    *,
    start: Annotated[str, Parameter(name=["--from"])] = "0",
    end: Annotated[str, Parameter(name=["--to"])] = "",
    output: Output = None,
    bundle: Path | None = None,
) -> None:
    """Cut a piece out of a recording, by time.

    Frames that are coded against one before the cut are coded again to stand alone; all others are copied byte for
    byte.

    Parameters
    ----------
    file:
        The recording (.mcap).
    start:
        Where the piece begins, in seconds or as M:SS or H:MM:SS from the start.
    end:
        Where it ends; the end of the recording if not given.
    output:
        The new file; FILE.cut.mcap if not given.
    bundle:
        The bundle that it was recorded with, where that is not the default one.
    """
    from recordings.copies import cut as cut_recording

    recording = Recording(file)
    start_s, end_s = parse_time(start), parse_time(end) if end else None
    if end_s is not None and end_s <= start_s:
        raise ConfigError(f"--to {end} does not come after --from {start}: swap them")
    done = cut_recording(
        recording, output or file.with_suffix(".cut.mcap"), start_s=start_s, end_s=end_s,
        codec=functools.partial(_codec, recording, bundle),
    )  # fmt: skip
    console = Console(highlight=False, soft_wrap=True)
    _print_copied(done, console)
    if done.recoded:
        console.print(f"{done.recoded} frames at its start were coded again, since their references lie before the cut")
    if done.left_out:
        console.print(f"{done.left_out} frames were left out: what they refer to was not recorded", style="yellow")


@app.command
def recover(file: Path, *, output: Output = None) -> None:
    """Make a whole recording of one that is cut off or damaged, and say what is lost. FILE stays as it is.

    Parameters
    ----------
    file:
        The recording (.mcap).
    output:
        The new file; FILE.recovered.mcap if not given.
    """
    from recordings.copies import recover as recover_recording

    done = recover_recording(Recording(file), output or file.with_suffix(".recovered.mcap"))
    console = Console(highlight=False, soft_wrap=True)
    _print_copied(done, console)
    if not done.damage:
        console.print(f"{file} was whole: nothing is lost")
    for damage in done.damage:
        console.print(escape(f"lost: {damage}"), style="yellow")


@app.command
def export(
    file: Path,
    *,
    output: Output = None,
    format: str = "",
    video: Path | None = None,
    bundle: Path | None = None,
) -> None:
    """Write the results as CSV, Parquet or JSON Lines, or as an annotated MP4.

    Parameters
    ----------
    file:
        The recording (.mcap).
    output:
        The new file; its ending says the format: .csv, .parquet, .jsonl or .mp4.
    format:
        csv, parquet, jsonl or mp4, where `output` is not given.
    video:
        For .mp4: the video that was streamed, to draw on instead of the thumbnails.
    bundle:
        For .mp4: the bundle that it was recorded with, where that is not the default one.
    """
    from recordings import export as tables
    from recordings.frames import recorded_frames

    target = output or file.with_suffix(f".{format.removeprefix('.') or 'csv'}")
    kind = f".{format.removeprefix('.')}" if format else target.suffix.lower()
    if kind not in FORMATS:
        raise ConfigError(f"export format is {kind or 'not given'!r}, expected one of {', '.join(FORMATS)}")
    if video is not None and kind != ".mp4":
        raise ConfigError(f"--video is for .mp4, this is {kind}: leave it out")
    recording = Recording(file)
    console = Console(highlight=False, soft_wrap=True)
    if kind == ".mp4":
        from frankenstream.annotated_video import write_video

        count = write_video(recording, target, video=video, bundle=bundle)
        console.print(f"{target}: {count:,} pictures, {target.stat().st_size / 1e6:,.1f} MB")
    else:
        write = {".csv": tables.write_csv, ".jsonl": tables.write_jsonl, ".parquet": tables.write_parquet}[kind]
        frames = sorted(recorded_frames(recording), key=lambda frame: frame.frame)
        count = write(frames, target)
        noun = "frames" if kind == ".jsonl" else "rows"
        console.print(f"{target}: {count:,} {noun}, {target.stat().st_size / 1e6:,.1f} MB")
    for damage in recording.damage:
        console.print(escape(str(damage)), style="yellow")


@app.command
def play(file: Path, *, speed: float = 1.0, headless: bool = False) -> None:
    """Show a recording in the terminal as it was live; no server is needed.

    Parameters
    ----------
    file:
        The recording (.mcap).
    speed:
        So many times as fast.
    headless:
        A line a second instead of the live table.
    """
    from frankenstream.edge_run import report
    from frankenstream.recording_play import play as play_recording

    if not 0.01 <= speed <= 1000.0:
        raise ConfigError(f"--speed is {speed:g}, expected 0.01 to 1000")
    console = Console()
    recording = Recording(file)
    summary = play_recording(recording, console=console, speed=speed, headless=headless)
    if not summary.captured:
        raise InputError(f"{recording.name} has no frames to play")
    report(summary, console)


def parse_time(text: str) -> float:
    """Seconds of `90`, `1:30` or `0:01:30.5`. Raises ConfigError."""
    try:
        parts = [float(part) for part in text.split(":")]
        if not 1 <= len(parts) <= 3 or any(part < 0 for part in parts):
            raise ValueError
    except ValueError:
        raise ConfigError(f"time is {text!r}, expected seconds, M:SS or H:MM:SS from the start") from None
    return sum((part * 60.0**place for place, part in enumerate(reversed(parts))), 0.0)


def _codec(recording: Recording, bundle: Path | None) -> LatentCodec:
    from frankenstream.recording_replay import edge_bundle_for

    found = edge_bundle_for(recording.facts.codec_id, bundle, file=recording.name, needed=True)
    assert found is not None
    return found.latent_codec()


def _print_copied(done: Copied, console: Console) -> None:
    console.print(f"{done.path}: {done.frames:,} frames, {done.messages:,} messages, {done.duration_s:.1f} s")


def _print_facts(found: RecordingFigures, console: Console) -> None:
    facts = found.facts
    started = datetime.fromtimestamp(found.started_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    size_mb = found.bytes / 1e6
    console.print(f"[bold]{escape(found.path)}[/]   {size_mb:,.1f} MB, {found.duration_s:.1f} s from {started}")
    session = found.sessions[0] if found.sessions else None
    rows = {
        "recorded by": f"FrankenStream {facts.frankenstream} ({facts.role}, {facts.machine}, Python {facts.python})",
        "source": facts.source,
        "encoder": facts.encoder,
        "operating point": facts.operating_point,
        "bundle": f"{facts.bundle_id[:12]}   codec {facts.codec_id[:12]}",
        "server": session.server if session is not None else "",
        "backbone": session.backbone if session is not None else "",
        "sessions": str(len(found.sessions)) if len(found.sessions) != 1 else "",
    }
    for name, value in rows.items():
        if value:
            console.print(f"{name:<16}{escape(value)}")


def _print_frames(found: RecordingFigures, console: Console) -> None:
    parts = [f"answered {found.answered:,}"]
    parts += [f"unchanged {found.unchanged:,}"] if found.unchanged else []
    parts += [f"{cause} {count:,}" for cause, count in found.dropped.items()]
    parts += [f"without an end {found.unknown:,}"] if found.unknown else []
    console.print(f"[bold]{found.frames:,} frames[/] = {' + '.join(parts)}")
    if found.payload_bytes_mean:
        spark = sparkline(found.kbps_over_time)
        console.print(f"payload {found.payload_bytes_mean:,.0f} B a frame, {found.kbps:,.0f} kbit/s   {spark}")
    if found.capture_to_result is not None:
        name = "receipt to answer" if found.facts.role == "server" else "capture to result"
        _print_latency(name, found.capture_to_result, console)
    if found.tasks:
        table = Table("task", "most often on top", "share", box=None, pad_edge=False, header_style="dim")
        for task, top in found.tasks.items():
            table.add_row(task, Text(top.label), f"{top.share:.0%}")
        console.print(table)


def _print_latency(name: str, latency: LatencyFigures, console: Console) -> None:
    console.print(f"{name}: median {latency.p50:.1f} ms, 95 % within {latency.p95:.1f}, 99 % within {latency.p99:.1f}")
    most = max(bucket.count for bucket in latency.histogram)
    for bucket in latency.histogram:
        bar = "█" * round(bucket.count / most * _BAR_CELLS)
        console.print(f"{bucket.low:8.1f} to {bucket.high:6.1f} ms  {bucket.count:>7,}  {bar}")


def sparkline(values: list[float]) -> str:
    """Values as a row of bars."""
    most = max(values, default=0.0)
    return "".join(_BARS[round(value / most * (len(_BARS) - 1))] for value in values) if most > 0 else ""
