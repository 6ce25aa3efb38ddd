"""Our codec on a clip, by the code that runs on an edge: `LatentPayload`, with answers that come `lag` frames late.

Axes: N frames, C H W the latent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_node.payload import LatentPayload
from edge_node.records import ANSWERED, FrameRecord
from pipeline.codec import LatentCodec, Reference, ReferenceId
from pipeline.frame import Frame
from pipeline.preprocess import PreprocessSpec
from pipeline.wire.messages import Welcome

Float32 = NDArray[np.float32]
NAME = "frankenstream"
_EPOCH = 1
_PIXELS = np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True)
class Way:
    """One way of sending a clip. `lag` 0: every frame stands alone; else how many frames back its reference lies."""

    point: int
    name: str
    lag: int
    sticky: float

    @property
    def setting(self) -> str:
        return f"{self.name}, sticky {self.sticky:g}" if self.sticky else self.name


@dataclass(frozen=True, eq=False)
class Sent:
    """What a clip became: bytes of each frame, symbols as the server has them, int16 [N, C, H, W]."""

    payload_bytes: list[int]
    symbols_NCHW: NDArray[np.int16]
    referring: int
    """Frames that were coded against another."""


def ways(names: Sequence[str], lags: Iterable[int], thresholds: Iterable[float]) -> list[Way]:
    """Every operating point alone, and at each lag with each threshold; `names` are the operating points'."""
    alone = [Way(point, name, 0, 0.0) for point, name in enumerate(names)]
    return alone + [
        Way(point, name, lag, sticky)
        for lag, sticky, (point, name) in itertools.product(lags, thresholds, enumerate(names))
    ]


def send(codec: LatentCodec, latents: Sequence[Float32], way: Way) -> Sent:
    """Encode a clip's latents, float32 [C, H, W] each, and decode every bitstream as a server does."""
    replay: Any = _Replay(latents)
    payload = LatentPayload(
        replay, codec, codec.spec.operating_points, operating_point=way.point, sticky_threshold=way.sticky
    )
    if way.lag:
        payload.opened(Welcome("", b"", False, "", "", "", [], 4, 0, 0, reference_window=4, reference_epoch=_EPOCH))
    layers = len(codec.spec.layers)
    held: dict[ReferenceId, Reference] = {}
    payload_bytes, symbols, referring = [], [], 0
    for number in range(len(latents)):
        if way.lag and number >= way.lag:
            payload.ended(FrameRecord(frame=number - way.lag, state=ANSWERED, layers=layers, decoded_layers=layers))
        bitstream = payload.encode(Frame(number, 0.0, _PIXELS), 0.0).payload
        decoded = codec.decode(bitstream, references=held)
        reference = decoded.as_reference(epoch=_EPOCH, frame=number)
        held[reference.id] = reference
        payload_bytes.append(len(bitstream))
        symbols.append(decoded.symbols)
        referring += decoded.reference is not None
    return Sent(payload_bytes, np.stack(symbols), referring)


class _Replay:
    """Stands in for the encoder: the clip's latents, one after the other."""

    spec = PreprocessSpec()

    def __init__(self, latents: Sequence[Float32]) -> None:
        self._latents = iter(latents)

    def preprocess(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pixels

    def analyse(self, image: NDArray[np.uint8]) -> Float32:
        return next(self._latents)
