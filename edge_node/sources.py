"""Where frames come from, by one text: a camera, a stream, a video file, a picture or a folder of pictures.

    0, 1, /dev/video2          camera (OpenCV where installed, else PyAV)         live
    csi://0                    camera on a Jetson's CSI port (OpenCV with GStreamer)
    v4l2src ! … ! appsink      any GStreamer pipeline (the same)                  live
    rtsp://…, udp://…, srt://… network stream (PyAV)                              live
    clip.mp4, http://…/a.mp4   video file (PyAV)
    photo.jpg, photos/         one picture, or a folder of them in order of name

A source is opened once, so that what is wrong with it is said before anything else starts, and then iterated. Files
start over when iterated again. A live source that is lost waits for its return and says so; it ends only when closed.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_node.pictures import FPS_DEFAULT, Notify, Source, short_name
from pipeline.errors import ConfigError, InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".ts", ".gif", ".mpg", ".mpeg", ".flv", ".ogv")
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp")
FILE_SCHEMES = ("http", "https", "file")
SIZE_DEFAULT = (640, 480)
"""What a camera is asked for: width and height. The encoder sees a square of some 224."""


def open_source(
    text: str | int,
    *,
    notify: Notify = lambda line: None,
    size: tuple[int, int] | None = None,
    fps: float = FPS_DEFAULT,
) -> Source:
    """Open what `text` names. `size` (width, height; None: SIZE_DEFAULT) and `fps` are what a camera is asked for.

    `notify` hears of a live source that is lost or back, and of pictures that were skipped. Raises InputError, and
    ConfigError for the size of what is no camera.
    """
    text = str(text).strip()
    if not text:
        raise InputError(
            "no source is named: give a camera number, a video file, a folder of pictures or an rtsp:// address"
        )
    device = text.isdecimal() or re.fullmatch(r"/dev/video\d+", text)
    if size is not None and not device and not text.startswith("csi://"):
        raise ConfigError(f"only a camera can be asked for a size, {short_name(text)!r} has its own: leave --size out")
    if device:
        from edge_node.camera import open_camera

        return open_camera(text, size=size or SIZE_DEFAULT, fps=fps, notify=notify)
    if text.startswith("csi://") or re.search(r"\s!\s", text):
        from edge_node.camera import open_gstreamer

        return open_gstreamer(text, size=size or SIZE_DEFAULT, fps=fps, notify=notify)
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme in LIVE_SCHEMES:
        from edge_node.media import open_stream

        return open_stream(text, fps=fps, notify=notify)
    if scheme and scheme not in FILE_SCHEMES:
        known = ", ".join((*LIVE_SCHEMES, *FILE_SCHEMES, "csi"))
        raise InputError(f"source {short_name(text)!r} has scheme {scheme!r}, known are {known}: check the address")
    if scheme in ("http", "https"):
        from edge_node.media import VideoFile

        return VideoFile(text)
    return _open_path(Path(text.removeprefix("file://")).expanduser(), notify)


def _open_path(path: Path, notify: Notify) -> Source:
    from edge_node.media import Pictures, VideoFile

    if not path.exists():
        raise InputError(f"source {str(path)!r} does not exist: check the path, or name a camera by its number")
    if path.is_dir():
        return Pictures(path.name or str(path), _pictures_in(path), notify=notify)
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes): record or copy it again")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Pictures(path.name, [path], notify=notify)
    return VideoFile(str(path))


def _pictures_in(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if pictures:
        return pictures
    videos = [path.name for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    hint = f"name one of its videos, e.g. {folder / videos[0]}" if videos else "name a folder that has some"
    raise InputError(f"folder {str(folder)!r} has no pictures ({', '.join(IMAGE_SUFFIXES[:4])}, …): {hint}")


def read_picture(path: str | Path) -> NDArray[np.uint8]:
    """One picture file as RGB (H, W, 3), uint8, turned upright. Raises InputError."""
    from edge_node.media import decode_picture

    return decode_picture(Path(path))
