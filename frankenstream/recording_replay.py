"""Replays a recording to a server: no camera, no encoder, the bytes that were recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from edge_node import EdgeNode, FrameRecord, Monitor, NodeSettings, RunFacts
from edge_node.live_table import LiveTable
from frankenstream.config import AccessSettings, EncoderSettings, OutputSettings, StreamSettings, given
from frankenstream.edge_record import connect_recorded, recorded
from frankenstream.edge_run import (
    Sink,
    open_edge_bundle,
    open_sinks,
    report,
    stopped_by_signals,
    to_all,
    write_summary,
)
from frankenstream.recorded_source import OneAtATime, RecordedFrames
from frankenstream.server_process import ServerProcess
from frankenstream.verification import Verification, differences, engines_of
from pipeline.bundle import Bundle, EdgeBundle, EdgeCache
from pipeline.errors import BundleError, ConfigError, FrankenError
from pipeline.transports import ClientKeys, LinkModel
from pipeline.wire import EdgeSession
from pipeline.wire.events import Closed, Connected, EdgeEvent
from recordings.reader import Recording
from recordings.replay import Pace
from recordings.replayable import Replayable
from recordings.topics import SessionStart


@dataclass(frozen=True)
class RecordingReplay:
    """How to replay `recording`. `server` empty: one is started for the run."""

    recording: Path
    server: str = ""
    pace: Pace = field(default_factory=Pace)
    lossless: bool = False
    step: bool = False
    verify: bool = False
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    stream: StreamSettings = field(default_factory=StreamSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    keys: Path | None = None
    access: AccessSettings = field(default_factory=AccessSettings)


def replay_recording(run: RecordingReplay, *, console: Console) -> int:
    """Returns the exit code: 1 if the answers are not those that were recorded (`verify`). Raises FrankenError."""
    _check(run)
    replayable = Replayable(Recording(run.recording))
    for damage in replayable.recording.damage:
        _say(console, f"{replayable.recording.name}: {damage}")
    bundle = edge_bundle_for(replayable.codec_id, run.encoder.bundle, file=replayable.recording.name,
                             needed=replayable.needs_codec or not run.server)  # fmt: skip
    with contextlib.ExitStack() as stack:
        server = run.server
        if not server:
            arguments = _server_arguments(run, replayable)
            server = stack.enter_context(ServerProcess(arguments, console=console)).url
        return _Replay(run, replayable, bundle, console).run(server)


def _check(run: RecordingReplay) -> None:
    useless = given(run.encoder, "quality", "layers", "sticky", "precision", "provider", "threads")
    useless += given(run.stream, "fps", "repeat_ms")
    if useless:
        raise ConfigError(
            f"a recording is sent as it was encoded then, and at its own times: leave {', '.join(useless)} out"
        )
    if run.pace.loop:
        raise ConfigError("--loop is for videos: a recording is replayed once, so that its frames stay its own")
    if run.output.save is not None or run.output.show:
        raise ConfigError(
            f"a recording holds latents, not pictures, to --save or --show: "
            f"`frankenstream recordings export {run.recording.name} -o out.mp4` draws on its thumbnails or on the video"
        )


def edge_bundle_for(codec_id: str, path: Path | None, *, file: str, needed: bool) -> EdgeBundle | None:
    """The bundle whose codec made a recording: the named one, the default, or one that was kept when it was recorded.

    Raises BundleError if it is not here, unless it is not `needed`.
    """
    bundle = open_edge_bundle(path)
    if bundle.codec_id == codec_id:
        return bundle
    kept = EdgeCache().get(codec_id) if codec_id else None
    if kept is not None or not needed:
        return kept
    raise BundleError(
        f"{file} was recorded with codec {codec_id[:12] or 'unknown'}, {bundle.where} has {bundle.codec_id[:12]}: "
        "name the bundle that it was recorded with (--bundle)"
    )


def _server_arguments(run: RecordingReplay, replayable: Replayable) -> list[str]:
    """Flags of the server that is started for the run. Raises BundleError if its bundle has another codec."""
    whole = Bundle.open(run.encoder.bundle)
    if whole.codec_id != replayable.codec_id:
        raise BundleError(
            f"{replayable.recording.name} was recorded with codec {replayable.codec_id[:12] or 'unknown'}, "
            f"{whole.where} has {whole.codec_id[:12]}: name the bundle that it was recorded with (--bundle), or a "
            "server that has it (--server)"
        )
    arguments = ["--bundle", str(run.encoder.bundle)] if run.encoder.bundle is not None else []
    session = replayable.session
    if not run.verify or session is None:
        return arguments
    # One engine, set up as it was then, each frame alone.
    arguments += ["--batch-size-max", "1"]
    tags = [session.backbone, *(task.backbone for task in session.tasks)]
    known = {backbone.tag: backbone.alias or backbone.tag for backbone in whole.backbones}
    served = [tag for tag in dict.fromkeys(tags) if tag in known]
    if served:
        arguments += ["--backbones", ",".join(served)]
    settings = engines_of(session.server).get(known.get(session.backbone, ""))
    if settings is not None and settings.backend in ("onnx", "torch"):
        arguments += ["--backend", settings.backend, "--device", settings.device, "--threads", str(settings.threads)]
    return arguments


class _Replay:
    """One run."""

    def __init__(
        self, run: RecordingReplay, replayable: Replayable, bundle: EdgeBundle | None, console: Console
    ) -> None:
        self._run = run
        self._replayable = replayable
        self._bundle = bundle
        self._console = console
        self._refused = ""
        one_by_one = run.verify or run.step
        self._gate = OneAtATime(self._asked if run.step else lambda: True) if one_by_one else None
        codec = bundle.latent_codec() if bundle is not None and replayable.needs_codec else None
        size = bundle.edge_spec.preprocess.size if bundle is not None else 224
        self._frames = RecordedFrames(replayable, codec, input_pixels=size**2, gate=self._gate or (lambda: True))
        self._verification = Verification(replayable.results()) if run.verify else None
        self._last: FrameRecord | None = None

    def run(self, server: str) -> int:
        run, output = self._run, self._run.output
        with contextlib.ExitStack() as stack:
            sinks = open_sinks(output, stack, source=self._frames.name, notify=lambda line: _say(self._console, line))
            node = self._node(server, sinks, stack)
            stack.enter_context(stopped_by_signals(node))
            if self._gate is not None:
                stack.callback(self._gate.stop)
            headless = output.headless or run.step
            table = stack.enter_context(LiveTable(node.monitor, console=self._console, headless=headless))
            try:
                summary = node.run((lambda: None) if run.step else table.tick)
            except FrankenError:
                self._explain_refusal(server)
                raise
        report(summary, self._console)
        if output.summary is not None:
            write_summary(summary, output.summary)
        if node.failure is not None:
            self._explain_refusal(server)
            raise node.failure
        return self._verdict()

    def _node(self, server: str, sinks: list[Sink], stack: contextlib.ExitStack) -> EdgeNode:
        run, facts = self._run, self._replayable.recording.facts
        stream = run.stream
        # With --step the time is the user's: no budget.
        lossless = run.lossless or run.verify or run.step
        session = self._session(lossless)
        monitor = Monitor(RunFacts(
            source=self._frames.name, bundle_id=facts.bundle_id, encoder=self._frames.describe(), coder=facts.coder,
            operating_point=facts.operating_point, transport=server, link=stream.link or "",
            input_pixels=self._frames.input_pixels,
        ))  # fmt: skip
        recording = stack.enter_context(recorded(
            run.output, self._bundle, monitor.facts, codec_id=session.codec_id,
            say=lambda line: _say(self._console, line),
        ))  # fmt: skip
        keys = ClientKeys.from_folder(run.keys) if run.keys else None
        link = LinkModel.profile(stream.link, seed=stream.link_seed) if stream.link else None
        access = run.access.client()

        keep = to_all(sinks, session, self._frames.input_pixels)

        def on_record(record: FrameRecord) -> None:
            self._ended(record)
            keep(record)

        return EdgeNode(
            self._frames if recording is None else recording.watch(self._frames),
            self._frames,
            session,
            lambda session, on_event: connect_recorded(
                recording, server, session, self._heard(on_event), keys=keys, link=link, access=access
            ),
            settings=NodeSettings(
                lossless=lossless,
                pace=Pace(realtime=False) if run.verify or run.step else run.pace,
                budget_ms=stream.budget_ms,
                duration_s=run.output.duration,
                frames_max=run.output.frames,
            ),
            monitor=monitor,
            on_record=on_record,
            notify=lambda line: _say(self._console, line),
        )

    def _session(self, lossless: bool) -> EdgeSession:
        """Asks what was asked then, unless other tasks or another backbone are wanted."""
        stream, then = self._run.stream, self._replayable.session or SessionStart(session="")
        tasks = stream.task_names or (() if stream.backbone else tuple(then.wanted))
        return EdgeSession(
            codec_id=self._replayable.codec_id,
            client="frankenstream replay",
            tasks=tasks,
            backbone=stream.backbone or ("" if stream.tasks and not self._run.verify else then.backbone),
            top_k=then.top_k if self._run.verify or stream.top_k == 1 else stream.top_k,
            lossless=lossless,
            budget_ms=stream.budget_ms,
        )

    # --- While it runs ----------------------------------------------------------------------------------------

    def _heard(self, on_event: Callable[[EdgeEvent], None]) -> Callable[[EdgeEvent], None]:
        def heard(event: EdgeEvent) -> None:
            if isinstance(event, Connected):
                self._connected(event)
            elif isinstance(event, Closed) and event.reason == "codec":
                self._refused = event.detail
            on_event(event)

        return heard

    def _connected(self, event: Connected) -> None:
        verification, then = self._verification, self._replayable.session
        if verification is None:
            return
        reasons = ["the recording does not say how it was computed"]
        if then is not None:
            reasons = differences(then.server, event.welcome.server)
            if then.bundle_id != event.welcome.bundle_id:
                reasons.append(f"bundle {then.bundle_id[:12]} then, {event.welcome.bundle_id[:12]} now")
        verification.exact = not reasons
        if reasons:
            _say(self._console, "not the conditions of the recording, so scores are compared to 1e-3: "
                 + "; ".join(reasons))  # fmt: skip

    def _ended(self, record: FrameRecord) -> None:
        """On the transport's thread."""
        if self._verification is not None:
            self._verification.compare(record, self._frames.recorded[record.frame])
        self._last = record
        if self._gate is not None:
            self._gate.ended(record)

    def _asked(self) -> bool:
        """--step: show the last answer and wait for Enter. On the capture thread."""
        record = self._last
        if record is not None:
            self._console.print(_words(record, self._frames.recorded[record.frame]), highlight=False, markup=False)
        try:
            return self._console.input("[dim]Enter: next frame, q: end[/] ").strip().lower() not in ("q", "quit")
        except (EOFError, KeyboardInterrupt):
            return False

    # --- At the end -------------------------------------------------------------------------------------------

    def _explain_refusal(self, server: str) -> None:
        if self._refused:
            raise BundleError(
                f"{self._replayable.recording.name} was recorded with another bundle than the server at {server} has "
                f"({self._refused}): serve the one that it was recorded with"
            ) from None

    def _verdict(self) -> int:
        verification = self._verification
        if verification is None:
            return 0
        style = "green" if verification.passed else "red"
        for line in verification.report():
            self._console.print(Text(line, style=style), soft_wrap=True)
        return 0 if verification.passed else 1


def _words(record: FrameRecord, recorded_frame: int) -> str:
    """A frame's answer in one line."""
    if not record.answered:
        return f"frame {recorded_frame}  {record.state}: {record.detail}"
    labels = [f"{task} {found[0].label} {found[0].score:.0%}" for task, found in record.tasks.items() if found]
    labels += [f"{task} ({error})" for task, error in record.task_errors.items()]
    return f"frame {recorded_frame}  {record.payload_bytes} B  " + "  ".join(labels)


def _say(console: Console, line: str) -> None:
    console.print(Text(line, style="yellow"), soft_wrap=True)
