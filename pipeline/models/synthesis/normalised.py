"""What all decoders share: an entrance to the target's grid, and the units of the target's own statistics.

The output of the layers is *normalised* per channel (zero mean, unit variance over training photos) and mapped back by
two buffers, so that the layers see targets of one scale whatever the backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FinerGrid(nn.Module):
    """Each place of a latent becomes ``factor`` x ``factor`` places of ``out_channels`` planes: one 1x1 convolution,
    whose outputs are shared out. It can invert any transform of blocks of that size.
    """

    def __init__(self, in_channels: int, out_channels: int, *, factor: int) -> None:
        super().__init__()
        self.channels = out_channels
        self.spread = nn.Conv2d(in_channels, out_channels * factor**2, 1)
        self.shuffle = nn.PixelShuffle(factor)

    @torch.no_grad()
    def begin(self, weight_DC: Tensor, bias_D: Tensor) -> None:
        """Set the first outputs of the convolution."""
        assert self.spread.bias is not None
        self.spread.weight[: len(weight_DC)] = weight_DC[:, :, None, None]
        self.spread.bias[: len(bias_D)] = bias_D

    def forward(self, latent_BCHW: Tensor) -> Tensor:
        planes_BCHW: Tensor = self.shuffle(self.spread(latent_BCHW))
        return planes_BCHW


class NormalisedSynthesis(nn.Module):
    """``latent_BCHW`` -> ``feature_BCHW`` as ``CutBackbone.tail`` takes it.

    ``entrance`` brings the latent to the feature's height and width. Subclasses give ``restored``;
    ``set_target_statistics`` fills the two buffers.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.entrance: nn.Module = nn.Identity()
        self.register_buffer("target_mean", torch.full((1, out_channels, 1, 1), 0.0))
        self.register_buffer("target_std", torch.full((1, out_channels, 1, 1), 1.0))

    def set_target_statistics(self, mean_C: Tensor, std_C: Tensor) -> None:
        """Mean and standard deviation of the backbone's cut feature, float32 [C]."""
        self.target_mean.copy_(mean_C.view(1, -1, 1, 1))
        self.target_std.copy_(std_C.view(1, -1, 1, 1))

    def restored(self, planes_BCHW: Tensor) -> Tensor:
        """What came in by the entrance -> the feature in units of the target statistics, height and width kept."""
        raise NotImplementedError

    @property
    def begins_linear(self) -> bool:
        """Whether it has a linear path that ``begin_linear`` can set."""
        return False

    def begin_linear(self, weight_DC: Tensor, bias_D: Tensor) -> None:
        """Before training: be this map from latent to normalised feature, D = features x factor x factor places as
        ``torch.nn.PixelShuffle`` counts them. Only where ``begins_linear``.
        """

    def normalised(self, latent_BCHW: Tensor) -> Tensor:
        """The feature in units of the target statistics; the training loss compares this."""
        return self.restored(self.entrance(latent_BCHW))

    def forward(self, latent_BCHW: Tensor) -> Tensor:
        return self.normalised(latent_BCHW) * self.target_std + self.target_mean
