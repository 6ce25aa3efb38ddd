"""`frankenstream replay`: videos through the live path."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from frankenstream.config import EncoderSettings, OutputSettings, StreamSettings
from frankenstream.edge_run import EdgeRun, run_edge
from frankenstream.server_process import ServerProcess
from pipeline.errors import ConfigError
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
    jpeg: int | None = None,
    keys: Path | None = None,
    encoder: EncoderSettings | None = None,
    stream: StreamSettings | None = None,
    output: OutputSettings | None = None,
) -> None:
    """Replay a video through encoder, wire and server, as if a camera had seen it now.

    Parameters
    ----------
    source:
        Video file, folder of pictures, or the name of a bundled sample (tour, walk).
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
    jpeg:
        Send JPEGs of this quality (1-95) to the unmodified backbone instead of latents.
    keys:
        Folder with edge.key, edge.secret and server.key.
    """
    if realtime and fast:
        raise ConfigError("--realtime and --fast contradict each other: give one of them")
    console = Console()
    encoder = encoder or EncoderSettings()
    with contextlib.ExitStack() as stack:
        if not server:
            arguments = ["--bundle", str(encoder.bundle)] if encoder.bundle is not None else []
            server = stack.enter_context(ServerProcess(arguments, console=console)).url
        run = EdgeRun(
            source=named_source(source), server=server, encoder=encoder, stream=stream or StreamSettings(),
            output=output or OutputSettings(), pace=Pace(realtime=not fast, loop=loop), lossless=lossless,
            jpeg_quality=jpeg, keys=keys,
        )  # fmt: skip
        run_edge(run, console=console)
