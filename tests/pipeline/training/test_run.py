"""Runs from their settings: budgets, what a run starts from, going on, being stopped."""

from __future__ import annotations

import csv
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from safetensors.torch import save_file  # noqa: E402

from pipeline.bundle import Bundle, default_bundle_path  # noqa: E402
from pipeline.errors import ConfigError, FrankenError  # noqa: E402
from pipeline.models.backbones import load_backbone  # noqa: E402
from pipeline.training import loop, recipes, run, start  # noqa: E402
from pipeline.training.checkpoints import codec_state_from_bundle, load_checkpoint  # noqa: E402
from pipeline.training.log import Counters  # noqa: E402
from pipeline.training.recipes import Recipe  # noqa: E402
from pipeline.training.run import RunSettings, check_budget, progress_by, train_codec  # noqa: E402
from tests.pipeline.training.photos import write_tar  # noqa: E402

LITE0 = "tf_efficientnet_lite0"
NOWHERE = RunSettings(("photos.tar",), Path("store"), Path("out"))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSettings:
    """A run of two steps on crops of 32, whatever the objective."""

    def tiny(name: str = "default", base: Recipe | None = None) -> Recipe:
        recipe = recipes.with_crops(recipes.objective_recipe(name, base), 32)
        return replace(recipe, phases=tuple(replace(phase, batch=4) for phase in recipe.phases), warmup_steps=1)

    monkeypatch.setattr(run, "objective_recipe", tiny)
    monkeypatch.setattr(start, "MEASURED_BATCHES", 2)
    photos = str(write_tar(tmp_path / "photos.tar", ["a.png", "b.png", "c.png"]))
    return RunSettings((photos,), tmp_path / "store", tmp_path / "out", steps=2, threads=1, device="cpu")


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, Path]:
    torch.manual_seed(0)
    save_file(load_backbone(LITE0, pretrained=False).model.state_dict(), tmp_path / "lite0.safetensors")
    return {LITE0: tmp_path / "lite0.safetensors"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "budgets given: none"),
        ({"minutes": 3.0, "steps": 2}, "--minutes, --steps"),
        ({"steps": 0}, "--steps is 0"),
        ({"end_at": "noon"}, "07:30"),
    ],
)
def test_one_budget_is_needed(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_budget(replace(NOWHERE, **changes))


def test_progress() -> None:
    """By steps and by minutes in all it follows the counters; by time it begins where the elapsed part puts it."""
    later = Counters(step=5, elapsed_s=30.0)
    assert progress_by(replace(NOWHERE, steps=20), Counters())(later) == 0.25
    assert progress_by(replace(NOWHERE, minutes_in_all=2.0), Counters())(later) == 0.25
    assert progress_by(replace(NOWHERE, minutes=1.5), later)(later) == pytest.approx(0.25, abs=0.01)
    assert 0.0 <= progress_by(replace(NOWHERE, end_at="07:30"), Counters())(later) < 1.0


def test_a_run_goes_on_where_it_was(settings: RunSettings, weights: dict[str, Path]) -> None:
    """A second call with more steps resumes, with the first one's objective, and appends to the same log."""
    options = {"backbones": (LITE0,), "weights": weights}
    assert train_codec(settings, objective="ghnd", **options).finished
    outcome = train_codec(replace(settings, steps=3), weights=weights)
    content = load_checkpoint(outcome.path)
    assert content["counters"]["step"] == 3
    assert any(phase["stage_weight"] > 0 for phase in content["recipe"]["phases"])
    rows = list(csv.DictReader((settings.out / "train.csv").open()))
    assert [row["step"] for row in rows] == ["2", "3"]
    assert float(rows[-1][f"stages_{LITE0}"]) > 0


def test_a_run_starts_from_a_bundle_with_another_backbone(settings: RunSettings, tmp_path: Path) -> None:
    """Encoder and priors come from the bundle or a checkpoint; a backbone that it has not gets a fresh decoder."""
    torch.manual_seed(0)
    tag = f"{LITE0}.in1k"
    save_file(load_backbone(tag, pretrained=False).model.state_dict(), tmp_path / "w.safetensors")
    options = {"backbones": (tag,), "weights": {tag: tmp_path / "w.safetensors"}}
    first = train_codec(settings, from_bundle=default_bundle_path(), **options)
    learnt = load_checkpoint(first.path)["codec"]["analysis.transform.transforms.0.weight"]
    expected = codec_state_from_bundle(Bundle.open())["analysis.transform.transforms.0.weight"]
    torch.testing.assert_close(learnt, expected, rtol=0, atol=0.02)
    second = train_codec(replace(settings, out=tmp_path / "second"), from_checkpoint=first.path, **options)
    assert load_checkpoint(second.path)["counters"]["step"] == 2


def test_a_signal_saves_and_ends(
    settings: RunSettings, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM during a step: the run ends after it with a checkpoint, is not finished, and handlers are as before."""
    before = signal.getsignal(signal.SIGTERM)
    step = loop.Trainer.step

    def interrupted(trainer: loop.Trainer, *arguments: object) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Trainer, "step", interrupted)
    outcome = train_codec(replace(settings, steps=100), backbones=(LITE0,), weights=weights)
    assert not outcome.finished
    assert load_checkpoint(outcome.path)["counters"]["step"] == 1
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "vgg"}, "objective is 'vgg'"),
        ({"backbones": ("resnet999",)}, "resnet999"),
        ({"weights": {"resnet18": Path("w")}}, "weights are named for resnet18"),
        ({"target_bytes": (2000.0,)}, "expected one above 0 each for low, standard, high"),
        ({"from_bundle": Path("a"), "from_checkpoint": Path("b"), "analysis": "stem"}, "contradict"),
        ({"from_checkpoint": Path("nowhere.pt")}, "cannot read checkpoint"),
        ({"analysis": "mobile"}, "mobile"),
    ],
)
def test_what_is_wrong_is_said_before_photos_are_decoded(
    settings: RunSettings, options: dict[str, object], words: str
) -> None:
    with pytest.raises(FrankenError, match=words):
        train_codec(settings, **options)
    assert not settings.store.exists()
