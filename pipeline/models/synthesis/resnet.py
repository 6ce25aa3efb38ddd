"""g_s for ResNets: restoration, then residual blocks of the target's own kind (basic or bottleneck) at stride 1.

A ResNet's block ends with a ReLU, so its cut feature is never negative, and many of its values are exactly zero. The
decoder ends the same way: the last block's sum has no activation of its own, since it lives in normalised units, and
is then cut off where the feature would fall below zero.

Axes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.analysis import ResidualBlock
from pipeline.models.synthesis.normalised import NormalisedSynthesis

BOTTLENECK_EXPANSION = 4


class ResNetBlock(nn.Module):
    """Convolutions with BatchNorm, a skip (1x1 where the width changes), ReLU after the sum.

    ``bottleneck``: 1x1 to a quarter of ``out_channels``, 3x3, 1x1 back; otherwise two 3x3 convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bottleneck: bool, activation: nn.Module) -> None:
        super().__init__()
        inner = out_channels // BOTTLENECK_EXPANSION if bottleneck else out_channels
        first, last = (1, 1) if bottleneck else (3, 3)
        middle = [*_conv_norm(inner, inner, 3), nn.ReLU()] if bottleneck else []
        self.layers = nn.Sequential(
            *_conv_norm(in_channels, inner, first), nn.ReLU(), *middle, *_conv_norm(inner, out_channels, last)
        )
        same_shape = in_channels == out_channels
        self.skip = nn.Identity() if same_shape else nn.Sequential(*_conv_norm(in_channels, out_channels, 1))
        self.activation = activation

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.activation(self.layers(x_BCHW) + self.skip(x_BCHW))
        return out


class ResNetSynthesis(NormalisedSynthesis):
    """Two restoration blocks of ``width`` channels, then ``blocks`` ResNet blocks of the target's width.

    ``rectified``: the target feature has passed a ReLU (all but a few ResNets).
    """

    def __init__(
        self,
        out_channels: int,
        *,
        latent_channels: int,
        width: int,
        blocks: int,
        bottleneck: bool,
        rectified: bool = True,
    ) -> None:
        super().__init__(out_channels)
        self.rectified = rectified
        self.restore = nn.Sequential(
            ResidualBlock(latent_channels, width, activation=nn.LeakyReLU()),
            ResidualBlock(width, width, activation=nn.LeakyReLU()),
        )
        self.blocks = nn.Sequential(
            *(
                ResNetBlock(
                    width if number == 0 else out_channels,
                    out_channels,
                    bottleneck=bottleneck,
                    activation=nn.Identity() if number == blocks - 1 else nn.ReLU(),
                )
                for number in range(blocks)
            )
        )

    def restored(self, planes_BCHW: Tensor) -> Tensor:
        feature_BCHW: Tensor = self.blocks(self.restore(planes_BCHW))
        if not self.rectified:
            return feature_BCHW
        zero_1C11 = -self.target_mean / self.target_std  # where the feature itself is zero
        return torch.maximum(feature_BCHW, zero_1C11.to(feature_BCHW.dtype))


def _conv_norm(in_channels: int, out_channels: int, kernel: int) -> list[nn.Module]:
    """BatchNorm follows the convolution directly, so export folds it away."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
