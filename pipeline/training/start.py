"""What a run begins with, before its first step: what is measured of the backbones, weights that are there already, and
in closed form (closed_form.py) whatever else can begin so.

Axes: B batch, C channels of the latent, D channels of a feature, H height, W width, N crops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.analysis import InvertedResidualAnalysis
from pipeline.models.backbones import CutBackbone
from pipeline.models.feature_codec import FeatureCodec, decoder_name
from pipeline.models.synthesis import InvertedResidualSynthesis, NormalisedSynthesis
from pipeline.training.checkpoints import load_state
from pipeline.training.closed_form import begin_points, begin_transform, copy_trunk, restore_linearly, sensitivity
from pipeline.training.data import CropSampler
from pipeline.training.recipes import Phase, Recipe

MEASURED_BATCHES = 24
_FIRST_BATCH = 2**31
"""Far behind those that training draws."""


@dataclass(frozen=True)
class Measured:
    """A backbone over the measured crops: its cut feature, float32 [N, D, H, W], and the deviation of each of its
    pooled features, float32.
    """

    feature_NDHW: Tensor
    pooled_std: Tensor


def measured_crops(sampler: CropSampler, phase: Phase, device: torch.device) -> list[Tensor]:
    """The batches of crops that statistics are taken of: always the same, of a phase's size, in none of the pools."""
    numbers = range(_FIRST_BATCH, _FIRST_BATCH + MEASURED_BATCHES)
    return [sampler.batch(number, size=phase.crop, count=phase.batch).to(device) for number in numbers]


@torch.no_grad()
def measure(frozen: CutBackbone, crops: Sequence[Tensor]) -> Measured:
    """Ask an unmodified backbone about the crops."""
    features, pooled = [], []
    for image_BCHW in crops:
        feature_BDHW = frozen.head_part(image_BCHW)
        features.append(feature_BDHW.float())
        pooled.append(frozen.tail(feature_BDHW).float())
    std = torch.cat(pooled).std(dim=0)
    # Rarely active pooled features would weigh far too much if divided by their own tiny deviation.
    return Measured(torch.cat(features), std.clamp_min(0.25 * float(std.median())))


def set_statistics(codec: FeatureCodec, measured: Mapping[str, Measured]) -> None:
    """Tell every decoder the mean and deviation of its target's channels."""
    for tag, one in measured.items():
        std_D, mean_D = torch.std_mean(one.feature_NDHW, dim=(0, 2, 3))
        _decoder(codec, tag).set_target_statistics(mean_D, std_D.clamp_min(1e-3))


def load_what_is_there(codec: FeatureCodec, state: Mapping[str, Tensor]) -> list[str]:
    """Load a codec's weights, passing over decoders of backbones that this one does not serve; gives the tags of those
    whose decoders the state has not. Blocks that a decoder has beyond its state's pass on what comes in.

    Raises EngineError if encoder, gains, priors or a decoder do not fit.
    """
    own = {tag: f"synthesis.{decoder_name(tag)}." for tag in codec.config.backbones}
    served = tuple(own.values())
    state = {key: value for key, value in state.items() if not key.startswith("synthesis.") or key.startswith(served)}
    fresh = [tag for tag, prefix in own.items() if not any(key.startswith(prefix) for key in state)]
    may_lack = [own[tag] for tag in fresh]
    for tag in own:
        synthesis = codec.synthesis[tag]
        if tag not in fresh and isinstance(synthesis, InvertedResidualSynthesis):
            synthesis.silence_blocks()
            may_lack.append(f"{own[tag]}blocks.")
    load_state(codec, dict(state), may_lack=tuple(may_lack))
    return fresh


def begin_encoder(
    codec: FeatureCodec,
    recipe: Recipe,
    frozen: Mapping[str, CutBackbone],
    source: CutBackbone | None,
    crops: Sequence[Tensor],
    measured: Mapping[str, Measured],
) -> bool:
    """Set an encoder that has a closed form; others stay as they are: False. ``source``: the backbone that its first
    layers come from.
    """
    analysis = codec.analysis
    if not isinstance(analysis, InvertedResidualAnalysis):
        return False
    copy_trunk(analysis, source)
    batch = recipe.phases[-1].batch
    asked = [
        sensitivity(frozen[tag], one.feature_NDHW, pooled_std=one.pooled_std, batch=batch, seed=recipe.seed)
        for tag, one in measured.items()
    ]
    begin_transform(analysis, crops, asked)
    return True


@torch.no_grad()
def begin_behind_encoder(
    codec: FeatureCodec,
    crops: Sequence[Tensor],
    measured: Mapping[str, Measured],
    *,
    decoders: Sequence[str],
    bytes_P: Sequence[float] | None,
) -> None:
    """From the encoder as it is: gains and priors for ``bytes_P`` (None: they stay), and least-squares maps for those
    of ``decoders`` that have a linear path.
    """
    linear = [tag for tag in decoders if _decoder(codec, tag).begins_linear]
    if bytes_P is None and not linear:
        return
    latent_BCHW = torch.cat([codec.analysis(image_BCHW).float() for image_BCHW in crops])
    if bytes_P is not None:
        begin_points(codec, latent_BCHW, bytes_P)
    for tag in linear:
        restore_linearly(_decoder(codec, tag), latent_BCHW, measured[tag].feature_NDHW)


def _decoder(codec: FeatureCodec, tag: str) -> NormalisedSynthesis:
    synthesis = codec.synthesis[tag]
    assert isinstance(synthesis, NormalisedSynthesis)
    return synthesis
