"""Draws the newest frame with the newest answer while a node runs: into a window, into a video file, or both."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from edge_node.node import EdgeNode
from edge_node.overlay import Overlay, VideoWriter, Window
from pipeline.clock import monotonic
from pipeline.errors import FrankenError
from pipeline.preprocess import PreprocessSpec

_LOOK_S = 0.1


@contextlib.contextmanager
def presenters(node: EdgeNode, spec: PreprocessSpec, *, save: Path | None, show: bool, fps: float) -> Iterator[None]:
    """Present what `node` sees while the block runs, on a thread of its own: drawing never holds up the stream.

    Closing the window ends the run; a video that cannot be written on does not. Raises ConfigError at once where a
    window or the file cannot be opened.
    """
    if save is None and not show:
        yield
        return
    overlay = Overlay()
    with contextlib.ExitStack() as stack:
        window = Window("FrankenStream") if show else None
        if window is not None:
            stack.callback(window.close)
        writer = VideoWriter(save, fps) if save is not None else None
        done = threading.Event()
        thread = threading.Thread(
            target=_present, args=(node, spec, overlay, window, writer, done), name="present", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            if writer is not None:
                try:
                    writer.close()
                except FrankenError as error:
                    node.say(str(error))


def _present(
    node: EdgeNode,
    spec: PreprocessSpec,
    overlay: Overlay,
    window: Window | None,
    writer: VideoWriter | None,
    done: threading.Event,
) -> None:
    shown = presented = -1
    while not done.is_set():
        newest = node.view.newer(shown, _LOOK_S)
        if newest is None:
            continue
        frame, answer = newest
        shown = frame.number
        pixels = overlay.draw(frame, answer, spec.box(frame.height, frame.width), node.monitor.rolling())
        if writer is not None:
            try:
                writer.write(pixels, frame.captured_at)
            except FrankenError as error:
                node.say(str(error))
        if window is not None and not window.show(pixels):
            node.stop()
        if answer is not None and answer.frame != presented:
            presented = answer.frame
            came_at = answer.captured_at + answer.capture_to_result_ms / 1e3
            node.monitor.presented(answer.frame, (monotonic() - came_at) * 1e3)
