"""g_s for backbones of inverted-residual blocks (MobileNet and EfficientNet families): latent in, the backbone's cut
feature out.

A restoration block undoes what quantisation did, then blocks of the target's own kind (expand, depthwise 3x3,
project; BatchNorm and ReLU6 as in EfficientNet-Lite) rebuild its feature. FrankenSplit's Table IV: at equal size, a
decoder of the wrong family is clearly worse.

Everything happens on the small latent grid, where dense convolutions stay in the cache and are cheap per operation;
the head part that g_s replaces spends its time on maps of 112 x 112.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.analysis import ResidualBlock
from pipeline.models.synthesis.normalised import FinerGrid, NormalisedSynthesis


class InvertedResidualBlock(nn.Module):
    """1x1 expansion, depthwise 3x3, 1x1 projection, identity skip. BatchNorm follows each convolution directly, so
    export folds it away.
    """

    def __init__(self, channels: int, *, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = x_BCHW + self.layers(x_BCHW)
        return out


class InvertedResidualSynthesis(NormalisedSynthesis):
    """Restoration to ``width`` channels, inverted residual blocks of that width, a 1x1 projection to the target's."""

    def __init__(
        self, out_channels: int, *, latent_channels: int, width: int = 64, blocks: int = 2, expansion: int = 4
    ) -> None:
        super().__init__(out_channels)
        self.restore = ResidualBlock(latent_channels, width, activation=nn.LeakyReLU())
        self.blocks = nn.Sequential(*(InvertedResidualBlock(width, expansion=expansion) for _ in range(blocks)))
        self.project = nn.Conv2d(width, out_channels, 1)

    @property
    def begins_linear(self) -> bool:
        """Where the latent's planes and the layers between have room for the feature."""
        planes = self.entrance.channels if isinstance(self.entrance, FinerGrid) else 0
        width = self.project.in_channels
        return isinstance(self.restore.skip, nn.Conv2d) and self.project.out_channels <= min(planes, width)

    @torch.no_grad()
    def begin_linear(self, weight_DC: Tensor, bias_D: Tensor) -> None:
        """The map is in the entrance; its planes pass through the skips to the projection, and the layers between add
        nothing at first.
        """
        features, skip, spread = self.project.out_channels, self.restore.skip, self.entrance
        assert isinstance(spread, FinerGrid)
        assert isinstance(skip, nn.Conv2d)
        spread.begin(weight_DC, bias_D)
        nn.init.dirac_(skip.weight)
        silent = [skip.bias, *self.restore.conv2.parameters(), self.project.bias]
        self.silence_blocks()
        for parameter in silent:
            assert parameter is not None
            nn.init.zeros_(parameter)
        self.project.weight[:, : spread.channels] = 0
        self.project.weight[:, :features, 0, 0] = torch.eye(features)

    @torch.no_grad()
    def silence_blocks(self) -> None:
        """Let every block pass on what comes in, unchanged; all of them can learn from there."""
        for block in self.blocks:
            assert isinstance(block, InvertedResidualBlock)
            for parameter in block.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def restored(self, planes_BCHW: Tensor) -> Tensor:
        feature_BCHW: Tensor = self.project(self.blocks(self.restore(planes_BCHW)))
        return feature_BCHW
