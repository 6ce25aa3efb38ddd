"""Video codecs as rivals, by PyAV, set for low delay: each frame's packet comes out before the next frame goes in.

    x264     libx264     preset slow, tune zerolatency
    x265     libx265     preset medium, tune zerolatency
    svt-av1  libsvtav1   preset 6, low-delay prediction structure, no look-ahead

Presets are those that take about as long as our whole edge: 4.0, 4.9 and 3.7 ms a frame of 224x224 where that takes 4.2
(one core, medians over three clips). All at constant quality (crf), 4:2:0 (converted with accurate rounding and full
chroma, which swscale leaves out by default), one thread, one key frame at the start and none after. In these settings
they reorder nothing, so what a stream costs is the sum of its packets, parameter sets included.

Axes: N frames, S side of the encoder's input.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Pixels = NDArray[np.uint8]

_ACCURATE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.FULL_CHR_H_INT
)
"""swscale's flags; without them the way there and back alone costs four decibels."""
KEY_FRAME_EVERY = 10_000
"""Frames: none but the first in any clip here. A stream over a network that loses frames needs more of them."""


@dataclass(frozen=True)
class VideoCodec:
    """A codec at one quality."""

    name: str
    encoder: str
    decoder: str
    crf: int
    options: dict[str, str] = field(default_factory=dict)

    @property
    def setting(self) -> str:
        return f"crf {self.crf}"

    def run(self, squares_NSS3: Pixels, fps: float) -> tuple[list[int], Pixels]:
        """(bytes of each frame, what a receiver sees, uint8 [N, S, S, 3])."""
        with quiet():
            packets = self._encode(squares_NSS3, fps)
            seen = self._decode(packets)
        if len(seen) != len(squares_NSS3) or len(packets) != len(squares_NSS3):
            raise ConfigError(
                f"{self.name} made {len(packets)} packets and {len(seen)} frames of {len(squares_NSS3)}: it reorders"
            )
        return [packet.size for packet in packets], np.stack(seen)

    def _encode(self, squares_NSS3: Pixels, fps: float) -> list[Any]:
        rate = Fraction(fps).limit_denominator(1001)
        context: Any = av.CodecContext.create(self.encoder, "w")
        context.height, context.width = squares_NSS3.shape[1:3]
        context.pix_fmt = "yuv420p"
        context.time_base, context.framerate = 1 / rate, rate
        context.gop_size = KEY_FRAME_EVERY
        context.thread_count = 1
        context.options = {"crf": str(self.crf), **self.options}
        packets: list[Any] = []
        for number, square in enumerate(squares_NSS3):
            picture = av.VideoFrame.from_ndarray(square, format="rgb24")
            frame = picture.reformat(format="yuv420p", interpolation=_ACCURATE)
            frame.pts = number
            frame.time_base = context.time_base
            packets += context.encode(frame)
        packets += context.encode(None)
        return [packet for packet in packets if packet.size]

    def _decode(self, packets: Iterable[Any]) -> list[Pixels]:
        context: Any = av.CodecContext.create(self.decoder, "r")
        context.thread_count = 1
        frames = [frame for packet in packets for frame in context.decode(packet)]
        frames += context.decode(None)
        return [frame.reformat(format="rgb24", interpolation=_ACCURATE).to_ndarray() for frame in frames]


_X26 = (8, 12, 15, 18, 22, 26, 30, 34, 38, 42)
_KINDS: dict[str, tuple[str, str, tuple[int, ...], dict[str, str]]] = {
    "x264": ("libx264", "h264", _X26, {"preset": "slow", "tune": "zerolatency"}),
    "x265": (
        "libx265",
        "hevc",
        _X26,
        {
            "preset": "medium",
            "tune": "zerolatency",
            "x265-params": f"log-level=none:pools=none:frame-threads=1:keyint={KEY_FRAME_EVERY}",
        },
    ),
    "svt-av1": (
        "libsvtav1",
        "libdav1d",
        (8, 14, 20, 28, 35, 42, 49, 56, 63),
        {"preset": "6", "svtav1-params": "pred-struct=1:lookahead=0:lp=1"},
    ),
}
VIDEO_CODECS = tuple(_KINDS)


def video_codecs(names: Iterable[str], *, settings: int | None = None) -> tuple[list[VideoCodec], list[str]]:
    """(codecs at their qualities, what cannot run here and why). `settings`: how many qualities of each, evenly.

    Raises ConfigError for unknown names.
    """
    found: list[VideoCodec] = []
    left_out: list[str] = []
    for name in names:
        if name not in _KINDS:
            raise ConfigError(f"video codec is {name!r}, expected some of {', '.join(_KINDS)}")
        encoder, decoder, qualities, options = _KINDS[name]
        codecs = [VideoCodec(name, encoder, decoder, crf, options) for crf in spread(qualities, settings)]
        try:
            codecs[0].run(np.zeros((3, 64, 64, 3), np.uint8), 30.0)
        except (av.error.FFmpegError, ValueError, ConfigError) as error:
            left_out.append(f"{name} does not run here ({type(error).__name__}: {error}): install another PyAV")
            continue
        found += codecs
    return found, left_out


def spread(qualities: tuple[int, ...], settings: int | None) -> list[int]:
    """`settings` of the qualities, the first and the last among them."""
    if settings is None or settings >= len(qualities):
        return list(qualities)
    return [qualities[round(place)] for place in np.linspace(0, len(qualities) - 1, settings)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """x265 and SVT-AV1 write banners to stderr whatever they are told."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
