"""Saliency maps: where in a crop the unmodified backbone finds its answer (XGradCAM), for the saliency-guided feature
loss.

Computed for the very crop that is trained on, so random crops and flips are allowed; FrankenSplit stores one map a
photo and has to give them up. For each of three layers: weights of the channels from gradients times activations, the
first principal component of the weighted activations instead of their sum (eigen smoothing), ReLU, scaling to [0, 1],
resizing to the latent's grid; then the mean over layers, and scaling again.

A principal component has no sign of its own, and the wrong one blanks the object, so it takes the sign with which it
follows the plain sum. The backbone stays frozen: no parameter gets a gradient.

Axes: B batch, C channels, H height, W width, P places (H x W), K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import ConfigError
from pipeline.models.backbones import CutBackbone

# Keeps the weights finite where a channel's activations sum to nothing, as grad-cam has it.
_EPSILON = 1e-7
NEUTRAL = 0.5

# Model class name -> three layers, shallowest first, FrankenSplit's choice: stages 2 to 4 of Swin and ConvNeXt, 1 to 3
# of ResNet. Its EfficientNets are ours: the last blocks at 1/8, 1/16 and 1/32 of the resolution.
SALIENCY_LAYERS: dict[str, Callable[[Any], list[nn.Module]]] = {
    "EfficientNet": lambda m: [m.blocks[2][-1], m.blocks[4][-1], m.blocks[-1][-1]],
    "ResNet": lambda m: [m.layer1[-1], m.layer2[-1], m.layer3[-1]],
    "ConvNeXt": lambda m: [stage.blocks[-1].norm for stage in m.stages[1:]],
    "SwinTransformer": lambda m: [layer.blocks[-1].norm1 for layer in m.layers[1:]],
}


def saliency_maps(backbone: CutBackbone, image_BCHW: Tensor, classes_B: Tensor | None = None) -> Tensor:
    """Where the backbone looks: float32 [B, 1, H/stride, W/stride] (the cut's) in [0, 1], without gradient.

    ``image_BCHW``: RGB float32 in [0, 1]. ``classes_B``: int64, whose logits are explained; the backbone's own first
    choices where it is None. A crop without any salient place gets 0.5 everywhere.
    """
    grid = (image_BCHW.shape[2] // backbone.stride, image_BCHW.shape[3] // backbone.stride)
    activations, gradients = _activations_and_gradients(backbone, image_BCHW, classes_B)
    maps = [_layer_map(a, g, grid) for a, g in zip(activations, gradients, strict=True)]
    return _unit_range(torch.stack(maps).mean(dim=0), constant=NEUTRAL).nan_to_num(nan=NEUTRAL).unsqueeze(1)


def saliency_layers(backbone: CutBackbone) -> list[nn.Module]:
    """The layers whose activations are looked at, shallowest first. Raises ConfigError for an unknown family."""
    family = type(backbone.model).__name__
    if family not in SALIENCY_LAYERS:
        raise ConfigError(f"no saliency layers for a {family}: known families are {', '.join(sorted(SALIENCY_LAYERS))}")
    return SALIENCY_LAYERS[family](backbone.model)


def channels_first(layer: nn.Module, output: Tensor) -> Tensor:
    """The output of a saliency layer as [B, C, H, W]: a LayerNorm over the last axis gives [B, H, W, C]."""
    over_last_axis = isinstance(layer, nn.LayerNorm) and not type(layer).__name__.endswith("2d")
    return output.permute(0, 3, 1, 2) if over_last_axis else output


@torch.enable_grad()
def _activations_and_gradients(
    backbone: CutBackbone, image_BCHW: Tensor, classes_B: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Of each saliency layer: its output and the gradient of the explained logits, float32 [B, C, H, W]."""
    layers = saliency_layers(backbone)
    with _recorded(layers) as outputs:
        logits_BK = backbone(image_BCHW.detach())
    explained_B = logits_BK.argmax(dim=1) if classes_B is None else classes_B
    total = logits_BK.gather(1, explained_B[:, None]).sum()
    gradients = torch.autograd.grad(total, outputs)
    return (
        [channels_first(layer, a.detach()).float() for layer, a in zip(layers, outputs, strict=True)],
        [channels_first(layer, g).float() for layer, g in zip(layers, gradients, strict=True)],
    )


@contextmanager
def _recorded(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects the layers' outputs of one forward pass. The first one is cut loose from what came before, so that the
    backward pass ends there.
    """
    outputs: list[Tensor] = []

    def record(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        kept = output if outputs else output.detach().requires_grad_()
        outputs.append(kept)
        return kept

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _layer_map(activation_BCHW: Tensor, gradient_BCHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """One layer's map, float32 [B, *grid] in [0, 1]."""
    total_BC11 = activation_BCHW.sum(dim=(2, 3), keepdim=True)
    weight_BC11 = (gradient_BCHW * activation_BCHW / (total_BC11 + _EPSILON)).sum(dim=(2, 3), keepdim=True)
    weighted_BCHW = (weight_BC11 * activation_BCHW).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    map_BHW = _unit_range(_eigen_smoothed(weighted_BCHW).clamp_min(0.0), constant=0.0)
    return F.interpolate(map_BHW.unsqueeze(1), grid, mode="bilinear", align_corners=False).squeeze(1)


def _eigen_smoothed(weighted_BCHW: Tensor) -> Tensor:
    """Projection of each place's channels on their first principal component, [B, H, W], up to a positive factor.

    From the smaller of the two matrices of products (of channels or of places), which has the same leading component
    as the singular value decomposition and costs a fraction of it.
    """
    batch, _, height, width = weighted_BCHW.shape
    plain_BP = weighted_BCHW.sum(dim=1).flatten(1)
    places_BPC = weighted_BCHW.flatten(2).transpose(1, 2)
    places_BPC = places_BPC - places_BPC.mean(dim=1, keepdim=True)
    # Weights of a few 1e-8 are usual; their squares would be lost in float32.
    scale_B11 = places_BPC.abs().amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    unit_BPC = places_BPC / scale_B11
    if unit_BPC.shape[1] <= unit_BPC.shape[2]:
        values, vectors = torch.linalg.eigh(unit_BPC @ unit_BPC.transpose(1, 2))
        projection_BP = vectors[:, :, -1] * values[:, -1:].clamp_min(0.0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(unit_BPC.transpose(1, 2) @ unit_BPC)
        projection_BP = (unit_BPC @ vectors[:, :, -1:]).squeeze(2)
    follows_B1 = (projection_BP * plain_BP).sum(dim=1, keepdim=True)  # the projection has mean 0: a covariance
    signed_BP = torch.where(follows_B1 < 0, -projection_BP, projection_BP)
    return signed_BP.view(batch, height, width)


def _unit_range(map_BHW: Tensor, *, constant: float) -> Tensor:
    """Each map stretched to [0, 1]; a constant map becomes ``constant``."""
    low_B11, high_B11 = map_BHW.amin(dim=(1, 2), keepdim=True), map_BHW.amax(dim=(1, 2), keepdim=True)
    span_B11 = high_B11 - low_B11
    stretched = (map_BHW - low_B11) / torch.where(span_B11 > 0, span_B11, 1.0)
    return torch.where(span_B11 == 0, constant, stretched)
