"""A decoder for one more backbone on a frozen encoder: edges and their bitstreams stay as they are.

Encoder, gains and priors come from a bundle and keep every bit, so the new bundle has the old codec id and only servers
need it. No labels, as everywhere here: the teacher is the unmodified backbone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from safetensors.torch import save
from torch import Tensor

from pipeline.bundle import Backbone, Bundle, ReferenceFigures, write_bundle
from pipeline.bundle.writing import bundle_parts
from pipeline.errors import ConfigError
from pipeline.models.export import backbone_entry
from pipeline.models.feature_codec import CodecConfig
from pipeline.training.checkpoints import codec_state_from_bundle, load_checkpoint, recipe_from_dict
from pipeline.training.loop import Trainer
from pipeline.training.recipes import decoder_recipe
from pipeline.training.run import LAST, EvaluationPhotos, Outcome, RunSettings, carry_out, check_budget, load_backbones

_DECODERS = "synthesis."


def train_decoder(
    settings: RunSettings,
    backbone: str,
    *,
    bundle: Path | None = None,
    weights_file: Path | None = None,
    evaluation: EvaluationPhotos | None = None,
) -> Outcome:
    """Train (or go on training) the decoder of `backbone`, a timm tag, for the codec of `bundle` (None: the default).

    Gives the new bundle, `settings.out`/bundle: the old one with this backbone added, or its decoder replaced; one that
    it has is the start. A run that was interrupted only leaves its checkpoint. Raises FrankenError.
    """
    opened = Bundle.open(bundle)
    check_budget(settings)
    evaluation = evaluation if evaluation is not None else EvaluationPhotos()
    evaluation.check()
    last, folder = settings.out / LAST, settings.out / "bundle"
    content = load_checkpoint(last) if last.exists() else None
    state = codec_state_from_bundle(opened)
    if content is None:
        trained = [one.tag for one in opened.backbones]
        recipe = decoder_recipe(_config(opened, backbone), trained=trained)
    else:
        recipe = recipe_from_dict(content["recipe"])
        if recipe.codec.backbones != (backbone,):
            theirs = ", ".join(recipe.codec.backbones)
            raise ConfigError(f"the run in {settings.out} is for {theirs}: name another --out")
        if not _same_encoder(content["codec"], state):
            raise ConfigError(
                f"the run in {settings.out} is for another encoder than that of {opened.where}: name its --bundle, or "
                "another --out"
            )
    files = {} if weights_file is None else {backbone: weights_file}
    loaded = load_backbones([backbone], files, stride=recipe.codec.cut_stride)

    def write(trainer: Trainer) -> None:
        synthesis = trainer.average.synthesis[backbone].state_dict()
        origin = {key: trainer.content()[key] for key in ("counters", "data_sha256", "git_revision")}
        add_decoder(opened, folder, backbone_entry(loaded[backbone]), synthesis, provenance=origin)

    finished = carry_out(
        settings, recipe, loaded, content=content, state=state, evaluation=evaluation,
        what=f"decoder of {backbone} for {opened.where}", then=write,
    )  # fmt: skip
    return Outcome(folder if finished else last, finished)


def add_decoder(
    bundle: Bundle,
    folder: Path,
    entry: Backbone,
    synthesis: dict[str, Tensor],
    *,
    provenance: dict[str, Any] | None = None,
) -> Bundle:
    """Write `bundle` to `folder` with one more backbone, or with another decoder for one that it has. The heads of a
    replaced decoder go with it, since their features would mean something else, and so do all figures of the backbone.
    """
    parts = bundle_parts(bundle)
    if entry.tag in [one.tag for one in bundle.backbones]:
        parts["heads"] = [head for head in parts["heads"] if head[0].backbone != entry.tag]
        parts |= _figures_without(entry.tag, parts["figures"], parts["reference"])
    else:
        parts["backbones"].append(entry)
    state = {key: value.detach().cpu().contiguous() for key, value in synthesis.items()}
    parts["synthesis"] |= {entry.tag: save(state)}
    decoders = {**parts["provenance"].get("decoders", {}), entry.tag: provenance or {}}
    parts["provenance"] = {**parts["provenance"], "decoders": decoders}
    return write_bundle(folder, **parts)


def _figures_without(tag: str, figures: Mapping[str, Any], reference: ReferenceFigures | None) -> dict[str, Any]:
    """What was measured, but for one backbone."""
    of_backbones = {other: one for other, one in figures.get("backbones", {}).items() if other != tag}
    of_heads = {
        task: {other: one for other, one in heads.items() if other != tag}
        for task, heads in figures.get("heads", {}).items()
    }
    kept = {**figures, "backbones": of_backbones, "heads": {task: heads for task, heads in of_heads.items() if heads}}
    if reference is not None:
        reference = replace(reference, confidence={t: one for t, one in reference.confidence.items() if t != tag})
    return {"figures": kept, "reference": reference}


def _same_encoder(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether encoder, gains and priors are equal bit for bit."""
    mine, theirs = ({k: v for k, v in state.items() if not k.startswith(_DECODERS)} for state in (one, other))
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def _config(bundle: Bundle, backbone: str) -> CodecConfig:
    points = bundle.operating_points
    return CodecConfig(
        analysis=bundle.edge_spec.analysis.name,
        backbones=(backbone,),
        operating_points=tuple(point.name for point in points),
        initial_gains=(1.0,) * len(points),  # the bundle's own come with its weights
    )
