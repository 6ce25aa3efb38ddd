"""`train codec`: what a run starts from, going on, being stopped, and what contradicts a run that is there."""

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
from pipeline.training import codec, loop, recipes, start  # noqa: E402
from pipeline.training.checkpoints import codec_state_from_bundle, load_checkpoint  # noqa: E402
from pipeline.training.codec import Wishes, train_codec  # noqa: E402
from pipeline.training.recipes import Recipe  # noqa: E402
from pipeline.training.run import RunSettings  # noqa: E402
from tests.pipeline.training.photos import write_tar  # noqa: E402

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunSettings:
    """A run of two steps on crops of 32, whatever the objective."""

    def tiny(name: str = "default", base: Recipe | None = None) -> Recipe:
        recipe = recipes.with_crops(recipes.objective_recipe(name, base), 32)
        return replace(recipe, phases=tuple(replace(phase, batch=4) for phase in recipe.phases), warmup_steps=1)

    monkeypatch.setattr(codec, "objective_recipe", tiny)
    monkeypatch.setattr(start, "MEASURED_BATCHES", 2)
    photos = str(write_tar(tmp_path / "photos.tar", ["a.png", "b.png", "c.png"]))
    return RunSettings((photos,), tmp_path / "store", tmp_path / "out", steps=2, threads=1, device="cpu")


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, Path]:
    torch.manual_seed(0)
    save_file(load_backbone(LITE0, pretrained=False).model.state_dict(), tmp_path / "lite0.safetensors")
    return {LITE0: tmp_path / "lite0.safetensors"}


def test_a_run_goes_on_where_it_was(settings: RunSettings, weights: dict[str, Path]) -> None:
    """A second call with more steps resumes, with the first one's objective, and appends to the same log."""
    assert train_codec(settings, Wishes("ghnd", (LITE0,)), weights=weights).finished
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
    own = {tag: tmp_path / "w.safetensors"}
    first = train_codec(settings, Wishes(backbones=(tag,)), weights=own, from_bundle=default_bundle_path())
    learnt, expected = load_checkpoint(first.path)["codec"], codec_state_from_bundle(Bundle.open())
    kept = [key for key in expected if not key.startswith("synthesis.")]
    assert len(kept) > 20
    assert all(torch.equal(learnt[key], expected[key]) for key in kept)
    second = train_codec(replace(settings, out=tmp_path / "second"), weights=own, from_checkpoint=first.path)
    content = load_checkpoint(second.path)
    assert (content["counters"]["step"], tuple(content["recipe"]["codec"]["backbones"])) == (2, (tag,))


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
    outcome = train_codec(replace(settings, steps=100), Wishes(backbones=(LITE0,)), weights=weights)
    assert not outcome.finished
    assert load_checkpoint(outcome.path)["counters"]["step"] == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_same_command_goes_on(settings: RunSettings, weights: dict[str, Path]) -> None:
    """With all of its flags, also those that only a new run heeds."""
    wishes = Wishes("kl", (LITE0,), "inverted_residual", (900.0, 1500.0, 2500.0))
    assert train_codec(settings, wishes, weights=weights).finished
    outcome = train_codec(replace(settings, steps=3), wishes, weights=weights)
    assert load_checkpoint(outcome.path)["counters"]["step"] == 3


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (Wishes(objective="kl"), "--objective is kl, the run in .* has default"),
        (Wishes(backbones=("resnet18",)), "--backbones is resnet18, the run in .* has tf_efficientnet_lite0"),
        (Wishes(analysis="stem"), "--analysis is stem, the run in .* has conv_stem"),
        (Wishes(target_bytes=(1.0, 2.0, 3.0)), "--target-bytes is 1,2,3, the run in .* has 1525,2550,4040"),
    ],
)
def test_a_run_is_not_changed_silently(
    settings: RunSettings, weights: dict[str, Path], wishes: Wishes, words: str
) -> None:
    """Flags that contradict the run that is there are refused, and the run is as it was."""
    path = train_codec(settings, Wishes(backbones=(LITE0,), analysis="conv_stem"), weights=weights).path
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=words):
        train_codec(replace(settings, steps=3), wishes, weights=weights)
    assert path.read_bytes() == before


def test_a_new_recipe_keeps_the_codec(settings: RunSettings, weights: dict[str, Path]) -> None:
    """Encoder and backbones are those of the checkpoint; the plan is that for weights which have learnt."""
    train_codec(settings, Wishes("kl", (LITE0,), "conv_stem"), weights=weights)
    outcome = train_codec(
        replace(settings, steps=3), Wishes(target_bytes=(1e3, 2e3, 3e3)), weights=weights, new_recipe=True
    )
    recipe = load_checkpoint(outcome.path)["recipe"]
    assert (recipe["codec"]["analysis"], recipe["codec"]["backbones"]) == ("conv_stem", (LITE0,))
    assert (recipe["objective"], recipe["target_bytes"]) == ("kl", (1e3, 2e3, 3e3))
    assert not any(phase["rate_ramp"] for phase in recipe["phases"])
    with pytest.raises(ConfigError, match="has the encoder conv_stem"):
        train_codec(settings, Wishes(analysis="stem"), weights=weights, new_recipe=True)


def test_other_weights_are_noticed(settings: RunSettings, weights: dict[str, Path], tmp_path: Path) -> None:
    """A run does not go on under another teacher of the same name."""
    train_codec(settings, Wishes(backbones=(LITE0,)), weights=weights)
    torch.manual_seed(1)
    save_file(load_backbone(LITE0, pretrained=False).model.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=f"{LITE0} has other weights here"):
        train_codec(replace(settings, steps=3), weights={LITE0: tmp_path / "other.safetensors"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wishes": Wishes(objective="vgg")}, "objective is 'vgg'"),
        ({"wishes": Wishes(backbones=("resnet999",))}, "resnet999"),
        ({"weights": {"resnet18": Path("w")}}, "weights are named for resnet18"),
        ({"wishes": Wishes(target_bytes=(2000.0,))}, "expected one above 0 each for low, standard, high"),
        ({"wishes": Wishes(target_bytes=(1e3, 2e3, 3e3)), "from_bundle": default_bundle_path()}, "stay as they are"),
        ({"from_bundle": Path("a"), "from_checkpoint": Path("b")}, "contradict"),
        ({"from_checkpoint": Path("nowhere.pt")}, "cannot read checkpoint"),
        ({"wishes": Wishes(analysis="mobile")}, "mobile"),
    ],
)
def test_what_is_wrong_is_said_before_photos_are_decoded(
    settings: RunSettings, options: dict[str, object], words: str
) -> None:
    with pytest.raises(FrankenError, match=words):
        train_codec(settings, **options)
    assert not settings.store.exists()
