"""A decoder for one more backbone on a frozen encoder: edges and their bitstreams stay as they are.

Encoder, gains and priors come from a bundle and keep every bit, so the new bundle has the old codec id and only servers
need it. No labels, as everywhere here: the teacher is the unmodified backbone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.bundle import Backbone, Bundle, write_bundle
from pipeline.bundle.writing import bundle_parts
from pipeline.errors import ConfigError
from pipeline.models.backbones import CutBackbone
from pipeline.models.feature_codec import CodecConfig
from pipeline.models.synthesis import begins_linear
from pipeline.models.weights import WEIGHT_PACKAGES
from pipeline.training.checkpoints import codec_state_from_bundle, load_checkpoint, recipe_from_dict
from pipeline.training.recipes import Recipe, decoder_recipe
from pipeline.training.run import (
    LAST,
    Outcome,
    RunSettings,
    at_sizes_of,
    check_budget,
    describe,
    ground,
    load_backbones,
    new_trainer,
    run_to_the_end,
)


def train_decoder(
    settings: RunSettings,
    backbone: str,
    *,
    bundle: Path | None = None,
    weights_file: Path | None = None,
    evaluate_photos: Path | None = None,
    held_out_photos: Path | None = None,
) -> Outcome:
    """Train (or go on training) the decoder of `backbone`, a timm tag, for the codec of `bundle` (None: the default).

    Gives the new bundle, `settings.out`/bundle: the old one with this backbone added, or its decoder replaced. A run
    that was interrupted only leaves its checkpoint. Raises FrankenError.
    """
    opened = Bundle.open(bundle)
    check_budget(settings)
    last, folder = settings.out / LAST, settings.out / "bundle"
    content = load_checkpoint(last) if last.exists() else None
    recipe = recipe_from_dict(content["recipe"]) if content else _new_recipe(_config(opened, backbone))
    files = {} if weights_file is None else {backbone: weights_file}
    state = codec_state_from_bundle(opened)
    loaded = load_backbones([backbone], files, stride=recipe.codec.cut_stride)
    if recipe.codec.backbones != (backbone,):
        raise ConfigError(f"the run in {settings.out} is for {', '.join(recipe.codec.backbones)}: name another --out")
    with ground(settings) as made:
        trainer = new_trainer(at_sizes_of(recipe, loaded), loaded, settings, made)
        if content is None:
            trainer.start(state)
        else:
            trainer.restore(content)
        made.say(f"{len(made.store)} photos; decoder of {backbone} for {opened.where}; {describe(made.workers)}")
        finished = run_to_the_end(trainer, settings, evaluate_photos=evaluate_photos, held_out_photos=held_out_photos)
        if finished and made.workers.leads:
            synthesis = trainer.average.synthesis[backbone].state_dict()
            origin = {key: trainer.content()[key] for key in ("counters", "data_sha256", "git_revision")}
            add_decoder(opened, folder, backbone_entry(loaded[backbone]), synthesis, provenance=origin)
        made.workers.wait()
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
    replaced decoder go with it: their features would mean something else.
    """
    parts = bundle_parts(bundle)
    if entry.tag in [one.tag for one in bundle.backbones]:
        parts["heads"] = [head for head in parts["heads"] if head[0].backbone != entry.tag]
    else:
        parts["backbones"].append(entry)
    state = {key: value.detach().cpu().contiguous() for key, value in synthesis.items()}
    parts["synthesis"] |= {entry.tag: save(state)}
    decoders = {**parts["provenance"].get("decoders", {}), entry.tag: provenance or {}}
    parts["provenance"] = {**parts["provenance"], "decoders": decoders}
    return write_bundle(folder, **parts)


def backbone_entry(backbone: CutBackbone, *, default: bool = False, side: int = 224) -> Backbone:
    """What a bundle says about a backbone; its ``default`` one is served to those who name none."""
    with torch.inference_mode():
        feature_BCHW = backbone.head_part(torch.zeros(1, 3, side, side))
    return Backbone(
        tag=backbone.tag,
        weights_sha256=backbone.weights_hash(),
        feature_channels=feature_BCHW.shape[1],
        feature_height=feature_BCHW.shape[2],
        feature_width=feature_BCHW.shape[3],
        pooled_width=backbone.pooled_features,
        alias=backbone.tag.removeprefix("tf_efficientnet_"),
        weight_package=WEIGHT_PACKAGES.get(backbone.tag.partition(".")[0], ""),
        default=default,
    )


def _new_recipe(codec: CodecConfig) -> Recipe:
    (tag,) = codec.backbones
    return decoder_recipe(codec, linear=codec.backbones if begins_linear(tag, codec.latent) else ())


def _config(bundle: Bundle, backbone: str) -> CodecConfig:
    points = bundle.operating_points
    return CodecConfig(
        analysis=bundle.edge_spec.analysis.name,
        backbones=(backbone,),
        operating_points=tuple(point.name for point in points),
        initial_gains=(1.0,) * len(points),  # the bundle's own come with its weights
    )
