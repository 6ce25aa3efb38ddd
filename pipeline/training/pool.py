"""A pool of crops that come round again, with what the frozen backbones say about them.

The backbones are frozen and the crops are drawn once, so the teacher's side of the loss need not be computed twice:
on a CPU, decoding, cropping and the teacher are 35 to 40 % of a step. The codec is far too small to learn a few ten
thousand crops by heart (1.9 M parameters).

Memory, for a crop of 160 x 160: 77 kB of pixels, and in bfloat16 32 kB for the cut feature of an EfficientNet-Lite, 2.5
for pooled features, 65 for its stages (GHND), 0.4 for a saliency map.

Axes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.training.data import CropSampler
from pipeline.training.recipes import Part
from pipeline.training.teacher import Answer

_AHEAD = 8
_CPU = torch.device("cpu")


@dataclass
class PooledBatch:
    """One batch of the pool: ``pixels_BCHW`` uint8, and what was computed so far: answers by backbone tag, and the
    feature of the encoder's trunk while that is frozen.
    """

    pixels_BCHW: Tensor
    answers: dict[str, Answer] = field(default_factory=dict)
    trunk_BCHW: Tensor | None = None


class CropPool:
    """``batches`` batches for one crop size at a time; another size empties the pool.

    On another ``device`` than the CPU the next batches are cropped in threads meanwhile, so that it need not wait.
    """

    def __init__(self, sampler: CropSampler, *, batches: int, device: torch.device = _CPU) -> None:
        self._sampler = sampler
        self._batches = batches
        self._device = device
        self._shape: tuple[int, int] = (0, 0)
        self._pool: dict[int, PooledBatch] = {}
        self._coming: dict[int, Future[Tensor]] = {}
        self._threads = ThreadPoolExecutor(_AHEAD) if device.type != "cpu" else None

    def batch(self, number: int, *, size: int, count: int, stride: int = 1) -> PooledBatch:
        """Batch ``number``; the same crops again every ``batches`` numbers. ``number + stride`` is what comes next."""
        if self._shape != (size, count):
            self._shape, self._pool, self._coming = (size, count), {}, {}
        if self._threads is not None:
            for later in range(number, number + _AHEAD * stride, stride):
                self._order(later % self._batches)
        place = number % self._batches
        if place not in self._pool:
            coming = self._coming.pop(place, None)
            pixels_BCHW = self._pixels(place, size, count) if coming is None else coming.result()
            self._pool[place] = PooledBatch(pixels_BCHW.to(self._device))
        return self._pool[place]

    def forget_trunk(self) -> None:
        """The encoder's trunk has changed."""
        for batch in self._pool.values():
            batch.trunk_BCHW = None

    def _order(self, place: int) -> None:
        if self._threads is not None and place not in self._pool and place not in self._coming:
            self._coming[place] = self._threads.submit(self._pixels, place, *self._shape)

    def _pixels(self, place: int, size: int, count: int) -> Tensor:
        image_BCHW = self._sampler.batch(place, size=size, count=count)
        return (image_BCHW * 255).round_().to(torch.uint8)


def shuffled(
    batch: PooledBatch, answer: Answer, seen_BCHW: Tensor, generator: torch.Generator
) -> tuple[Tensor, Answer]:
    """(what the encoder sees of the batch, answer) in a new order, so that frames meet every operating point."""
    order_B = torch.randperm(len(batch.pixels_BCHW), generator=generator).to(batch.pixels_BCHW.device)
    mixed = answer.picked(order_B)
    return _channels_last(seen_BCHW[order_B]), mixed.with_feature(_channels_last)


def image_of(batch: PooledBatch) -> Tensor:
    """Float32 ``image_BCHW`` in [0, 1]."""
    return _channels_last(batch.pixels_BCHW.float() / 255)


@torch.no_grad()
def trunk_feature_of(batch: PooledBatch, trunk: Callable[[Tensor], Tensor]) -> Tensor:
    """What the encoder's frozen trunk makes of a pooled batch, computed once."""
    if batch.trunk_BCHW is None:
        batch.trunk_BCHW = trunk(image_of(batch))
    return batch.trunk_BCHW


def answer_for(
    batch: PooledBatch, tag: str, parts: frozenset[Part], compute: Callable[[Tensor, frozenset[Part]], Answer]
) -> Answer:
    """The backbone's answer for a pooled batch, computed by ``compute(float32 image, parts)`` only if a part is new."""
    known = batch.answers.get(tag)
    if known is None or not known.has(parts):
        wanted = parts if known is None else parts | known.parts
        known = compute(image_of(batch), wanted)
        batch.answers[tag] = known
    return known


def _channels_last(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.contiguous(memory_format=torch.channels_last)
