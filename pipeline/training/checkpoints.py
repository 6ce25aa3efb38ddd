"""Checkpoints: everything needed to go on with a run, and to know later what it was.

One torch file, written atomically, read with ``weights_only``: recipe, codec, its moving average, optimiser,
counters, the hashes of data and backbones' weights, and the git revision. ``load_codec`` is the way in for everyone who
only wants the trained codec.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file
from torch import nn

from pipeline.bundle import Bundle
from pipeline.errors import ConfigError, EngineError
from pipeline.models.analysis import latent_shape
from pipeline.models.feature_codec import CodecConfig, FeatureCodec, decoder_name
from pipeline.models.weights import home_file
from pipeline.training.recipes import Phase, Recipe

FORMAT = 1
_NETWORKS = ("analysis.", "synthesis.")


def save_checkpoint(file: Path, content: dict[str, Any]) -> None:
    """Write ``content`` so that a crash leaves either the old file or the new one. Raises EngineError."""
    partial = file.with_suffix(".partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"format": FORMAT, **content}, partial)
        os.replace(partial, file)
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError on a full disk
        partial.unlink(missing_ok=True)
        free_mb = shutil.disk_usage(file.parent).free / 1e6 if file.parent.exists() else 0.0
        reason = str(error) if isinstance(error, OSError) else f"{free_mb:.0f} MB are free there"
        raise EngineError(
            f"cannot write checkpoint {file}: {reason}: make room and start again, the last one is as it was"
        ) from error


def load_checkpoint(file: Path, *, kind: str = "codec") -> dict[str, Any]:
    """The content of a checkpoint of a ``codec`` or a ``backbone``.

    Raises EngineError if it cannot be read, has another format or is of another kind.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling and zip errors have no common base
        reason = str(error).partition("\n")[0].partition(". ")[0]  # torch explains at length
        raise EngineError(f"cannot read checkpoint {file}: {type(error).__name__}: {reason}: check the path") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EngineError(f"{file} is no checkpoint of format {FORMAT}: it was made by something else")
    found = content.get("kind", "codec")
    if found != kind:
        raise EngineError(f"{file} is a checkpoint of a {found}, expected one of a {kind}: check the path")
    return content


def load_codec(file: Path, *, average: bool = True) -> FeatureCodec:
    """The trained codec in eval mode: its moving average, or the raw weights. Raises EngineError."""
    return codec_of(load_checkpoint(file), average=average)


def codec_of(content: Mapping[str, Any], *, average: bool = True) -> FeatureCodec:
    """See ``load_codec``: from a checkpoint's content."""
    codec = FeatureCodec(codec_config(content["recipe"]))
    load_state(codec, content["average" if average else "codec"])
    codec.eval()
    codec.requires_grad_(False)
    codec.update_quantiles()
    return codec


def codec_config(recipe: Mapping[str, Any]) -> CodecConfig:
    """What codec a checkpoint's recipe is for, whatever its version. Raises EngineError."""
    values = {key: _tuples(value) for key, value in recipe["codec"].items()}
    try:
        return CodecConfig(**{"deep_decoders": (), **values})  # which those of before did not say
    except TypeError as error:
        raise EngineError(f"the checkpoint's codec is of another version: {error}") from error


def check_weights(weights: Mapping[str, str], content: Mapping[str, Any]) -> None:
    """Raises ConfigError if backbones (tag -> hash of its weights) are not those that a checkpoint was trained with, as
    far as it says.
    """
    for tag, before in content.get("weights", {}).items():
        if weights.get(tag, before) != before:
            raise ConfigError(
                f"{tag} has other weights here than the checkpoint was trained with: put those at {home_file(tag)}, "
                "where servers look too"
            )


def load_state(module: nn.Module, state: dict[str, torch.Tensor], *, may_lack: tuple[str, ...] = ()) -> None:
    """Load weights strictly, but for keys beginning with one of ``may_lack``. Raises EngineError if they do not fit."""
    try:
        found = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes
        raise EngineError(f"weights do not fit this codec: {str(error).splitlines()[-1].strip()}") from error
    lacking = [key for key in found.missing_keys if not any(key.startswith(prefix) for prefix in may_lack)]
    if lacking or found.unexpected_keys:
        what = f"lack {lacking[0]}" if lacking else f"have {found.unexpected_keys[0]}, which it has not"
        raise EngineError(f"weights do not fit this codec: they {what}; made for another analysis or backbone?")


def save_prior(codec: FeatureCodec, file: Path) -> None:
    """What a bundle needs beside g_a and g_s to be trained on: gains and the learned densities, as safetensors."""
    state = codec.state_dict()
    save_file({key: state[key].contiguous() for key in state if not key.startswith(_NETWORKS)}, file)


def codec_state_from_bundle(bundle: Bundle) -> dict[str, torch.Tensor]:
    """State dict of the FeatureCodec that `bundle` was made from: the averaged weights, without an optimiser's state.

    Raises BundleError if the bundle carries no prior.safetensors, ConfigError if its encoder has another shape by now.
    """
    name, found = bundle.edge_spec.analysis.name, bundle.edge_spec.latent.shape
    expected = latent_shape(name)
    if found != expected:
        raise ConfigError(
            f"the encoder {name} of {bundle.where} gives {found.channels} channels at 1/{found.stride}, this version's "
            f"{expected.channels} at 1/{expected.stride}: train with the version that made it"
        )
    state = load(bundle.read("server/prior.safetensors"))
    parts = {"analysis": "server/analysis.safetensors"}
    parts |= {f"synthesis.{decoder_name(backbone.tag)}": backbone.synthesis_path for backbone in bundle.backbones}
    for prefix, path in parts.items():
        state |= {f"{prefix}.{key}": value.float() for key, value in load(bundle.read(path)).items()}
    return state


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain dicts, lists and numbers."""
    return asdict(recipe)


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """The inverse of ``recipe_to_dict``. Raises EngineError for a recipe of another version."""
    plain = {key: _tuples(value) for key, value in values.items()}
    codec = codec_config(values)
    try:
        phases = tuple(Phase(**{key: _tuples(value) for key, value in phase.items()}) for phase in values["phases"])
    except TypeError as error:
        raise EngineError(f"the checkpoint's recipe is of another version: {error}; give --new-recipe") from error
    names = {field.name for field in fields(Recipe)} - {"codec", "phases"}
    return Recipe(codec=codec, phases=phases, **{key: plain[key] for key in names if key in plain})


def git_revision() -> str:
    """The commit that this code was run from, with ``+`` if files differ from it; ``unknown`` outside a repository."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
