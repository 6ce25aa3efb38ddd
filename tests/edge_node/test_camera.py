"""Cameras through OpenCV, with an OpenCV made for the test."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_node import camera
from edge_node.sources import open_source
from pipeline.errors import InputError


class Capture:
    """cv2.VideoCapture: gives `frames` pictures in BGR, then none."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.settings: dict[int, float] = {}
        self.released = False

    def isOpened(self) -> bool:
        return self.frames > 0

    def set(self, key: int, value: float) -> None:
        self.settings[key] = value

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.frames == 0:
            return False, None
        self.frames -= 1
        pixels = np.zeros((4, 6, 3), np.uint8)
        pixels[:, :, 0] = 200  # blue first
        return True, pixels

    def release(self) -> None:
        self.released = True


@pytest.fixture
def opencv(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An OpenCV whose captures are in `made`, with a device file for camera 0."""
    made: list[Capture] = []
    frames = [3, 3]

    def video_capture(what: Any, backend: int) -> Capture:
        made.append(Capture(frames.pop(0) if frames else 0))
        return made[-1]

    fake = SimpleNamespace(
        VideoCapture=video_capture, VideoWriter_fourcc=lambda *letters: 1, CAP_V4L2=200, CAP_ANY=0, CAP_GSTREAMER=1800,
        CAP_PROP_FOURCC=6, CAP_PROP_FRAME_WIDTH=3, CAP_PROP_FRAME_HEIGHT=4, CAP_PROP_FPS=5, CAP_PROP_BUFFERSIZE=38,
        COLOR_BGR2RGB=4, COLOR_GRAY2RGB=8, cvtColor=lambda pixels, code: pixels[:, :, ::-1], made=made, frames=frames,
        videoio_registry=SimpleNamespace(getStreamBackends=lambda: [1800], getBackendName=lambda backend: "GSTREAMER"),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cv2", fake)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(Path, "exists", lambda path: True)
    return fake


def test_a_camera_gives_rgb_and_is_asked_for_size_and_rate(opencv: SimpleNamespace) -> None:
    """One buffer only: the newest frame counts."""
    source = open_source("0", size=(1280, 720), fps=25)
    pixels, media_time = next(iter(source))
    assert pixels[0, 0].tolist() == [0, 0, 200]
    assert media_time is None
    assert opencv.made[0].settings == {6: 1, 3: 1280, 4: 720, 5: 25, 38: 1}
    assert (source.name, source.live) == ("camera 0", True)


def test_a_camera_that_vanishes_is_opened_again(opencv: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first capture is released, what happened is said."""
    monkeypatch.setattr("edge_node.live.RETRY_S", (0.0,))
    lines: list[str] = []
    source = open_source("0", notify=lines.append)
    taken = 0
    for _ in source:
        taken += 1
        if taken == 5:
            source.close()
    assert taken == 5
    assert opencv.made[0].released
    assert [line.split(" (")[0].split(" after")[0] for line in lines] == ["camera 0 is lost", "camera 0 is back"]


def test_a_camera_in_use_says_what_to_look_at(opencv: SimpleNamespace) -> None:
    """Another program, or no permission."""
    opencv.frames[:] = [0]
    with pytest.raises(InputError, match="camera 0 does not open: is another program using it"):
        open_source("0")


def test_a_csi_camera_becomes_a_gstreamer_pipeline(opencv: SimpleNamespace) -> None:
    """Where OpenCV has GStreamer."""
    source = open_source("csi://1")
    assert source.name == "CSI camera 1"
    assert next(iter(source))[0].shape == (4, 6, 3)


def test_gstreamer_without_support_says_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheels from PyPI lack it."""
    monkeypatch.setattr(camera, "has_gstreamer", lambda: False)
    with pytest.raises(InputError, match="GStreamer pipeline needs an OpenCV with GStreamer"):
        open_source("videotestsrc ! videoconvert ! appsink")


def test_without_opencv_linux_uses_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not there fails in PyAV, with one line."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(InputError, match=r"/dev/video61 cannot be opened"):
        open_source("61")
