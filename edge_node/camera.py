"""Cameras: OpenCV where it is installed (V4L2, and GStreamer where it was built in), else PyAV on Linux."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_node.live import LiveSource
from edge_node.pictures import Notify
from pipeline.errors import InputError
from pipeline.frame import Picture

_CSI = (
    "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1 ! "
    "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
    "appsink drop=true max-buffers=1 sync=false"
)


def open_camera(text: str, *, size: tuple[int, int], fps: float, notify: Notify) -> LiveSource:
    """The camera `text`: a number, or /dev/videoN. Raises InputError if it is not there."""
    linux = sys.platform.startswith("linux")
    device = text if text.startswith("/dev/") else f"/dev/video{text}"
    if linux and not Path(device).exists():
        there = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
        raise InputError(
            f"no camera at {device} (cameras here: {there}): plug one in, or name a file with --source FILE"
        )
    number = int(device.removeprefix("/dev/video"))
    if importlib.util.find_spec("cv2") is not None:
        return LiveSource(f"camera {number}", fps, lambda: _camera_pictures(number, size, fps), notify)
    if not linux:
        raise InputError("cameras need OpenCV on this system: pip install 'frankenstream[camera]'")

    def connect() -> Iterator[Picture]:
        from edge_node.media import open_device

        return open_device(device, size, fps)

    return LiveSource(f"camera {number}", fps, connect, notify)


def open_gstreamer(text: str, *, size: tuple[int, int], fps: float, notify: Notify) -> LiveSource:
    """A GStreamer pipeline that ends in appsink, or csi://N for a Jetson's camera. Raises InputError."""
    pipeline, name = text, "GStreamer pipeline"
    if text.startswith("csi://"):
        sensor = text.removeprefix("csi://") or "0"
        if not sensor.isdecimal():
            raise InputError(f"source {text!r} names no CSI camera, expected a number as in csi://0")
        pipeline = _CSI.format(sensor=sensor, width=size[0], height=size[1], fps=round(fps))
        name = f"CSI camera {sensor}"
    if not has_gstreamer():
        raise InputError(
            f"{name} needs an OpenCV with GStreamer, which the wheels from PyPI lack: "
            "use the system's python3-opencv, or /dev/videoN"
        )
    return LiveSource(name, fps, lambda: _gstreamer_pictures(pipeline, name), notify)


def has_gstreamer() -> bool:
    """Whether an OpenCV with GStreamer is installed."""
    if importlib.util.find_spec("cv2") is None:
        return False
    cv2 = importlib.import_module("cv2")
    backends = [cv2.videoio_registry.getBackendName(backend) for backend in cv2.videoio_registry.getStreamBackends()]
    return "GSTREAMER" in backends


def _camera_pictures(number: int, size: tuple[int, int], fps: float) -> Iterator[Picture]:
    cv2: Any = importlib.import_module("cv2")
    backend = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY
    capture = cv2.VideoCapture(number, backend)
    if not capture.isOpened():
        raise InputError(f"camera {number} does not open: is another program using it, and may you (group video)?")
    # Motion JPEG: over USB 2 raw frames of this size do not reach 30 a second. One buffer: the newest frame counts.
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    capture.set(cv2.CAP_PROP_FPS, fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return _read_all(cv2, capture)


def _gstreamer_pictures(pipeline: str, name: str) -> Iterator[Picture]:
    cv2: Any = importlib.import_module("cv2")
    capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        raise InputError(f"{name} does not start: try it with gst-launch-1.0; it has to end in appsink and give BGR")
    return _read_all(cv2, capture)


def _read_all(cv2: Any, capture: Any) -> Iterator[Picture]:
    try:
        while True:
            good, pixels = capture.read()
            if not good:
                return
            yield cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB if pixels.ndim == 2 else cv2.COLOR_BGR2RGB), None
    finally:
        capture.release()
