"""An encoder that begins with the shallow layers of a trained classifier instead of random weights."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.analysis import InvertedResidualAnalysis
from pipeline.models.backbones import CutBackbone
from pipeline.training.fast_forms import training_form

_CENTRED = 0.5


@torch.no_grad()
def warm_start(analysis: InvertedResidualAnalysis, backbone: CutBackbone | None) -> None:
    """Copy the convolutions of the head part of ``backbone``, BatchNorm folded in, into ``analysis.trunk``, in order.

    Raises ConfigError if there is no backbone, if its layers do not fit the trunk's one by one, or if it wants its
    images normalised otherwise than every encoder does (mean and deviation 0.5).
    """
    if backbone is None:
        raise ConfigError(
            "the encoder inverted_residual begins with a backbone's layers, and no such backbone is loaded"
        )
    if {*backbone.image_spec.mean, *backbone.image_spec.std} != {_CENTRED}:
        raise ConfigError(f"{backbone.tag} does not take images of mean and deviation {_CENTRED} as the encoders do")
    own = _convolutions(analysis.trunk)
    theirs = _convolutions(*training_form(backbone).head_modules)
    kernels = [source.weight for source in theirs]
    if len(own) == len(theirs):
        # A strided convolution has one more row and column on the left and the top (analysis.py says why).
        extra = [conv.weight.shape[-1] - kernel.shape[-1] for conv, kernel in zip(own, kernels, strict=True)]
        kernels = [nn.functional.pad(kernel, (more, 0, more, 0)) for kernel, more in zip(kernels, extra, strict=True)]
    shapes = [tuple(conv.weight.shape) for conv in own]
    if shapes != [tuple(kernel.shape) for kernel in kernels]:
        raise ConfigError(f"the head part of {backbone.tag} does not fit the encoder's trunk of {len(own)} layers")
    for conv, source, kernel in zip(own, theirs, kernels, strict=True):
        assert conv.bias is not None
        assert source.bias is not None
        conv.weight.copy_(kernel)
        conv.bias.copy_(source.bias)


def _convolutions(*modules: nn.Module) -> list[nn.Conv2d]:
    return [child for module in modules for child in module.modules() if isinstance(child, nn.Conv2d)]
