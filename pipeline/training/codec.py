"""`train codec`: encoder, entropy model and decoders, from nothing, from a bundle, from a checkpoint; or a run gone on
with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.bundle import Bundle
from pipeline.errors import ConfigError
from pipeline.models.analysis import latent_shape
from pipeline.models.feature_codec import CodecConfig
from pipeline.training.checkpoints import codec_config, codec_state_from_bundle, load_checkpoint, recipe_from_dict
from pipeline.training.recipes import Recipe, continued_recipe, decoder_recipe, objective_recipe
from pipeline.training.run import LAST, EvaluationPhotos, Outcome, RunSettings, carry_out, check_budget, load_backbones


@dataclass(frozen=True)
class Wishes:
    """What a codec shall be, where it is said: what is empty stays as it is, or as the defaults have it."""

    objective: str = ""
    backbones: tuple[str, ...] = ()
    analysis: str = ""
    target_bytes: tuple[float, ...] = ()

    def check_against(self, recipe: Recipe, out: Path) -> None:
        """Raises ConfigError if a run is of another recipe."""
        codec = recipe.codec
        there: dict[str, object] = {
            "objective": recipe.objective, "backbones": codec.backbones, "analysis": codec.analysis,
            "target_bytes": recipe.target_bytes,
        }  # fmt: skip
        for name, wanted in vars(self).items():
            if wanted and wanted != there[name]:
                asked = f"--{name.replace('_', '-')} is {_text(wanted)}"
                raise ConfigError(
                    f"{asked}, the run in {out} has {_text(there[name])}: name another --out, or give --new-recipe"
                )

    def or_those_of(self, codec: CodecConfig, **more: Any) -> Wishes:
        """With what another codec has in place of what is not said."""
        known = Wishes(backbones=codec.backbones, analysis=codec.analysis, **more)
        return Wishes(**{name: wish or getattr(known, name) for name, wish in vars(self).items()})


@dataclass(frozen=True)
class _Origin:
    """Weights that a run begins with."""

    codec: CodecConfig
    state: dict[str, Tensor]
    name: str


def train_codec(
    settings: RunSettings,
    wishes: Wishes | None = None,
    *,
    weights: Mapping[str, Path] | None = None,
    from_bundle: Path | None = None,
    from_checkpoint: Path | None = None,
    from_average: bool = False,
    new_recipe: bool = False,
    evaluation: EvaluationPhotos | None = None,
) -> Outcome:
    """Train a codec, or go on with the run in `settings.out`; gives its checkpoint.

    A run that is gone on with keeps its recipe unless `new_recipe` is given; a new one starts afresh, from a bundle's
    weights or from a checkpoint's average, whose encoder and backbones it keeps where `wishes` say nothing else. Raises
    FrankenError.
    """
    check_budget(settings)
    wishes = wishes if wishes is not None else Wishes()
    evaluation = evaluation if evaluation is not None else EvaluationPhotos()
    evaluation.check()
    last = settings.out / LAST
    content = load_checkpoint(last) if last.exists() else None
    origin = _origin(from_bundle, from_checkpoint) if content is None else None
    if content is not None:
        recipe = _resumed_recipe(content, wishes, settings.out, new_recipe=new_recipe)
    elif origin is not None:
        recipe = make_recipe(wishes.or_those_of(origin.codec), trained=origin.codec.backbones)
        if wishes.target_bytes and recipe.decoders_only:
            raise ConfigError(f"the gains stay as they are in {origin.name}: --target-bytes want a start from nothing")
    else:
        recipe = make_recipe(wishes)
    fresh = content is None and origin is None
    loaded = load_backbones(_needed_backbones(recipe, fresh=fresh), weights or {}, stride=recipe.codec.cut_stride)
    what = "resumed" if content is not None else "new run" if origin is None else f"from {origin.name}"
    finished = carry_out(
        settings, recipe, loaded, content=content, state=None if origin is None else origin.state,
        evaluation=evaluation, what=what, from_average=from_average,
    )  # fmt: skip
    return Outcome(last, finished)


def make_recipe(wishes: Wishes, *, trained: Collection[str] = ()) -> Recipe:
    """The plan for a new codec. `trained`: the backbones whose decoders, and the encoder that belongs to them, have
    learnt before. Raises ConfigError for an unknown encoder or objective, or targets that do not fit.
    """
    base = Recipe()
    codec = replace(base.codec, analysis=wishes.analysis or base.codec.analysis)
    latent_shape(codec.analysis)  # refuses a name that it does not know
    if wishes.backbones and wishes.backbones != codec.backbones:
        codec = replace(codec, backbones=wishes.backbones)
        base = replace(base, backbone_shares=(1 / len(wishes.backbones),) * len(wishes.backbones))
    base = replace(base, codec=codec)
    if codec.analysis == "inverted_residual":
        base = decoder_recipe(codec, base, trained=trained)
    elif trained:
        base = continued_recipe(base)
    return _with_targets(objective_recipe(wishes.objective or base.objective, base), wishes.target_bytes)


def _resumed_recipe(content: Mapping[str, Any], wishes: Wishes, out: Path, *, new_recipe: bool) -> Recipe:
    """The checkpoint's recipe, or a new one for what it holds."""
    if not new_recipe:
        recipe = recipe_from_dict(content["recipe"])
        wishes.check_against(recipe, out)
        return recipe
    codec = codec_config(content["recipe"])
    if wishes.analysis not in ("", codec.analysis):
        raise ConfigError(f"the run in {out} has the encoder {codec.analysis}: another one wants another --out")
    targets = tuple(content["recipe"]["target_bytes"])
    recipe = make_recipe(
        wishes.or_those_of(codec, objective=content["recipe"].get("objective", ""), target_bytes=targets),
        trained=codec.backbones,
    )
    if recipe.decoders_only and recipe.target_bytes != targets:
        raise ConfigError(f"the gains of {codec.analysis} stay as they began: other target bytes want another --out")
    return recipe


def _needed_backbones(recipe: Recipe, *, fresh: bool) -> tuple[str, ...]:
    """The codec's, and the one that a fresh encoder begins with."""
    own = recipe.codec.backbones
    begins = fresh and recipe.codec.analysis == "inverted_residual" and recipe.encoder_from not in own
    return (*own, recipe.encoder_from) if begins else own


def _origin(from_bundle: Path | None, from_checkpoint: Path | None) -> _Origin | None:
    if from_bundle is not None and from_checkpoint is not None:
        raise ConfigError("--from-bundle and --from-checkpoint contradict each other: give one of them")
    if from_bundle is not None:
        bundle = Bundle.open(from_bundle)
        tags = tuple(one.tag for one in bundle.backbones)
        codec = replace(CodecConfig(), analysis=bundle.edge_spec.analysis.name, backbones=tags)
        return _Origin(codec, codec_state_from_bundle(bundle), str(from_bundle))
    if from_checkpoint is not None:
        content = load_checkpoint(from_checkpoint)
        return _Origin(codec_config(content["recipe"]), content["average"], str(from_checkpoint))
    return None


def _with_targets(recipe: Recipe, target_bytes: tuple[float, ...]) -> Recipe:
    if not target_bytes:
        return recipe
    points = recipe.codec.operating_points
    if len(target_bytes) != len(points) or min(target_bytes) <= 0:
        raise ConfigError(f"target bytes are {list(target_bytes)}, expected one above 0 each for {', '.join(points)}")
    return replace(recipe, target_bytes=target_bytes)


def _text(value: object) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
