"""`frankenstream replay`: videos through the live path."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from frankenstream.config import AccessSettings, EncoderSettings, OutputSettings, StreamSettings
from frankenstream.edge_record import check_record
from frankenstream.edge_run import EdgeRun, check_fps, run_edge
from frankenstream.server_process import ServerProcess
from pipeline.errors import ConfigError
from recordings.reader import is_recording
from recordings.replay import Pace
from recordings.samples import named_source


def command(
    source: str,
    *,
    server: str = "",
    realtime: Annotated[bool, Parameter(negative="")] = False,
    fast: Annotated[bool, Parameter(negative="")] = False,
    loop: bool = False,
    lossless: bool = False,
    step: Annotated[bool, Parameter(negative="")] = False,
    verify: Annotated[bool, Parameter(negative="")] = False,
    jpeg: int | None = None,
    keys: Path | None = None,
    encoder: EncoderSettings | None = None,
    stream: StreamSettings | None = None,
    output: OutputSettings | None = None,
    access: AccessSettings | None = None,
) -> int:
    """Replay a video through encoder, wire and server, as if a camera had seen it now; or a recording without encoder.

    A recording (.mcap) is sent as it was recorded, to the same tasks on the same backbone, or with --tasks and
    --backbone to others.

    Parameters
    ----------
    source:
        Recording (.mcap), video file, folder of pictures, or the name of a bundled sample (tour, walk).
    server:
        URL of a running server; without it one is started for the run.
    realtime:
        At the recording's own frame rate, frames that come too late are dropped (the default).
    fast:
        As fast as frames can be read, newest frame first.
    loop:
        Start over at the end.
    lossless:
        Every frame is answered: the source waits for the server. With --fast: as fast as possible without losing any.
    step:
        Recordings: the next frame when Enter is pressed.
    verify:
        Recordings: compare the answers with those that were recorded, bit for bit under the same conditions; exit code
        1 if they differ.
    jpeg:
        Send JPEGs of this quality (1-95) to the unmodified backbone instead of latents.
    keys:
        Folder with edge.key, edge.secret and server.key.
    """
    if realtime and fast:
        raise ConfigError("--realtime and --fast contradict each other: give one of them")
    console = Console()
    encoder, stream, output = encoder or EncoderSettings(), stream or StreamSettings(), output or OutputSettings()
    check_record(output)
    if is_recording(source):
        from frankenstream.recording_replay import RecordingReplay, replay_recording

        if jpeg is not None:
            raise ConfigError("--jpeg is for videos: a recording holds what was sent, not pictures")
        replayed = RecordingReplay(
            recording=Path(source), server=server, pace=Pace(realtime=not fast, loop=loop), lossless=lossless,
            step=step, verify=verify, encoder=encoder, stream=stream,
            output=output, keys=keys, access=access or AccessSettings(),
        )  # fmt: skip
        return replay_recording(replayed, console=console)
    if step or verify:
        raise ConfigError(f"--step and --verify are for recordings (.mcap), {source!r} is none: leave them out")
    check_fps(stream, lossless=lossless, jpeg=jpeg)
    with contextlib.ExitStack() as stack:
        if not server:
            arguments = ["--bundle", str(encoder.bundle)] if encoder.bundle is not None else []
            server = stack.enter_context(ServerProcess(arguments, console=console)).url
        run = EdgeRun(
            source=named_source(source), server=server, encoder=encoder, stream=stream, output=output,
            pace=Pace(realtime=not fast, loop=loop), lossless=lossless,
            jpeg_quality=jpeg, keys=keys, access=access or AccessSettings(),
        )  # fmt: skip
        run_edge(run, console=console)
    return 0
