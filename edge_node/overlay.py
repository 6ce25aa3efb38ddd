"""Labels drawn onto frames: for the `--show` window and for `--save out.mp4`.

Text is drawn with Pillow, whose wheel brings a scalable font (extra `camera` or `show`); windows are OpenCV's (extra
`show`); videos are PyAV's. The labels are those of the newest answer, and their age says how old that answer is:
time from the capture of the frame that they belong to, until the frame that they are drawn on.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_node.records import FrameRecord
from edge_node.summary import Rolling
from pipeline.errors import ConfigError, InputError
from pipeline.frame import Frame
from pipeline.preprocess import Box

OLD_MS = 500.0
"""Labels older than this are drawn in grey, in milliseconds."""

_LINES = 22
"""Height of a line of text is this part of the frame's height, within what can be read."""


class Overlay:
    """Draws onto copies of frames. Raises ConfigError where Pillow is not installed."""

    def __init__(self) -> None:
        try:
            self._image: Any = importlib.import_module("PIL.Image")
            self._draw: Any = importlib.import_module("PIL.ImageDraw")
            self._font: Any = importlib.import_module("PIL.ImageFont")
        except ImportError:
            raise ConfigError("drawing labels needs Pillow: pip install 'frankenstream[show]' (or [camera])") from None
        self._fonts: dict[int, Any] = {}

    def draw(self, frame: Frame, answer: FrameRecord | None, box: Box, rolling: Rolling) -> NDArray[np.uint8]:
        """RGB (H, W, 3), uint8: `frame` with the encoder's square, labels with score and age, and figures."""
        image = self._image.fromarray(frame.pixels)
        height = min(max(frame.height // _LINES, 10), 40)
        font = self._sized(height)
        draw = self._draw.Draw(image, "RGBA")
        edge = max(1, height // 10)
        draw.rectangle(
            (box.left, box.top, box.left + box.width - 1, box.top + box.height - 1),
            outline=(255, 255, 255, 140),
            width=edge,
        )
        self._labels(draw, font, height, frame, answer)
        self._strip(draw, font, height, frame, rolling)
        return np.asarray(image)

    def _labels(self, draw: Any, font: Any, height: int, frame: Frame, answer: FrameRecord | None) -> None:
        if answer is None:
            lines, colour = ["waiting for the first answer"], (200, 200, 200, 255)
        else:
            age_ms = (frame.captured_at - answer.captured_at) * 1e3
            lines = [f"{task}: {top[0].label} {top[0].score:.0%}" for task, top in answer.tasks.items() if top]
            lines += [f"{task}: {error}" for task, error in answer.task_errors.items()]
            lines.append(f"age {max(age_ms, 0.0):.0f} ms")
            colour = (255, 255, 255, 255) if age_ms <= OLD_MS else (160, 160, 160, 255)
        step = height + height // 4
        width = max(draw.textlength(line, font=font) for line in lines)
        draw.rectangle((0, 0, width + height, step * len(lines) + height // 2), fill=(0, 0, 0, 130))
        for row, line in enumerate(lines):
            draw.text((height // 2, height // 4 + row * step), line, font=font, fill=colour)

    def _strip(self, draw: Any, font: Any, height: int, frame: Frame, rolling: Rolling) -> None:
        """Bottom line: rate and time."""
        text = (
            f"{rolling.kbps:.0f} kbit/s   {rolling.payload_bytes / 1000:.1f} kB   "
            f"{rolling.capture_to_result_ms:.0f} ms   {rolling.answered_fps:.0f}/s"
        )
        top = frame.height - height - height // 2
        draw.rectangle((0, top, frame.width, frame.height), fill=(0, 0, 0, 130))
        draw.text((height // 2, top + height // 8), text, font=font, fill=(255, 255, 255, 255))

    def _sized(self, height: int) -> Any:
        font = self._fonts.get(height)
        if font is None:
            font = self._fonts[height] = self._font.load_default(height)
        return font


class Window:
    """A window on this machine's screen. Raises ConfigError where there is no OpenCV with windows, or no display."""

    def __init__(self, title: str) -> None:
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ConfigError("--show needs a display, and DISPLAY is not set: use --save out.mp4, or `ssh -X`")
        try:
            self._cv2: Any = importlib.import_module("cv2")
        except ImportError:
            raise ConfigError("--show needs OpenCV with windows: pip install 'frankenstream[show]'") from None
        self._title = title
        try:
            self._cv2.namedWindow(title, self._cv2.WINDOW_NORMAL)
        except self._cv2.error:
            raise ConfigError(
                "--show needs an OpenCV with windows, this one is headless: pip uninstall opencv-python-headless, "
                "then pip install 'frankenstream[show]'"
            ) from None

    def show(self, pixels: NDArray[np.uint8]) -> bool:
        """Draw RGB pixels. False: the user closed the window, or pressed q or Escape."""
        self._cv2.imshow(self._title, self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2BGR))
        key = self._cv2.waitKey(1) & 0xFF
        return key not in (ord("q"), 27) and self._cv2.getWindowProperty(self._title, self._cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        self._cv2.destroyWindow(self._title)


class VideoWriter:
    """Writes frames to an .mp4 (H.264) with their own times. Use as a context manager.

    Raises ConfigError if the file cannot be made, InputError, once, if it cannot be written on: it is closed then.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        import av
        import av.error

        self._path = Path(path)
        self._rate = Fraction(max(fps, 1.0)).limit_denominator(1000)
        self._errors = (av.error.FFmpegError, OSError, ValueError)
        self._frame: Any = av.VideoFrame
        self._first = 0.0
        self._last_pts = -1
        self._closed = False
        try:
            self._path.touch()  # PyAV would only notice with the first frame
            self._container: Any = av.open(str(path), "w")
            self._stream: Any = self._container.add_stream("libx264", rate=self._rate)  # .webm and others refuse it
        except self._errors as error:
            raise ConfigError(
                f"--save {str(path)!r} cannot be written: {error}: choose another path, ending in .mp4"
            ) from None

    def write(self, pixels: NDArray[np.uint8], at: float) -> None:
        """Add RGB pixels (H, W, 3), uint8, shown from `at` (monotonic seconds) on. The first one sets the size."""
        if self._closed:
            return
        if self._last_pts < 0:
            self._begin(pixels, at)
        width, height = self._stream.width, self._stream.height
        pts = max(round((at - self._first) * 1000), self._last_pts + 1)
        frame = self._frame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if (frame.width, frame.height) != (width, height):
            frame = frame.reformat(width=width, height=height)
        frame.pts, frame.time_base = pts, Fraction(1, 1000)
        self._last_pts = pts
        try:
            self._container.mux(self._stream.encode(frame))
        except self._errors as error:
            self._closed = True
            with contextlib.suppress(*self._errors):  # what is there stays
                self._container.close()
            raise self._failure(error) from None

    def close(self) -> None:
        """Write what is left. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._last_pts >= 0:
                self._container.mux(self._stream.encode())
            self._container.close()
        except self._errors as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or error
        return InputError(f"the video {str(self._path)!r} ends before its time ({reason}): later frames are not in it")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self, pixels: NDArray[np.uint8], at: float) -> None:
        height, width = pixels.shape[:2]
        self._first = at
        self._stream.width, self._stream.height = (
            max(width // 2 * 2, 2),
            max(height // 2 * 2, 2),
        )  # 4:2:0 wants even sides
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, 1000)
        self._stream.options = {"preset": "ultrafast", "crf": "23"}
