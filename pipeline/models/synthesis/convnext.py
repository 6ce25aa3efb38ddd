"""g_s for ConvNeXts: restoration, then ConvNeXt blocks (7x7 depthwise, LayerNorm, two linear layers) on the latent
grid.

FrankenSplit's own blueprint first goes up to twice the resolution and comes down again, as the backbone does. All
blocks at the target's resolution buy more of them for the same multiplications, and none is spent on moving between
grids.

Axes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.analysis import ResidualBlock
from pipeline.models.synthesis.normalised import NormalisedSynthesis

# The family starts its layer scale at 1e-6, so that nets of 36 blocks train; a handful of blocks need no such care,
# and would only lose their first thousand steps.
LAYER_SCALE = 0.1


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, LayerNorm over channels, 4-fold linear expansion with GELU, layer scale, skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.activation = nn.GELU()
        self.reduce = nn.Linear(4 * channels, channels)
        self.scale_C = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BHWC = self.norm(self.depthwise(x_BCHW).permute(0, 2, 3, 1))
        h_BHWC = self.reduce(self.activation(self.expand(h_BHWC))) * self.scale_C
        out: Tensor = x_BCHW + h_BHWC.permute(0, 3, 1, 2)
        return out


class ConvNeXtSynthesis(NormalisedSynthesis):
    """A restoration block of ``width`` channels, a 1x1 projection where the target is wider, then ``blocks`` blocks."""

    def __init__(self, out_channels: int, *, latent_channels: int, width: int, blocks: int) -> None:
        super().__init__(out_channels)
        self.restore = ResidualBlock(latent_channels, width, activation=nn.LeakyReLU())
        self.project = nn.Identity() if width == out_channels else nn.Conv2d(width, out_channels, 1)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(out_channels) for _ in range(blocks)))

    def restored(self, planes_BCHW: Tensor) -> Tensor:
        feature_BCHW: Tensor = self.blocks(self.project(self.restore(planes_BCHW)))
        return feature_BCHW
