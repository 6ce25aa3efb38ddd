"""A pool of crops that come round again, with what the frozen backbones say about them.

The backbones are frozen and the crops are drawn once, so the teacher's side of the loss need not be computed twice:
on a CPU, decoding, cropping and the teacher are 35 to 40 % of a step. The codec is far too small to learn a few ten
thousand crops by heart (0.4 M parameters).

Axes: B batch, C channels, H height, W width, D pooled features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.training.data import CropSampler


@dataclass(frozen=True)
class Teacher:
    """The unmodified backbone's cut feature ``feature_BCHW`` (channels last) and, where the loss needs it,
    ``pooled_BD``.
    """

    feature_BCHW: Tensor
    pooled_BD: Tensor | None


@dataclass
class PooledBatch:
    """One batch of the pool: ``pixels_BCHW`` uint8, and the teachers computed so far by backbone tag."""

    pixels_BCHW: Tensor
    teachers: dict[str, Teacher] = field(default_factory=dict)


class CropPool:
    """``batches`` batches for one crop size at a time; another size empties the pool. Memory: about 0.15 MB a crop
    of 160 x 160.
    """

    def __init__(self, sampler: CropSampler, *, batches: int) -> None:
        self._sampler = sampler
        self._batches = batches
        self._shape: tuple[int, int] = (0, 0)
        self._pool: dict[int, PooledBatch] = {}

    def batch(self, step: int, *, size: int, count: int) -> PooledBatch:
        """The batch of ``step``; the same crops again every ``batches`` steps."""
        if self._shape != (size, count):
            self._shape, self._pool = (size, count), {}
        number = step % self._batches
        if number not in self._pool:
            image_BCHW = self._sampler.batch(number, size=size, count=count)
            self._pool[number] = PooledBatch((image_BCHW * 255).round_().to(torch.uint8))
        return self._pool[number]


def shuffled(batch: PooledBatch, teacher: Teacher, generator: torch.Generator) -> tuple[Tensor, Teacher]:
    """(float32 ``image_BCHW`` in [0, 1], teacher) in a new order, so that frames meet every operating point."""
    order = torch.randperm(len(batch.pixels_BCHW), generator=generator)
    image_BCHW = _channels_last(batch.pixels_BCHW[order].float() / 255)
    pooled_BD = None if teacher.pooled_BD is None else teacher.pooled_BD[order]
    return image_BCHW, Teacher(_channels_last(teacher.feature_BCHW[order]), pooled_BD)


def teacher_for(batch: PooledBatch, tag: str, *, with_pooled: bool, compute: Callable[[Tensor], Teacher]) -> Teacher:
    """The backbone's answer for a pooled batch, computed by ``compute`` (float32 image -> Teacher) at most once."""
    known = batch.teachers.get(tag)
    if known is None or (with_pooled and known.pooled_BD is None):
        known = compute(_channels_last(batch.pixels_BCHW.float() / 255))
        batch.teachers[tag] = known
    return known


def _channels_last(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.contiguous(memory_format=torch.channels_last)
