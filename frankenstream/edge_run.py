"""Starts the edge role: source, encoder, session, transport, and whatever shows and keeps the results."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_node import (
    EdgeNode,
    FrameLog,
    FrameRecord,
    JpegPayload,
    LatentPayload,
    Monitor,
    NodeSettings,
    PayloadEncoder,
    RunFacts,
    Source,
    Summary,
    explain_drops,
    open_source,
)
from edge_node.live_table import LiveTable
from edge_node.pictures import FPS_DEFAULT, Notify
from edge_node.presenter import presenters
from edge_node.records import LinkState, link_state
from edge_node.tracing import FrameTracer
from frankenstream.config import AccessSettings, EncoderSettings, OutputSettings, StreamSettings
from frankenstream.edge_record import connect_recorded, recorded
from pipeline.bundle import Bundle, EdgeBundle
from pipeline.bundle.ladder import rate_ladder
from pipeline.errors import BundleError, ConfigError
from pipeline.rate_control import RateControl
from pipeline.runtime.encoder import FrameEncoder, preprocess_spec
from pipeline.transports import ClientKeys, LinkModel
from pipeline.wire import EdgeSession
from recordings.replay import Pace

_FPS_UNBOUND = 1000.0
"""Frame rate of a file that is read as fast as it goes: the link and the server are the limit."""

Sink = Callable[[FrameRecord, LinkState], None]
"""Takes every frame that has ended, and what the session knew then."""


@dataclass(frozen=True)
class EdgeRun:
    """Everything that one run of the edge needs to know.

    `pace` None: pictures as the source gives them. `jpeg_quality`: send JPEGs to the unmodified backbone instead of
    latents. `keys`: folder with edge.key, edge.secret and server.key. `size`: what a camera is asked for.
    """

    source: str
    server: str
    size: tuple[int, int] | None = None
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    stream: StreamSettings = field(default_factory=StreamSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    pace: Pace | None = None
    lossless: bool = False
    jpeg_quality: int | None = None
    keys: Path | None = None
    access: AccessSettings = field(default_factory=AccessSettings)


def run_edge(run: EdgeRun, *, console: Console) -> Summary:
    """Run until the source ends, the time is up or the user stops it; print the summary and return it.

    Raises FrankenError if it could not start, and, after the summary, if it ended before its time.
    """
    check_fps(run.stream, lossless=run.lossless, jpeg=run.jpeg_quality)
    with contextlib.ExitStack() as stack:
        bundle = open_edge_bundle(run.encoder.bundle)
        source = open_source(
            run.source, notify=lambda line: _say(console, line), size=run.size, fps=run.stream.fps or FPS_DEFAULT
        )
        sinks = open_sinks(run.output, stack, source=source.name, notify=lambda line: _say(console, line))
        node = _build(run, bundle, source, sinks, console, stack)
        stack.enter_context(stopped_by_signals(node))
        stack.enter_context(_presenters(run.output, node, bundle, source.fps))
        table = stack.enter_context(LiveTable(node.monitor, console=console, headless=run.output.headless))
        summary = node.run(table.tick)
    report(summary, console)
    if run.output.summary is not None:
        write_summary(summary, run.output.summary)
    if node.failure is not None:
        raise node.failure
    return summary


def check_fps(stream: StreamSettings, *, lossless: bool, jpeg: int | None) -> None:
    """What can be said beforehand, so that no server is started in vain. Raises ConfigError."""
    if stream.fps is not None and (lossless or jpeg is not None):
        raise ConfigError(
            f"--fps is the most that rate control sends, which with {'--lossless' if lossless else '--jpeg'} there is "
            "none of: leave one of them out"
        )


def open_sinks(output: OutputSettings, stack: contextlib.ExitStack, *, source: str, notify: Notify) -> list[Sink]:
    """The log and the traces that `output` wants; `stack` closes them. Raises ConfigError."""
    sinks: list[Sink] = []
    if output.log is not None:
        sinks.append(stack.enter_context(FrameLog(output.log, notify=notify)).write)
    if output.trace:
        tracer = FrameTracer(output.trace, every=output.trace_every, attributes={"source": source})
        sinks.append(stack.enter_context(tracer).write)
    return sinks


def write_summary(summary: Summary, file: Path) -> None:
    """Raises ConfigError if `file` cannot be written."""
    try:
        file.write_bytes(summary.to_json())
    except OSError as error:
        raise ConfigError(f"summary {str(file)!r} cannot be written: {error.strerror}: choose another path") from None


def report(summary: Summary, console: Console) -> None:
    """The summary for people: counts, rate, stages, labels, and why frames were dropped."""
    console.print()
    counts = f"captured {summary.captured} = answered {summary.answered}"
    if summary.unchanged:
        counts += f" + unchanged {summary.unchanged}"
    if summary.dropped or summary.in_flight:
        counts += f" + dropped {sum(summary.dropped.values())} + in flight {summary.in_flight}"
    console.print(f"[bold]{counts}[/]   {summary.fps:.1f} answers/s over {summary.duration_s:.1f} s", highlight=False)
    if summary.capture_to_result_ms is not None:
        total = summary.capture_to_result_ms
        console.print(
            f"capture to result: median {total.p50:.1f} ms, 95 % within {total.p95:.1f}, 99 % within {total.p99:.1f}",
            highlight=False,
        )
        console.print(
            f"payload {summary.payload_bytes_mean:,.0f} B a frame ({summary.bits_per_pixel:.2f} bit per pixel), "
            f"with the wire {summary.wire_bytes_mean:,.0f} B, {summary.kbps:,.0f} kbit/s",
            highlight=False,
        )
        for line in _rate_lines(summary):
            console.print(line, highlight=False)
        console.print(_stage_table(summary, console.width))
    labels = ", ".join(f"{task}: {top.label} ({top.share:.0%} of frames)" for task, top in summary.tasks.items())
    if labels:
        console.print(f"most frequent   {labels}", highlight=False)
    console.print(f"encoder {summary.encoder}; entropy coder {summary.coder}", highlight=False, style="dim")
    for line in explain_drops(summary):
        console.print(line, highlight=False)


def _rate_lines(summary: Summary) -> list[str]:
    """What rate control chose, and what references saved."""
    lines = []
    if summary.operating_points:
        shares = ", ".join(
            f"{name} {frames / summary.answered:.0%}" for name, frames in summary.operating_points.items()
        )
        loss = summary.expected_loss_points
        lines.append(f"operating point {shares}   expected loss {'unknown' if loss is None else f'{loss:.1f} points'}")
    if summary.saved_bytes > 0:
        spent = summary.payload_bytes_mean * summary.answered
        saved = summary.saved_bytes
        lines.append(f"references and repeated answers saved {saved / 1e3:,.0f} kB, {saved / (saved + spent):.0%}")
    return lines


def _stage_table(summary: Summary, width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("stage")
    for percentile in ("p50 ms", "p95 ms", "p99 ms"):
        table.add_column(percentile, justify="right")
    for stage, figures in summary.stages.items():
        table.add_row(stage, f"{figures.p50_ms:.2f}", f"{figures.p95_ms:.2f}", f"{figures.p99_ms:.2f}")
    return table


def open_edge_bundle(path: Path | None) -> EdgeBundle:
    """The bundle at `path`, whole or only its edge half (`frankenstream bundle fetch`). Raises BundleError."""
    if path is not None and path.is_file():
        with contextlib.suppress(BundleError):
            return EdgeBundle.from_zip(path.read_bytes(), where=str(path))
    return Bundle.open(path)


def _presenters(
    output: OutputSettings, node: EdgeNode, bundle: EdgeBundle, fps: float
) -> contextlib.AbstractContextManager[None]:
    return presenters(node, preprocess_spec(bundle.edge_spec), save=output.save, show=output.show, fps=fps)


def _say(console: Console, line: str) -> None:
    console.print(Text(line, style="yellow"))


def _build(
    run: EdgeRun,
    bundle: EdgeBundle,
    source: Source,
    sinks: list[Sink],
    console: Console,
    stack: contextlib.ExitStack,
) -> EdgeNode:
    """The node of `run`. What must be closed after it goes onto `stack`."""
    point = bundle.edge_spec.operating_point_index(run.encoder.quality)
    payload, coder = _payload(run, bundle, point, lambda line: _say(console, line))
    stream = run.stream
    link = LinkModel.profile(stream.link, seed=stream.link_seed) if stream.link else None
    monitor = Monitor(RunFacts(
        source=source.name,
        bundle_id=bundle.bundle_id if isinstance(bundle, Bundle) else "",
        encoder=payload.describe(),
        coder=coder,
        operating_point=_quality_words(run, bundle, point),
        transport=run.server,
        link=stream.link or "",
        input_pixels=payload.input_pixels,
    ))  # fmt: skip
    session = EdgeSession(
        codec_id=bundle.codec_id,
        client="frankenstream edge",
        tasks=stream.task_names,
        backbone=stream.backbone,
        top_k=stream.top_k,
        lossless=run.lossless,
        budget_ms=stream.budget_ms,
        control=_rate_control(run, bundle, source),
    )
    keys = ClientKeys.from_folder(run.keys) if run.keys else None
    access = run.access.client()
    recording = stack.enter_context(recorded(
        run.output, bundle, monitor.facts, say=lambda line: _say(console, line),
        on_gap=payload.stand_alone if isinstance(payload, LatentPayload) else lambda: None,
    ))  # fmt: skip
    return EdgeNode(
        source if recording is None else recording.watch(source),
        payload,
        session,
        lambda session, on_event: connect_recorded(
            recording, run.server, session, on_event, keys=keys, link=link, access=access
        ),
        settings=NodeSettings(
            lossless=run.lossless,
            pace=run.pace,
            budget_ms=stream.budget_ms,
            repeat_ms=stream.repeat_ms,
            duration_s=run.output.duration,
            frames_max=run.output.frames,
            keep_view=run.output.show or run.output.save is not None,
        ),
        monitor=monitor,
        on_record=to_all(sinks, session, payload.input_pixels),
        notify=lambda line: _say(console, line),
    )


def _rate_control(run: EdgeRun, bundle: EdgeBundle, source: Source) -> RateControl | None:
    """What chooses operating point and frame rate; None: lossless replay and JPEGs have nothing to choose."""
    if run.lossless or run.jpeg_quality is not None:
        return None
    ladder = rate_ladder(bundle.edge_spec, quality=run.encoder.quality, layers=run.encoder.layers)
    as_fast_as_read = run.pace is not None and not run.pace.realtime and not source.live
    fps = run.stream.fps or (_FPS_UNBOUND if as_fast_as_read or source.fps <= 0 else source.fps)
    return RateControl(ladder, fps_max=fps, budget_s=run.stream.budget_ms / 1e3)


def _quality_words(run: EdgeRun, bundle: EdgeBundle, point: int) -> str:
    chooses = not run.encoder.quality and not run.lossless and run.jpeg_quality is None
    return "auto" if chooses else bundle.edge_spec.operating_points[point].name


def _payload(run: EdgeRun, bundle: EdgeBundle, point: int, progress: Notify) -> tuple[PayloadEncoder, str]:
    """(what makes payloads, the entropy coder in use)."""
    if run.jpeg_quality is not None:
        return JpegPayload(preprocess_spec(bundle.edge_spec), quality=run.jpeg_quality), "none (JPEG)"
    chosen = run.encoder
    encoder = FrameEncoder(
        bundle, provider=chosen.provider, precision=chosen.precision, threads=chosen.threads, progress=progress
    )
    codec = bundle.latent_codec()
    points = bundle.latent_spec.operating_points
    sticky = run.encoder.sticky_threshold
    payload = LatentPayload(
        encoder, codec, points, operating_point=point, layers=run.encoder.layers, sticky_threshold=sticky
    )
    return payload, codec.coder


def to_all(sinks: list[Sink], session: EdgeSession, input_pixels: int) -> Callable[[FrameRecord], None]:
    """Each record to logs and traces, with what the session knows; nothing is spent where there are none."""

    def take(record: FrameRecord) -> None:
        if sinks:
            link = link_state(session, input_pixels=input_pixels)
            for sink in sinks:
                sink(record, link)

    return take


@contextlib.contextmanager
def stopped_by_signals(node: EdgeNode) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run in good order; a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        node.stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
