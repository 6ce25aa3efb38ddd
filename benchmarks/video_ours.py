"""Our codec on a clip, by the code that runs on an edge: `LatentPayload`, with answers that come `lag` frames late.

Axes: N frames, C H W the latent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edge_node.payload import Encoded, LatentPayload
from edge_node.records import ANSWERED, UNCHANGED, FrameRecord
from pipeline.codec import LatentCodec, Reference, ReferenceId
from pipeline.frame import Frame
from pipeline.preprocess import PreprocessSpec
from pipeline.rate_control import hardly_changed
from pipeline.wire.messages import Welcome

Float32 = NDArray[np.float32]
NAME = "frankenstream"
REPEATED_FRAMES = 30
"""An answer is repeated for so many frames at most: a second of a usual clip."""
_EPOCH = 1
_PIXELS = np.zeros((1, 1, 3), np.uint8)


@dataclass(frozen=True)
class Way:
    """One way of sending a clip. `lag` 0: every frame stands alone; else how many frames back its reference lies.

    `sticky` None: as the operating point says; `chosen`: frames that hardly changed are not sent (frame choice).
    """

    point: int
    name: str
    lag: int
    sticky: float | None
    chosen: bool = False

    @property
    def setting(self) -> str:
        how = "own sticky" if self.sticky is None else f"sticky {self.sticky:g}"
        return (self.name if self.sticky == 0 else f"{self.name}, {how}") + (", chosen" if self.chosen else "")


@dataclass(frozen=True, eq=False)
class Sent:
    """What a clip became: bytes of each frame, symbols as the server has them, int16 [N, C, H, W]. Of a frame that was
    not sent: 0 bytes, and the symbols whose answer is repeated."""

    payload_bytes: list[int]
    symbols_NCHW: NDArray[np.int16]
    referring: int
    """Frames that were coded against another."""
    unsent: int = 0
    """Frames that were not sent."""


def ways(names: Sequence[str], lags: Iterable[int], thresholds: Iterable[float | None]) -> list[Way]:
    """Every operating point alone, and at each lag with each threshold; `names` are the operating points'.

    With its own threshold each is there with and without frame choice.
    """
    alone = [Way(point, name, 0, 0.0) for point, name in enumerate(names)]
    return alone + [
        Way(point, name, lag, sticky, chosen)
        for lag, sticky, (point, name) in itertools.product(lags, thresholds, enumerate(names))
        for chosen in ((False, True) if sticky is None else (False,))
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
    answered: set[int] = set()
    payload_bytes, symbols, referring, unsent = [], [], 0, 0
    for number in range(len(latents)):
        if way.lag and number - way.lag in answered:
            payload.ended(FrameRecord(frame=number - way.lag, state=ANSWERED, layers=layers, decoded_layers=layers))
        encoded = payload.encode(Frame(number, 0.0, _PIXELS), 0.0)
        if way.chosen and _repeats(encoded, number):
            payload.ended(FrameRecord(frame=number, state=UNCHANGED))
            payload_bytes.append(0)
            symbols.append(held[ReferenceId(_EPOCH, cast(int, encoded.reference))].symbols)
            unsent += 1
            continue
        answered.add(number)
        bitstream = encoded.payload
        decoded = codec.decode(bitstream, references=held)
        reference = decoded.as_reference(epoch=_EPOCH, frame=number)
        held[reference.id] = reference
        payload_bytes.append(len(bitstream))
        symbols.append(decoded.symbols)
        referring += decoded.reference is not None
    return Sent(payload_bytes, np.stack(symbols), referring, unsent)


def _repeats(encoded: Encoded, number: int) -> bool:
    """Whether an edge repeats the reference's answer instead of sending the frame (edge_node.outcomes)."""
    if encoded.reference is None or number - encoded.reference > REPEATED_FRAMES:
        return False
    return hardly_changed(encoded.changed_share)


class _Replay:
    """Stands in for the encoder: the clip's latents, one after the other."""

    spec = PreprocessSpec()

    def __init__(self, latents: Sequence[Float32]) -> None:
        self._latents = iter(latents)

    def preprocess(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pixels

    def analyse(self, image: NDArray[np.uint8]) -> Float32:
        return next(self._latents)
