"""How far a codec's feature is from the backbone's own: the terms of the distortion, weighted by the phase.

    term      weight            compares                                                          name in the literature
    mse       feature_weight    the cut feature                                                   FP (FrankenSplit)
    saliency  saliency_weight   the cut feature, errors at salient places counting up to twice    SGFP (eq. 11)
    stages    stage_weight     the outputs of the frozen tail's stages                           GHND
    kl        kl_weight         the class distribution, through the frozen tail
    pooled    pooled_weight     the pooled features, which are all that any linear head reads

Axes: B batch, C channels, H height, W width, D pooled features.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pipeline.models.backbones import CutBackbone
from pipeline.models.synthesis import NormalisedSynthesis
from pipeline.training import losses
from pipeline.training.recipes import TERM_WEIGHTS, Phase
from pipeline.training.teacher import Answer, run_tail


def distortion_terms(
    synthesis: NormalisedSynthesis,
    frozen: CutBackbone,
    latent_BCHW: Tensor,
    answer: Answer,
    phase: Phase,
    pooled_std_D: Tensor,
) -> dict[str, Tensor]:
    """Each term that counts in ``phase`` for each frame, float32 [B]; ``mse`` is always there, to be looked at.

    ``pooled_std_D``: the deviation of each pooled feature over photos.
    """
    predicted_BCHW = synthesis.normalised(latent_BCHW)
    target_BCHW = (answer.feature_BCHW.float() - synthesis.target_mean) / synthesis.target_std
    terms = {"mse": losses.feature_loss(predicted_BCHW, target_BCHW)}
    if phase.saliency_weight > 0:
        assert answer.saliency_B1HW is not None
        terms["saliency"] = losses.saliency_feature_loss(predicted_BCHW, target_BCHW, answer.saliency_B1HW)
    if not phase.runs_tail:
        return terms

    feature_BCHW = predicted_BCHW * synthesis.target_std + synthesis.target_mean
    if phase.frame_gradient_max > 0 and feature_BCHW.requires_grad:
        feature_BCHW.register_hook(partial(limited_by_frame, maximum=phase.frame_gradient_max))
    pooled_BD, stages = run_tail(frozen, feature_BCHW, with_stages=phase.stage_weight > 0)
    if phase.stage_weight > 0:
        assert stages is not None
        assert answer.stages is not None
        terms["stages"] = losses.stages_loss(stages, answer.stages)
    if phase.kl_weight > 0:
        assert answer.pooled_BD is not None
        terms["kl"] = losses.kl_loss(frozen.classifier(pooled_BD), frozen.classifier(answer.pooled_BD))
    if phase.pooled_weight > 0:
        assert answer.pooled_BD is not None
        terms["pooled"] = losses.pooled_loss(pooled_BD, answer.pooled_BD, pooled_std_D)
    return terms


def limited_by_frame(gradient_BCHW: Tensor, *, maximum: float) -> Tensor:
    """The gradient with each frame's norm limited to ``maximum`` times the median over the batch; directions stay.

    What comes back through the tail is heavy-tailed: a few frames that the codec gets badly wrong have gradients tens
    of times the others', and all steps would be theirs.
    """
    norm_B = gradient_BCHW.float().flatten(1).norm(dim=1)
    scale_B = (maximum * norm_B.median() / norm_B.clamp_min(torch.finfo(torch.float32).tiny)).clamp_max(1.0)
    return gradient_BCHW * scale_B.to(gradient_BCHW.dtype).view(-1, 1, 1, 1)


def weighted(terms: dict[str, Tensor], phase: Phase) -> Tensor:
    """The distortion of each frame, float32 [B]."""
    distortion_B = torch.zeros_like(terms["mse"])
    for name, term_B in terms.items():
        weight = getattr(phase, TERM_WEIGHTS[name])
        if weight > 0:
            distortion_B = distortion_B + weight * term_B
    return distortion_B
