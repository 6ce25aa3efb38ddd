"""What a network costs: multiply-accumulate operations (MACs) of one forward pass.

Convolutions and matrix products are counted, those inside attention as well; normalisation, activations and additions
are not. Counting needs shapes only, so models and inputs may lie on torch's ``meta`` device: no memory, no arithmetic,
a few hundredths of a second for any backbone.

Axes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.codec import LatentShape
from pipeline.models.backbones import DEFAULT_STRIDE, CutBackbone, load_backbone

DEFAULT_SIDE = 224


@dataclass(frozen=True)
class HeadPartCost:
    """The head part of a backbone at ``side`` x ``side`` pixels: its MACs for one image, and the shape of the feature
    that it gives.
    """

    side: int
    macs: int
    channels: int
    height: int
    width: int


def count_macs(function: Callable[[Tensor], Tensor], input_BCHW: Tensor) -> int:
    """MACs of ``function(input_BCHW)`` for the whole batch. Run on ``meta`` tensors, where attention is counted too."""
    return _counted(function, input_BCHW)[0]


def shape_only_backbone(tag: str, *, stride: int = DEFAULT_STRIDE) -> CutBackbone:
    """The backbone ``tag`` on the ``meta`` device: shapes without weights. Draws no random numbers.

    Raises ConfigError for a tag, family or stride that we do not know.
    """
    with torch.device("meta"):
        return load_backbone(tag, stride=stride, pretrained=False)


def head_part_cost(backbone: CutBackbone) -> HeadPartCost:
    """Cost and output of the head part of a backbone on the ``meta`` device, at 224 x 224 where the model takes it.

    Swin models are built for one size only; they are counted at theirs.
    """
    fixed_size = type(backbone.model).__name__ == "SwinTransformer"
    side = backbone.image_spec.side if fixed_size else DEFAULT_SIDE
    image_BCHW = torch.empty(1, 3, side, side, device="meta")
    macs, feature_BCHW = _counted(backbone.head_part, image_BCHW)
    _, channels, height, width = feature_BCHW.shape
    return HeadPartCost(side=side, macs=macs, channels=channels, height=height, width=width)


def synthesis_macs(synthesis: nn.Module, latent: LatentShape, *, side: int = DEFAULT_SIDE) -> int:
    """MACs of a g_s on the ``meta`` device for one frame of ``side`` x ``side`` pixels."""
    grid = side // latent.stride
    return count_macs(synthesis, torch.empty(1, latent.channels, grid, grid, device="meta"))


def _counted(function: Callable[[Tensor], Tensor], input_BCHW: Tensor) -> tuple[int, Tensor]:
    """(MACs, result) of one call."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = function(input_BCHW)
    return int(counter.get_total_flops()) // 2, output
