"""`frankenstream demo`: the whole system on this machine, two processes over a real socket."""

from __future__ import annotations

from rich.console import Console

from edge_node import open_source
from frankenstream.config import EncoderSettings, OutputSettings, StreamSettings, picture_size
from frankenstream.edge_record import check_record
from frankenstream.edge_run import EdgeRun, check_fps, run_edge
from frankenstream.server_process import ServerProcess
from recordings.replay import Pace
from recordings.samples import named_source


def command(
    *,
    source: str = "tour",
    size: str = "",
    backend: str = "auto",
    loop: bool = False,
    lossless: bool = False,
    jpeg: int | None = None,
    encoder: EncoderSettings | None = None,
    stream: StreamSettings | None = None,
    output: OutputSettings | None = None,
) -> None:
    """Start a server and an edge on this machine and watch them work.

    Replays a recording at its own frame rate; each frame is encoded to a few kB, sent to the server over ZeroMQ and
    answered for every task. Ends with a summary that says where the time went and why frames were dropped, if any were.

    Parameters
    ----------
    source:
        A bundled sample (tour, walk), or what `frankenstream edge` takes: a video file, camera number, rtsp:// address.
    size:
        What a camera is asked for, WIDTHxHEIGHT; 640x480 if not given.
    backend:
        The server's engine: auto, onnx or torch.
    loop:
        Start the recording over when it ends.
    lossless:
        Answer every frame: the recording waits for the server.
    jpeg:
        Send JPEGs of this quality (1-95) to the unmodified backbone instead of latents, for comparison.
    """
    console = Console()
    encoder, stream = encoder or EncoderSettings(), stream or StreamSettings()
    output = output or OutputSettings()
    check_record(output)
    check_fps(stream, lossless=lossless, jpeg=jpeg)
    place = named_source(source)
    asked = picture_size(size)
    open_source(place, size=asked).close()  # what is wrong with it is told before a server is waited for
    arguments = ["--backend", backend]
    if encoder.bundle is not None:
        arguments += ["--bundle", str(encoder.bundle)]
    with ServerProcess(arguments, console=console) as server:
        run = EdgeRun(
            source=place, server=server.url, size=asked, encoder=encoder, stream=stream, output=output,
            pace=Pace(loop=loop), lossless=lossless, jpeg_quality=jpeg,
        )  # fmt: skip
        run_edge(run, console=console)
