"""Sources that PyAV reads: video files, network streams, pictures."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from edge_node.live import LiveSource
from edge_node.orientation import Orientation, exif_orientation, frame_orientation
from edge_node.pictures import FPS_DEFAULT, Notify, short_name
from pipeline import limits
from pipeline.errors import InputError
from pipeline.frame import Picture

STREAM_TIMEOUT_S = 5.0
"""How long a network stream may take to open, and then to give its next packet."""
PICTURES_PER_S = 2.0
"""Pace of a folder of pictures, in pictures a second."""
DECODE_ERRORS_MAX = 250
"""Packets in a row that may fail to decode before a file counts as unreadable."""
_ENDS_EARLY_S = 0.5
_ASPECT_MAX = 4
"""Wider or higher pixels are a mistake of the file: half-width PAL, the widest in use, has 24:11."""
_ERRORS = (av.error.FFmpegError, OSError, ValueError)
_STREAM_OPTIONS = {"rtsp_transport": "tcp", "flags": "low_delay", "max_delay": "0"}


class VideoFile:
    """A video file or a file behind http(s). Frames are turned upright, in square pixels. Iterating again starts over.

    Ends with InputError, after its last good frame, where the file stops before its announced end.
    """

    live = False

    def __init__(self, place: str) -> None:
        self._place = place
        self._closed = threading.Event()
        self.name = short_name(place)
        with _opened(place, self.name, {}) as container:
            self.fps = _rate(_video_stream(container, self.name))

    def __iter__(self) -> Iterator[Picture]:
        with _opened(self._place, self.name, {}) as container:
            stream = _video_stream(container, self.name)
            stream.thread_type = "AUTO"
            announced = _Announced(stream)
            yield from self._frames(container, stream, announced)
            if not self._closed.is_set():
                announced.check(self.name)

    def close(self) -> None:
        self._closed.set()

    def _frames(self, container: Any, stream: Any, announced: _Announced) -> Iterator[Picture]:
        failures, aspect, orientation = 0, _aspect(stream), None
        for packet in _packets(container, stream, self.name):
            announced.saw(packet)
            try:
                frames = packet.decode()
            except _ERRORS as error:
                failures += 1
                if failures > DECODE_ERRORS_MAX:
                    raise InputError(
                        f"{self.name} does not decode: {failures} errors in a row, last: {_reason(error)}"
                    ) from None
                continue
            for frame in frames:
                failures = 0
                announced.gave(frame)
                orientation = orientation or frame_orientation(frame)
                yield _upright(frame, orientation, aspect=aspect), frame.time
                if self._closed.is_set():
                    return


class _Announced:
    """What a file says of its length against what it gave: tells a file that stops mid-frame from one that ends."""

    def __init__(self, stream: Any) -> None:
        self._frames = int(stream.frames)
        self._end_s = _duration_s(stream)
        self._packets = 0
        self._cut = False
        self._given = 0
        self._given_s = self._packet_s = 0.0

    def saw(self, packet: Any) -> None:
        if packet.size:
            self._packets += 1
            self._packet_s = float((packet.duration or 0) * packet.time_base)
            self._cut = bool(packet.is_corrupt)  # on the last packet: the container knew it to be longer

    def gave(self, frame: Any) -> None:
        self._given += 1
        if frame.time is not None:
            self._given_s = frame.time + self._packet_s  # a slow frame stays a while

    def check(self, name: str) -> None:
        """Raise InputError if the file gave no frame at all, or stopped before its announced end."""
        if self._given == 0:
            raise InputError(
                f"{name} has a video stream, but no frame of it decodes: the file is damaged, copy it again"
            )
        if self._packets < self._frames:
            missing = f"{self._given} frames of {self._frames}"
        elif not self._frames and self._end_s is not None and self._given_s < self._end_s - _ENDS_EARLY_S:
            missing = f"{self._given_s:.1f} s of {self._end_s:.1f} s"
        elif self._cut:
            missing = f"{self._given} frames"
        else:
            return
        raise InputError(f"{name} ends mid-frame after {missing}: the file was cut off, copy it again")


def open_stream(url: str, *, fps: float, notify: Notify) -> LiveSource:
    """A live network stream; reconnects when it is lost. Raises InputError if it cannot be opened now."""
    name = short_name(url)
    return LiveSource(name, fps, lambda: _stream_pictures(url, name), notify)


def _stream_pictures(url: str, name: str) -> Iterator[Picture]:
    """Pictures of one connection; opens before it returns."""
    container = _opened(url, name, _STREAM_OPTIONS, timeout=(STREAM_TIMEOUT_S, STREAM_TIMEOUT_S))
    return _live_pictures(container, name)


def open_device(device: str, size: tuple[int, int], fps: float) -> Iterator[Picture]:
    """Pictures of a V4L2 device without OpenCV; opens before it returns. Raises InputError."""
    options = {"video_size": f"{size[0]}x{size[1]}", "framerate": f"{fps:g}"}
    try:
        container = _opened(device, device, options, form="v4l2")
    except InputError:
        container = _opened(device, device, {}, form="v4l2")  # it may not have that size: take what it has
    return _live_pictures(container, device)


def _live_pictures(container: Any, name: str) -> Iterator[Picture]:
    """Pictures of an opened stream or device, which is closed after them."""
    try:
        stream = _video_stream(container, name)
        stream.thread_type = "SLICE"  # frame threads would hold frames back
        aspect = _aspect(stream)
    except BaseException:
        container.close()
        raise

    def pictures() -> Iterator[Picture]:
        orientation = None
        with closing(container):
            for packet in _packets(container, stream, name):
                try:
                    frames = packet.decode()
                except _ERRORS:  # a damaged packet: the next whole picture mends it
                    continue
                for frame in frames:
                    orientation = orientation or frame_orientation(frame)
                    yield _upright(frame, orientation, aspect=aspect), None

    return pictures()


class Pictures:
    """Picture files, one after another, PICTURES_PER_S a second. A broken one is named and left out.

    Raises InputError, when made, if the first good picture cannot be found.
    """

    live = False

    def __init__(self, name: str, paths: Sequence[Path], *, notify: Notify) -> None:
        self.name = name
        self.fps = PICTURES_PER_S
        self._paths = list(paths)
        self._notify = notify
        self._closed = threading.Event()
        if len(self._paths) == 1:
            decode_picture(self._paths[0])

    def __iter__(self) -> Iterator[Picture]:
        numbers = itertools.count()
        failure = ""
        for path in self._paths:
            if self._closed.is_set():
                return
            try:
                pixels = decode_picture(path)
            except InputError as error:
                failure = str(error)
                self._notify(f"left out: {failure}")
                continue
            yield pixels, next(numbers) / self.fps
        if next(numbers) == 0:
            raise InputError(f"none of the {len(self._paths)} pictures of {self.name} can be read; the last: {failure}")

    def close(self) -> None:
        self._closed.set()


def decode_picture(path: Path) -> NDArray[np.uint8]:
    """One picture file as RGB (H, W, 3), uint8, turned and mirrored as its EXIF data say. Raises InputError."""
    with _opened(str(path), path.name, {}) as container:
        stream = _video_stream(container, path.name)
        try:
            frame = next(container.decode(stream), None)
        except _ERRORS as error:
            raise InputError(
                f"picture {path.name} does not decode: {_reason(error)}: it is damaged, copy it again"
            ) from None
        if frame is None:
            raise InputError(f"picture {path.name} is cut off or damaged: nothing of it decodes, copy it again")
        return _upright(frame, exif_orientation(path.read_bytes()) or frame_orientation(frame))


def _opened(
    place: str,
    name: str,
    options: dict[str, str],
    *,
    form: str | None = None,
    timeout: tuple[float, float] | None = None,
) -> Any:
    try:
        return av.open(place, format=form, options=options, timeout=timeout)
    except _ERRORS as error:
        raise InputError(
            f"{name} cannot be opened as video or picture: {_reason(error)}: check the file or address"
        ) from None


def _video_stream(container: Any, name: str) -> Any:
    """The best video stream. Raises InputError where there is none or it is larger than IMAGE_PIXELS_MAX."""
    stream = container.streams.best("video")
    if stream is None:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        raise InputError(f"{name} has no video stream (it holds {', '.join(kinds)}): name a file with pictures in it")
    if stream.codec_context is None:
        raise InputError(f"{name} has a video stream in a format that this PyAV cannot decode: convert it to H.264")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > limits.IMAGE_PIXELS_MAX:
        raise InputError(f"{name} is {width}x{height}, limit {limits.IMAGE_PIXELS_MAX} pixels: scale it down first")
    return stream


def _packets(container: Any, stream: Any, name: str) -> Iterator[Any]:
    """Packets up to the end or to where the container breaks off; a lost connection raises InputError."""
    try:
        yield from container.demux(stream)
    except av.error.EOFError:
        return
    except _ERRORS as error:
        raise InputError(f"{name} broke off: {_reason(error)}") from None


def _aspect(stream: Any) -> Fraction:
    """Width of a pixel by its height; 1 where the stream does not say, or talks nonsense."""
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return aspect if 1 / _ASPECT_MAX <= aspect <= _ASPECT_MAX else Fraction(1)


def _upright(frame: Any, orientation: Orientation, *, aspect: Fraction = Fraction(1)) -> NDArray[np.uint8]:
    """RGB in square pixels, turned and mirrored."""
    size = {"width": round(frame.width * max(aspect, 1)), "height": round(frame.height / min(aspect, 1))}
    if _transparent(frame.format):
        pixels = _over_white(frame.to_ndarray(format="rgba", **size))
    else:
        pixels = frame.to_ndarray(format="rgb24", **size)
    return orientation.apply(pixels)


def _transparent(form: Any) -> bool:
    """Whether pixels of this format may let through what is behind them; a palette may hold such colours."""
    return form.has_palette or any(component.is_alpha for component in form.components)


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB over white, as the server lays pictures (pipeline.datasets.images)."""
    alpha = rgba[:, :, 3:].astype(np.uint16)
    mixed = rgba[:, :, :3] * alpha + 255 * (255 - alpha)  # 255 * 255 just fits in 16 bits
    return ((mixed + 127) // 255).astype(np.uint8)


def _rate(stream: Any) -> float:
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate if 0.1 <= rate <= 1000 else FPS_DEFAULT


def _duration_s(stream: Any) -> float | None:
    """What the container says of this stream's length: its own field, or Matroska's DURATION tag. None: nothing."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else None


def _reason(error: BaseException) -> str:
    if isinstance(error, av.error.ExitError):  # how PyAV's timeout shows
        return f"no answer within {STREAM_TIMEOUT_S:g} s"
    return str(getattr(error, "strerror", None) or error).splitlines()[0].rstrip(".").lower()
