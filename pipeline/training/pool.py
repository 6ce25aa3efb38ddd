"""A pool of crops that come round a few times, with what the frozen backbones say about them.

The backbones are frozen, so the teacher's side of the loss need not be computed twice for a crop: on a CPU, decoding,
cropping and the teacher are 35 to 40 % of a step. After some rounds a place of the pool gets new crops, since decoders
of a million parameters begin to know theirs by heart (in five rounds of 7,200 crops the KL fell by 28 % on these, and
by 9 % on others).

Memory, for a crop of 160 x 160: 77 kB of pixels, and in bfloat16 16 kB for the cut feature of an EfficientNet-Lite, 2.5
for pooled features, 65 for its stages (GHND), 0.4 for a saliency map.

Axes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import os
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
    latent of an encoder that is not trained. Nothing is kept where ``keeps`` is False: the pool is full.
    """

    pixels_BCHW: Tensor
    keeps: bool = True
    answers: dict[str, Answer] = field(default_factory=dict)
    latent_BCHW: Tensor | None = None

    @property
    def kept_bytes(self) -> int:
        """Memory of all that is kept."""
        tensors = [tensor for answer in self.answers.values() for tensor in answer.tensors()]
        return sum(t.nbytes for t in (self.pixels_BCHW, self.latent_BCHW, *tensors) if t is not None)


class CropPool:
    """``batches`` batches for one crop size at a time, each used ``rounds`` times before new crops take its place;
    another size empties the pool. Once it holds ``memory_max`` bytes (by default half of the device's memory), what is
    said about further crops is not kept: slower, and otherwise the same.

    On another ``device`` than the CPU the next batches are cropped in threads meanwhile, so that it need not wait.
    """

    def __init__(
        self,
        sampler: CropSampler,
        *,
        batches: int,
        rounds: int,
        device: torch.device = _CPU,
        memory_max: int | None = None,
    ) -> None:
        self._sampler = sampler
        self._batches = batches
        self._rounds = rounds
        self._device = device
        self._memory_max = _half_of_memory(device) if memory_max is None else memory_max
        self._shape: tuple[int, int] = (0, 0)
        self._pool: dict[int, tuple[int, PooledBatch]] = {}  # place -> draw, batch
        self._coming: dict[int, Future[Tensor]] = {}
        self._kept_bytes: dict[int, int] = {}  # place -> memory, as of when its batch was last given
        self._given: int | None = None
        self._threads = ThreadPoolExecutor(_AHEAD) if device.type != "cpu" else None

    def batch(self, number: int, *, size: int, count: int, stride: int = 1) -> PooledBatch:
        """Batch ``number``; the same crops again every ``batches`` numbers, for as many rounds as they last.
        ``number + stride`` is what comes next.
        """
        if self._shape != (size, count):
            self._shape, self._pool, self._coming = (size, count), {}, {}
            self._kept_bytes, self._given = {}, None
        if self._given is not None:  # what was said about it is there by now
            self._kept_bytes[self._given] = self._pool[self._given][1].kept_bytes
        if self._threads is not None:
            for later in range(number, number + _AHEAD * stride, stride):
                self._order(later)
        place, draw = number % self._batches, self._draw(number)
        known, batch = self._pool.get(place, (None, None))
        if batch is None or known != draw:
            coming = self._coming.pop(draw, None)
            pixels_BCHW = self._pixels(draw, size, count) if coming is None else coming.result()
            self._kept_bytes.pop(place, None)
            held = sum(self._kept_bytes.values())
            batch = PooledBatch(pixels_BCHW.to(self._device), keeps=held < self._memory_max)
            self._pool[place] = draw, batch
        self._given = place
        return batch

    def _draw(self, number: int) -> int:
        """Which crops batch ``number`` has: the sampler's step."""
        turn, place = divmod(number, self._batches)
        return turn // self._rounds * self._batches + place

    def _order(self, number: int) -> None:
        draw = self._draw(number)
        known, _batch = self._pool.get(number % self._batches, (None, None))
        if self._threads is not None and draw != known and draw not in self._coming:
            self._coming[draw] = self._threads.submit(self._pixels, draw, *self._shape)

    def _pixels(self, draw: int, size: int, count: int) -> Tensor:
        image_BCHW = self._sampler.batch(draw, size=size, count=count)
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
def latent_for(batch: PooledBatch, analysis: Callable[[Tensor], Tensor]) -> Tensor:
    """What an encoder that is not trained makes of a pooled batch, computed once."""
    if batch.latent_BCHW is not None:
        return batch.latent_BCHW
    latent_BCHW = analysis(image_of(batch))
    if batch.keeps:
        batch.latent_BCHW = latent_BCHW
    return latent_BCHW


def answer_for(
    batch: PooledBatch, tag: str, parts: frozenset[Part], compute: Callable[[Tensor, frozenset[Part]], Answer]
) -> Answer:
    """The backbone's answer for a pooled batch, computed by ``compute(float32 image, parts)`` only if a part is new."""
    known = batch.answers.get(tag)
    if known is None or not known.has(parts):
        wanted = parts if known is None else parts | known.parts
        known = compute(image_of(batch), wanted)
        if batch.keeps:
            batch.answers[tag] = known
    return known


def _half_of_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1]) // 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _channels_last(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.contiguous(memory_format=torch.channels_last)
