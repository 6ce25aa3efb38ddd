"""`frankenstream edge`: the edge role."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from frankenstream.config import (
    DEFAULT_URL,
    AccessSettings,
    EncoderSettings,
    OutputSettings,
    StreamSettings,
    picture_size,
)
from frankenstream.edge_run import EdgeRun, run_edge
from recordings.replay import Pace
from recordings.samples import named_source


def command(
    source: str = "0",
    *,
    server: str = DEFAULT_URL,
    size: str = "",
    lossless: bool = False,
    jpeg: int | None = None,
    keys: Path | None = None,
    encoder: EncoderSettings | None = None,
    stream: StreamSettings | None = None,
    output: OutputSettings | None = None,
    access: AccessSettings | None = None,
) -> None:
    """Stream a camera, video, folder of pictures or network stream to a server.

    Live sources always send the newest frame. Files play at their own pace; see `frankenstream replay` for others.

    Parameters
    ----------
    source:
        Camera number or /dev/videoN, video file, picture or folder of pictures, rtsp:// address, csi://N, or a
        GStreamer pipeline. `tour` and `walk` are sample clips.
    server:
        URL of the server: tcp://HOST:PORT, ipc://PATH, ws(s)://HOST:PORT or webrtc+http(s)://HOST:PORT.
    size:
        What a camera is asked for, WIDTHxHEIGHT; 640x480 if not given.
    lossless:
        Every frame is answered: the source waits for the server.
    jpeg:
        Send JPEGs of this quality (1-95) to the unmodified backbone instead of latents, for comparison.
    keys:
        Folder with edge.key, edge.secret and server.key (`frankenstream keys admit`).
    """
    run = EdgeRun(
        source=named_source(source),
        server=server,
        size=picture_size(size),
        encoder=encoder or EncoderSettings(),
        stream=stream or StreamSettings(),
        output=output or OutputSettings(),
        pace=Pace(),
        lossless=lossless,
        jpeg_quality=jpeg,
        keys=keys,
        access=access or AccessSettings(),
    )
    run_edge(run, console=Console())
