"""`frankenstream bench`: what this device can do, and how many streams a server carries.

The documentation's claims come from `python -m benchmarks.…`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
from cyclopts import App
from rich.console import Console
from rich.table import Table

from frankenstream.config import names
from frankenstream.device_bench import DeviceReport, measure_device
from frankenstream.edge_run import open_edge_bundle
from frankenstream.load import Load, Step, bounds, find_knee, recorded_payloads, verdict
from frankenstream.server_process import ServerProcess
from pipeline import limits
from pipeline.errors import ConfigError
from pipeline.transports import ClientKeys
from recordings.samples import DEFAULT_SAMPLE, named_source

app = App(name="bench", help="Measure: this device, or how many streams a server carries.")


@app.command
def device(
    *, bundle: Path | None = None, source: str = DEFAULT_SAMPLE, threads: int = 1, json: Path | None = None
) -> None:
    """Measure the encoder's forms and the entropy coder on this device, and say what the edge would choose.

    Parameters
    ----------
    bundle:
        Bundle folder or .zip; the default one if not given.
    source:
        What to take frames from: a sample clip, a video or a picture.
    threads:
        Threads of the encoder.
    json:
        Write the figures to this file.
    """
    console = Console(highlight=False)
    report = measure_device(open_edge_bundle(bundle), named_source(source), threads=threads)
    _show_device(report, console)
    _write(report, json)


@app.command
def load(
    *,
    server: str = "",
    streams: int = 32,
    fps: float = 30.0,
    duration: float = 10.0,
    p95_ms: float = 150.0,
    drops: float = 1.0,
    source: str = DEFAULT_SAMPLE,
    bundle: Path | None = None,
    quality: str = "",
    tasks: str = "",
    backbone: str = "",
    budget_ms: int = limits.BUDGET_MS_DEFAULT,
    keys: Path | None = None,
    json: Path | None = None,
) -> None:
    """Find how many streams a server carries: step up until p95 or drops exceed a bound, and say where the time goes.

    Sends real recorded latents, without encoding anything while it measures. Run it on another machine than the
    server if you can: here both share the processor.

    Parameters
    ----------
    server:
        URL of the server: tcp://HOST:PORT or ipc://PATH; without it one is started on this machine.
    streams:
        Streams at most.
    fps:
        Frames a second of each stream.
    duration:
        Seconds that each number of streams is measured.
    p95_ms:
        Bound: 95 % of the answers within so many milliseconds of handing a frame over.
    drops:
        Bound: frames that may be dropped, in percent.
    source:
        What the latents are of: a sample clip or a video.
    bundle:
        Bundle folder or .zip, the server's; the default one if not given.
    quality:
        Operating point of the latents; the bundle's default if not given.
    tasks:
        Tasks to ask for, comma separated; all of the backbone's if not given.
    backbone:
        Backbone to ask for; the server's default if not given.
    budget_ms:
        Age at which an answer is no longer wanted, in milliseconds.
    keys:
        Folder with edge.key, edge.secret and server.key.
    json:
        Write all steps to this file.
    """
    if streams < 1 or not 0.1 <= fps <= 1000 or duration < 1:
        raise ConfigError(
            f"load of {streams} streams, {fps:g} fps, {duration:g} s: expected at least 1 stream, 0.1 to 1000 fps, 1 s"
        )
    console = Console(highlight=False)
    good = bounds(p95_ms, drops)
    opened = open_edge_bundle(bundle)
    with contextlib.ExitStack() as stack:
        if not server:
            arguments = ["--bundle", str(bundle)] if bundle is not None else []
            server = stack.enter_context(ServerProcess(arguments, console=console)).url
        with console.status("encoding the frames, once …"):
            payloads = recorded_payloads(opened, named_source(source), quality=quality)
        size = sum(map(len, payloads)) / len(payloads)
        console.print(
            f"{len(payloads)} recorded frames of {size:,.0f} B, {fps:g} fps a stream, {duration:g} s a step; "
            f"bounds: p95 {p95_ms:g} ms, {drops:g} % dropped"
        )
        run = Load(
            server, opened.codec_id, payloads, fps=fps, duration_s=duration, tasks=names(tasks), backbone=backbone,
            budget_ms=budget_ms, keys=ClientKeys.from_folder(keys) if keys else None,
        )  # fmt: skip
        steps: list[Step] = []
        console.print(_HEAD, style="dim")

        def told(step: Step) -> None:
            steps.append(step)
            console.print(_line(step, good=good(step)))

        best, worst = find_knee(run.step, streams_max=streams, good=good, on_step=told)
    _show_knee(best, worst, fps, console)
    _write({"steps": steps, "knee": best.streams if best else 0, "fps": fps, "p95_ms": p95_ms, "drops": drops}, json)


_HEAD = "streams  answers/s    p50    p95    p99 ms  dropped  credit  network  decode  queue  compute  batch"


def _line(step: Step, *, good: bool) -> str:
    parts = "".join(f"{step.parts_ms[name]:{width}.1f}" for name, width in _WIDTHS.items())
    style = "" if good else "[red]"
    return (
        f"{style}{step.streams:7}{step.answered_fps:11.1f}{step.p50_ms:7.1f}{step.p95_ms:7.1f}{step.p99_ms:7.1f}"
        f"   {step.dropped_percent:6.1f} %{parts}{step.batch_mean:7.1f}"
    )


_WIDTHS = {"credit": 8, "network": 9, "decode": 8, "queue": 7, "compute": 9}


def _show_knee(best: Step | None, worst: Step | None, fps: float, console: Console) -> None:
    if best is None:
        console.print(f"\n[bold]knee: below one stream[/] of {fps:g} fps")
    else:
        more = "" if worst else " or more"
        console.print(
            f"\n[bold]knee: {best.streams} streams[/]{more} of {fps:g} fps, {best.answered_fps:.0f} answers/s, "
            f"p50 {best.p50_ms:.1f}, p95 {best.p95_ms:.1f}, p99 {best.p99_ms:.1f} ms, "
            f"{best.payload_kbps:,.0f} kbit/s; the generator took {best.generator_cpu_percent:.0f} % of a core"
        )
    console.print(verdict(worst))


def _show_device(report: DeviceReport, console: Console) -> None:
    forms = Table("encoder", "ms", "", box=None, pad_edge=False)
    for form in report.forms:
        mark = "→ " if form.chosen else "  "
        ms = "-" if form.ms is None else f"{form.ms:.2f}"
        forms.add_row(f"{mark}{form.provider} {form.precision}, {form.threads} thread(s)", ms, form.note)
    console.print(forms)
    console.print(f"\npreprocess {report.picture}: {report.preprocess_ms:.3f} ms")
    coders = ", ".join(f"{name} {ms:.2f} ms" for name, ms in report.coders_ms.items())
    console.print(f"entropy encode: {coders}\n")
    points = Table("operating point", "bytes", "against the last frame", "encode ms", "decode ms", box=None,
                   pad_edge=False)  # fmt: skip
    for point in report.points:
        referenced = "-" if point.referenced_bytes is None else f"{point.referenced_bytes:,.0f}"
        points.add_row(point.name, f"{point.payload_bytes:,.0f}", referenced, f"{point.encode_ms:.3f}",
                       f"{point.decode_ms:.3f}")  # fmt: skip
    console.print(points)
    console.print(f"\nthe edge would use: {report.describe}; entropy coder: {report.coder}")
    console.print(f"a frame takes {report.frame_ms:.2f} ms here: up to {report.fps:,.0f} frames/s on one core")


def _write(figures: object, file: Path | None) -> None:
    if file is None:
        return
    try:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
    except OSError as error:
        raise ConfigError(f"{str(file)!r} cannot be written: {error.strerror}: choose another path") from None
