"""The terms of the training loss, each per frame so that operating points can be told apart.

Axes: B batch, C channels, H height, W width, D pooled features, K classes. All return float32 [B].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def feature_loss(predicted_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Mean squared error of the cut feature, both normalised per channel: 1.0 is what predicting the mean gives."""
    return (predicted_BCHW.float() - target_BCHW.float()).square().mean(dim=(1, 2, 3))


def saliency_feature_loss(predicted_BCHW: Tensor, target_BCHW: Tensor, saliency_B1HW: Tensor) -> Tensor:
    """Saliency-guided distillation (FrankenSplit, eq. 11 with both weights 1/2): squared errors count (1 + s) / 2.

    ``saliency_B1HW`` in [0, 1], on any grid; the nearest place counts. 1 everywhere gives ``feature_loss``.
    """
    error_BCHW = (predicted_BCHW.float() - target_BCHW.float()).square()
    nearest_B1HW = F.interpolate(saliency_B1HW.float(), error_BCHW.shape[2:], mode="nearest")
    return (0.5 * (1.0 + nearest_B1HW) * error_BCHW).mean(dim=(1, 2, 3))


def stages_loss(predicted: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Generalised head distillation (GHND): the squared error of several layers' outputs, in units of each channel's
    variance in this batch, summed over the layers. Each [B, C, H, W].
    """
    errors = []
    for predicted_BCHW, target_BCHW in zip(predicted, target, strict=True):
        std_1C11 = target_BCHW.float().std(dim=(0, 2, 3), keepdim=True)
        # Channels that are hardly ever active would weigh far too much if divided by their own tiny deviation.
        std_1C11 = torch.maximum(std_1C11, 0.25 * std_1C11.median()).clamp_min(1e-3)
        errors.append(((predicted_BCHW.float() - target_BCHW.float()) / std_1C11).square().mean(dim=(1, 2, 3)))
    return torch.stack(errors).sum(dim=0)


def kl_loss(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """KL(teacher || student) of the class distributions in nats, from logits, at temperature 1."""
    student, teacher = F.log_softmax(student_BK.float(), dim=1), F.log_softmax(teacher_BK.float(), dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


def pooled_loss(student_BD: Tensor, teacher_BD: Tensor, std_D: Tensor) -> Tensor:
    """Mean squared error of the pooled features in units of their standard deviation: what *other* heads will look
    at.
    """
    return ((student_BD.float() - teacher_BD.float()) / std_D).square().mean(dim=1)


def bits_per_pixel(bits_BCHW: Tensor, *, pixels: int) -> Tensor:
    """Rate of each frame in bits per input pixel."""
    return bits_BCHW.sum(dim=(1, 2, 3)) / pixels


def sample_layers(count: int, *, layers: int, drop_probability: float, generator: torch.Generator) -> Tensor:
    """How many layers of each of ``count`` frames survive, int64 [count].

    With ``drop_probability`` a frame loses d layers, with probability proportional to 1 / d: short tails are what
    real networks lose most. At least one layer always survives.
    """
    dropped = 1.0 / torch.arange(1, layers)
    lost_B = torch.multinomial(dropped, count, replacement=True, generator=generator) + 1
    hit_B = torch.rand(count, generator=generator) < drop_probability
    return layers - torch.where(hit_B, lost_B, torch.zeros_like(lost_B))
