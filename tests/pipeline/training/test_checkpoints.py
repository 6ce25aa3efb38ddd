"""Checkpoints: whole or not at all, and refused with one line where they are not what is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.errors import EngineError  # noqa: E402
from pipeline.training.checkpoints import (  # noqa: E402
    load_checkpoint,
    load_state,
    recipe_from_dict,
    recipe_to_dict,
    save_checkpoint,
)
from pipeline.training.recipes import Recipe  # noqa: E402


def test_a_full_disk_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a checkpoint cannot be written, the last one is as it was and no half one is left."""
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"step": 1})

    def full(_content: object, place: Path) -> None:
        Path(place).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(EngineError, match=r"cannot write checkpoint .*No space left .*the last one is as it was"):
        save_checkpoint(file, {"step": 2})
    assert load_checkpoint(file)["step"] == 1
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    """Any file, a torch file of something else, one of another kind: one short line each."""
    file = tmp_path / "a.pt"
    file.write_bytes(b"\xff\xd8 a picture")
    with pytest.raises(EngineError, match="cannot read checkpoint") as caught:
        load_checkpoint(file)
    assert len(str(caught.value)) < 300
    torch.save({"weight": torch.ones(1)}, file)
    with pytest.raises(EngineError, match="no checkpoint of format 1"):
        load_checkpoint(file)
    save_checkpoint(file, {"kind": "backbone"})
    with pytest.raises(EngineError, match="a checkpoint of a backbone, expected one of a codec"):
        load_checkpoint(file)
    save_checkpoint(file, {})
    with pytest.raises(EngineError, match="a checkpoint of a codec, expected one of a backbone"):
        load_checkpoint(file, kind="backbone")


def test_weights_of_something_else() -> None:
    """Weights with parts too many, too few or of other shapes are refused with the part's name."""
    module = torch.nn.Linear(2, 3)
    with pytest.raises(EngineError, match=r"lack bias"):
        load_state(module, {"weight": torch.ones(3, 2)})
    with pytest.raises(EngineError, match=r"have scale"):
        load_state(module, module.state_dict() | {"scale": torch.ones(1)})
    with pytest.raises(EngineError, match=r"size mismatch"):
        load_state(module, module.state_dict() | {"bias": torch.ones(4)})
    load_state(module, {"weight": torch.ones(3, 2)}, may_lack=("bias",))
    assert module.weight.detach().tolist() == [[1.0, 1.0]] * 3


def test_recipe_of_another_version() -> None:
    """A field that this version does not know is refused; fields that it has more get their defaults."""
    values = recipe_to_dict(Recipe())
    del values["phases"][0]["saliency_weight"]
    assert recipe_from_dict(values) == Recipe()
    values["phases"][0]["charm"] = 1.0
    with pytest.raises(EngineError, match=r"another version: .*charm"):
        recipe_from_dict(values)
