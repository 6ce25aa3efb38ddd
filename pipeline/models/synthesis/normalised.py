"""What all decoders share: they work in units of the target's own statistics.

The output of the layers is *normalised* per channel (zero mean, unit variance over training photos) and mapped back by
two buffers, so that the layers see targets of one scale whatever the backbone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NormalisedSynthesis(nn.Module):
    """``latent_BCHW`` -> ``feature_BCHW`` of the same height and width, as ``CutBackbone.tail`` takes it.

    Subclasses give ``normalised``; ``set_target_statistics`` fills the two buffers.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.register_buffer("target_mean", torch.full((1, out_channels, 1, 1), 0.0))
        self.register_buffer("target_std", torch.full((1, out_channels, 1, 1), 1.0))

    def set_target_statistics(self, mean_C: Tensor, std_C: Tensor) -> None:
        """Mean and standard deviation of the backbone's cut feature, float32 [C]."""
        self.target_mean.copy_(mean_C.view(1, -1, 1, 1))
        self.target_std.copy_(std_C.view(1, -1, 1, 1))

    def normalised(self, latent_BCHW: Tensor) -> Tensor:
        """The feature in units of the target statistics; the training loss compares this."""
        raise NotImplementedError

    def forward(self, latent_BCHW: Tensor) -> Tensor:
        return self.normalised(latent_BCHW) * self.target_std + self.target_mean
