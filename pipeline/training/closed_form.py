"""What training begins with instead of random weights: a codec in closed form.

An encoder begins with the shallow layers of a trained classifier. Behind them it sends the transform of their feature
that costs the fewest bits for the harm that rounding does *to the backbones' answers*: the Karhunen-Loeve transform in
the metric of their tails. Decoders begin as least-squares maps back. docs/decisions/0016 has the derivation and what
each part is worth.

Rounding adds an error e to the feature x, and to second order KL = 1/2 e^T M e, where M = E[g g^T] is the Fisher
information of the answer about the feature: g = d log p(k) / dx for a class k drawn from the backbone's own answer p.
The transform with equal steps, W = U^T M^(1/2) with U the eigenvectors of M^(1/2) C M^(1/2) and C the feature's
covariance, spreads rounding errors evenly in that metric and leaves the symbols uncorrelated. Both matrices are taken
for each band of ``BandTransform`` by itself.

Axes: B batch, C channels of the latent, D channels of a feature, E pooled features, H height, W width, K classes, N
samples, Q bands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.analysis import InvertedResidualAnalysis
from pipeline.models.backbones import CutBackbone
from pipeline.models.feature_codec import FeatureCodec
from pipeline.models.synthesis import NormalisedSynthesis
from pipeline.training.fast_forms import training_form

FRAME_PIXELS = 224 * 224
_GAIN_RANGE = (0.01, 100.0)
_BISECTIONS = 14
_PRICED_CROPS = 96
_STD_MIN = 0.1
"""Of a density, in symbols: below, nothing but the fill is ever sent."""
_CENTRED = 0.5
_METRIC_FLOOR = 0.03
"""Share of the mean metric that every direction gets: tails look blind in some because so few photos were asked."""


@torch.no_grad()
def copy_trunk(analysis: InvertedResidualAnalysis, backbone: CutBackbone | None) -> None:
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


@dataclass(frozen=True)
class Sensitivity:
    """A backbone's feature at the cut over some photos, float32 [B, D, H, W], and what moves its answer there: as many
    gradients [N, D, H, W].
    """

    feature_BDHW: Tensor
    gradient_NDHW: Tensor


def sensitivity(
    frozen: CutBackbone, feature_BDHW: Tensor, *, pooled_std: Tensor, batch: int = 24, seed: int = 0
) -> Sensitivity:
    """Ask the tail of a frozen backbone about cut features, float32, some at a time: one gradient for its own classes
    and one for its pooled features, which other heads read, in units of their deviation; each kind is of unit power.
    """
    generator = torch.Generator().manual_seed(seed)
    classes: list[Tensor] = []
    pools: list[Tensor] = []
    for part_BDHW in feature_BDHW.split(batch):
        seen_BDHW = part_BDHW.detach().requires_grad_(True)
        pooled_BE = frozen.tail(seen_BDHW).float()
        log_p_BK = frozen.classifier(pooled_BE).log_softmax(dim=1)
        drawn_B1 = torch.multinomial(log_p_BK.detach().exp().cpu(), 1, generator=generator).to(log_p_BK.device)
        direction_BE = torch.randn(pooled_BE.shape, generator=generator).to(pooled_BE.device) / pooled_std
        classes += torch.autograd.grad(log_p_BK.gather(1, drawn_B1).sum(), seen_BDHW, retain_graph=True)
        pools += torch.autograd.grad((pooled_BE * direction_BE).sum(), seen_BDHW)
    kinds = [torch.cat(kind) for kind in (classes, pools)]
    return Sensitivity(feature_BDHW, torch.cat([kind / kind.square().mean().sqrt() for kind in kinds]))


@torch.no_grad()
def begin_transform(
    analysis: InvertedResidualAnalysis, images: Sequence[Tensor], backbones: Sequence[Sensitivity]
) -> None:
    """Set the layers behind the trunk to the transform in closed form. ``backbones``: what those to be served say about
    ``images``; each counts through the least-squares map from the trunk's feature to its own, which for the backbone
    that the trunk comes from is the identity.
    """
    shallow_BDHW = torch.cat([analysis.shallow(image_BCHW).float() for image_BCHW in images])
    std_1D11, mean_1D11 = torch.std_mean(shallow_BDHW, dim=(0, 2, 3), keepdim=True)
    std_1D11 = std_1D11.clamp_min(1e-3)
    feature_BDHW = (shallow_BDHW - mean_1D11) / std_1D11
    gradients = []
    for one in backbones:
        map_DE = least_squares(places(feature_BDHW), places(one.feature_BDHW))[:-1]
        gradients.append(torch.einsum("de,nehw->ndhw", map_DE, one.gradient_NDHW))
    pairs = analysis.transform.pairs()
    covariance_QDD = torch.stack([_covariance(band(feature_BDHW)) for band, _ in pairs])
    metric_QDD = torch.zeros_like(covariance_QDD)
    for gradient_NDHW in gradients:
        one_QDD = torch.stack([_covariance(band(gradient_NDHW)) for band, _ in pairs])
        metric_QDD += one_QDD / one_QDD.diagonal(dim1=1, dim2=2).mean() / len(gradients)

    importance = []
    floor_DD = _METRIC_FLOOR * torch.eye(covariance_QDD.shape[1], device=covariance_QDD.device)
    for number, (band, transform) in enumerate(pairs):
        values_D, vectors_DD = torch.linalg.eigh((metric_QDD[number] + floor_DD).double())
        root_DD = vectors_DD * values_D.sqrt() @ vectors_DD.T
        power_D, basis_DD = torch.linalg.eigh(root_DD @ covariance_QDD[number].double() @ root_DD)
        kept = transform.out_channels
        map_CD = ((root_DD @ basis_DD).T.flip(0)[:kept]).float() / std_1D11.flatten()
        transform.weight.copy_(map_CD[:, :, None, None])
        assert transform.bias is not None
        transform.bias.copy_(-map_CD @ band(mean_1D11.expand(-1, -1, 2, 2)).flatten())
        importance.append(power_D.flip(0)[:kept])
    analysis.transform.order_C.copy_(torch.cat(importance).argsort(descending=True))


@torch.no_grad()
def restore_linearly(synthesis: NormalisedSynthesis, latent_BCHW: Tensor, feature_BDHW: Tensor) -> None:
    """Let a decoder begin with the least-squares map from latents to ``feature_BDHW``, in the units of its target
    statistics.
    """
    target_BDHW = (feature_BDHW - synthesis.target_mean) / synthesis.target_std
    factor = target_BDHW.shape[-1] // latent_BCHW.shape[-1]
    weight_CD = least_squares(places(latent_BCHW), places(nn.functional.pixel_unshuffle(target_BDHW, factor)))
    synthesis.begin_linear(weight_CD[:-1].T, weight_CD[-1])


@torch.no_grad()
def begin_points(codec: FeatureCodec, latent_BCHW: Tensor, bytes_P: Sequence[float]) -> None:
    """Give each operating point one gain for all channels, so that frames of 224 x 224 take ``bytes_P`` by its prior
    (by bisection), and each channel a density of the right place and width.
    """
    some_BCHW = latent_BCHW[:: -(-len(latent_BCHW) // _PRICED_CROPS)]
    pixels = some_BCHW[:, 0].numel() * codec.config.latent.stride**2
    for point, wanted in enumerate(bytes_P):
        low, high = map(math.log, _GAIN_RANGE)
        for _ in range(_BISECTIONS):
            codec.log_gain_PC[point] = (low + high) / 2
            begin_prior(codec, some_BCHW, point)
            bits = float(codec.symbol_bits(codec.quantise(some_BCHW, point), point).sum())
            too_many = bits / 8 * FRAME_PIXELS / pixels > wanted
            low, high = (low, (low + high) / 2) if too_many else ((low + high) / 2, high)
        begin_prior(codec, latent_BCHW, point)


@torch.no_grad()
def begin_prior(codec: FeatureCodec, latent_BCHW: Tensor, point: int) -> None:
    """Give each channel at an operating point a density of its latents' place and width, so that the rate means
    something from the first step on.
    """
    std_C, mean_C = torch.std_mean(latent_BCHW * codec.gain_1C11(point), dim=(0, 2, 3))
    codec.bottleneck(point).begin(mean_C, std_C.clamp_min(_STD_MIN))


def places(x_BCHW: Tensor) -> Tensor:
    """Every place of every frame as a sample: [N, C]."""
    return x_BCHW.float().permute(0, 2, 3, 1).flatten(0, 2)


def least_squares(from_NC: Tensor, to_ND: Tensor) -> Tensor:
    """The affine map with the smallest squared error, float32 [C + 1, D]; its last row is the constant."""
    from_NK = torch.cat([from_NC, from_NC.new_ones(len(from_NC), 1)], dim=1).double()
    gram_KK = from_NK.T @ from_NK
    gram_KK += 1e-6 * gram_KK.diagonal().mean() * torch.eye(len(gram_KK), device=gram_KK.device)
    return torch.linalg.solve(gram_KK, from_NK.T @ to_ND.double()).float()


def _covariance(x_BCHW: Tensor) -> Tensor:
    x_NC = places(x_BCHW)
    return x_NC.T @ x_NC / len(x_NC)


def _convolutions(*modules: nn.Module) -> list[nn.Conv2d]:
    return [child for module in modules for child in module.modules() if isinstance(child, nn.Conv2d)]
