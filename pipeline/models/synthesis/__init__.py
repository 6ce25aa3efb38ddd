"""Blueprints of g_s, one for each backbone family: ``build_synthesis(backbone tag, latent)`` gives the decoder
that fits both.

No table of tags: the family's rule turns what the backbone's head part is like (channels of the cut feature, kind and
number of its blocks) into a decoder, and the decoder's width is the largest, up to the rule's, that keeps within the
family's share of the head part's multiplications. Shapes and costs come from the model on torch's ``meta`` device, so
no weights are needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from pipeline.codec import LatentShape
from pipeline.errors import ConfigError
from pipeline.models.backbones import CutBackbone, cut_stride
from pipeline.models.macs import HeadPartCost, head_part_cost, shape_only_backbone, synthesis_macs
from pipeline.models.synthesis.convnext import ConvNeXtSynthesis
from pipeline.models.synthesis.inverted_residual import InvertedResidualSynthesis
from pipeline.models.synthesis.normalised import FinerGrid, NormalisedSynthesis
from pipeline.models.synthesis.resnet import ResNetSynthesis
from pipeline.models.synthesis.swin import HEAD_CHANNELS, SwinSynthesis

GRID_CHANNELS = 96
"""Planes that a decoder makes of a latent coarser than its target; no fewer than the target's channels, where those of
EfficientNet-Lite begin as linear maps.
"""
MakeSynthesis = Callable[..., NormalisedSynthesis]


@dataclass(frozen=True)
class Blueprint:
    """A family's rule. ``design(backbone, channels)`` gives the decoder but for its ``width``, and the largest width
    worth having; narrower ones go in steps of ``width_step`` until the decoder costs at most ``macs_ratio_max`` times
    the head part.
    """

    design: Callable[[CutBackbone, int], tuple[MakeSynthesis, int]]
    width_step: int
    macs_ratio_max: float = 1.05


def _resnet(backbone: CutBackbone, channels: int) -> tuple[MakeSynthesis, int]:
    model = backbone.model
    bottleneck = hasattr(model.layer2[-1], "conv3")
    make = partial(
        ResNetSynthesis,
        channels,
        blocks=3 if bottleneck else 2,
        bottleneck=bottleneck,
        rectified=isinstance(model.act1, nn.ReLU),
    )
    return make, channels // 2 if bottleneck else channels


def _convnext(backbone: CutBackbone, channels: int) -> tuple[MakeSynthesis, int]:
    replaced = sum(type(module).__name__ == "ConvNeXtBlock" for module in backbone.head_modules)
    return partial(ConvNeXtSynthesis, channels, blocks=replaced - 1), channels


def _swin(backbone: CutBackbone, channels: int) -> tuple[MakeSynthesis, int]:
    last: Any = backbone.head_modules[-1]
    window = int(last.window_size[0])
    return partial(SwinSynthesis, channels, window=window), channels // 2


def _inverted_residual(_backbone: CutBackbone, channels: int) -> tuple[MakeSynthesis, int]:
    return partial(InvertedResidualSynthesis, channels), 2 * channels


BLUEPRINTS = {
    # Budgeted by *time*: dense convolutions on the small grid take far less of it per multiplication than the head
    # part's depthwise ones on 112 x 112. With 0.94 to 1.43 times the multiplications, the decoders of
    # EfficientNet-Lite take 0.4 of the head part's time at 1/16, and less than all of it at 1/8; one of four blocks
    # with 1.54 times the multiplications takes 0.55 of it (docs/training.md).
    "EfficientNet": Blueprint(_inverted_residual, width_step=8, macs_ratio_max=1.55),
    "ResNet": Blueprint(_resnet, width_step=16),
    "ConvNeXt": Blueprint(_convnext, width_step=8),
    "SwinTransformer": Blueprint(_swin, width_step=HEAD_CHANNELS),
}


def build_synthesis(tag: str, latent: LatentShape, *, blocks: int = 0) -> NormalisedSynthesis:
    """The decoder for the backbone ``tag``, cut at ``cut_stride(latent)``; freshly initialised.

    ``blocks``: how many a decoder of the EfficientNet family has, 0 for the usual number. Raises ConfigError for a tag
    that timm does not know, and for a backbone without a blueprint.
    """
    return _maker(tag, latent, blocks)()


def blocks_in(names: Iterable[str]) -> int:
    """How many blocks a decoder has whose weights have these names (``build_synthesis``)."""
    numbers = [int(name.split(".")[1]) for name in names if re.fullmatch(r"blocks\.\d+\.layers\..*", name)]
    return max(numbers, default=-1) + 1


def begins_linear(tag: str, latent: LatentShape) -> bool:
    """Whether the decoder for ``tag`` can begin as a linear map (``NormalisedSynthesis.begin_linear``). Raises
    ConfigError as ``build_synthesis`` does.
    """
    with torch.device("meta"):
        return _maker(tag, latent)().begins_linear


@lru_cache(maxsize=64)
def _maker(tag: str, latent: LatentShape, blocks: int = 0) -> Callable[[], NormalisedSynthesis]:
    try:
        backbone = shape_only_backbone(tag, stride=cut_stride(latent))
    except ConfigError as error:
        raise ConfigError(f"no decoder blueprint for {tag!r} (an example: tf_efficientnet_lite0): {error}") from error
    blueprint, cost = BLUEPRINTS[type(backbone.model).__name__], head_part_cost(backbone)
    grid = cost.side // cut_stride(latent)
    if (cost.height, cost.width) != (grid, grid):
        raise ConfigError(
            f"backbone {tag} is cut at {cost.height}x{cost.width}, expected {grid}x{grid}: no decoder fits"
        )
    make, width_max = blueprint.design(backbone, cost.channels)
    if blocks and blueprint.design is _inverted_residual:
        make = partial(make, blocks=blocks)
    make = partial(_with_entrance, make, latent)
    return partial(make, width=_affordable_width(tag, make, width_max, blueprint, cost, latent))


def _with_entrance(make: MakeSynthesis, latent: LatentShape, *, width: int) -> NormalisedSynthesis:
    factor = latent.stride // cut_stride(latent)
    synthesis = make(latent_channels=latent.channels if factor == 1 else GRID_CHANNELS, width=width)
    if factor > 1:
        synthesis.entrance = FinerGrid(latent.channels, GRID_CHANNELS, factor=factor)
    return synthesis


def _affordable_width(
    tag: str,
    make: MakeSynthesis,
    width_max: int,
    blueprint: Blueprint,
    cost: HeadPartCost,
    latent: LatentShape,
) -> int:
    budget = blueprint.macs_ratio_max * cost.macs
    for width in range(width_max, 0, -blueprint.width_step):
        with torch.device("meta"):
            synthesis = make(width=width).to("meta")  # buffers that come from NumPy are not there yet
        if synthesis_macs(synthesis, latent, side=cost.side) <= budget:
            return width
    raise ConfigError(
        f"no decoder for backbone {tag} costs at most {budget / 1e6:.0f} million multiplications, "
        f"{blueprint.macs_ratio_max:g} of its head part: choose a larger member of the family"
    )


__all__ = [
    "ConvNeXtSynthesis",
    "InvertedResidualSynthesis",
    "NormalisedSynthesis",
    "ResNetSynthesis",
    "SwinSynthesis",
    "begins_linear",
    "blocks_in",
    "build_synthesis",
]
