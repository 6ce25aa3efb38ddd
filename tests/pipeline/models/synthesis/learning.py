"""One tiny lesson for every blueprint: latents, and features that a fixed random net makes of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.synthesis import NormalisedSynthesis
from pipeline.training.losses import feature_loss

_LATENT_CHANNELS = 48


def loss_ratio(
    synthesis: NormalisedSynthesis, channels: int, *, rectified: bool = False, steps: int = 100, grid: int = 7
) -> float:
    """How many times smaller the feature loss is after ``steps`` steps on 4 latents, in training mode."""
    latent_BCHW, feature_BCHW = _lesson(channels, rectified=rectified, grid=grid)
    std_C, mean_C = torch.std_mean(feature_BCHW, dim=(0, 2, 3))
    synthesis.set_target_statistics(mean_C, std_C.clamp_min(1e-3))
    target_BCHW = (feature_BCHW - synthesis.target_mean) / synthesis.target_std
    optimiser = torch.optim.Adam(synthesis.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = feature_loss(synthesis.normalised(latent_BCHW), target_BCHW).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses[0] / losses[-1]


def _lesson(channels: int, *, rectified: bool, grid: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    latent_BCHW = torch.randn(4, _LATENT_CHANNELS, grid, grid, generator=random)
    weight = 0.15 * torch.randn(channels, _LATENT_CHANNELS, 3, 3, generator=random)
    feature_BCHW = nn.functional.conv2d(latent_BCHW, weight, padding=1)
    return latent_BCHW, feature_BCHW.relu() if rectified else feature_BCHW
