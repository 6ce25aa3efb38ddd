"""The training loop: it learns, resumes exactly, keeps frozen what is frozen, steers the rate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.errors import ConfigError  # noqa: E402
from pipeline.models.backbones import CutBackbone, load_backbone  # noqa: E402
from pipeline.models.feature_codec import CodecConfig  # noqa: E402
from pipeline.training.checkpoints import load_checkpoint, load_codec, recipe_from_dict, recipe_to_dict  # noqa: E402
from pipeline.training.data import CropSampler, PhotoSource, build_photo_store  # noqa: E402
from pipeline.training.loop import Intervals, Trainer  # noqa: E402
from pipeline.training.recipes import Phase, Recipe, phase_at  # noqa: E402
from tests.pipeline.training.photos import write_tar  # noqa: E402

LITE0 = "tf_efficientnet_lite0"
QUIET = Intervals(checkpoint_s=1e9, evaluate_s=1e9, log_steps=1000)


def tiny_recipe(**changes: object) -> Recipe:
    """Two phases of a few steps on crops of 32, with everything switched on in the second."""
    phases = (
        Phase("distil", until=0.5, crop=32, batch=4, learning_rate=(2e-3, 1e-3), rate_ramp=True),
        Phase(
            "task", until=1.0, crop=32, batch=4, learning_rate=(1e-3, 1e-4), rounding="straight_through",
            kl_weight=0.3, pooled_weight=0.05, tail_drop=0.3,
        ),
    )  # fmt: skip
    base = Recipe(
        codec=CodecConfig(backbones=(LITE0,)), phases=phases, backbone_shares=(1.0,), warmup_steps=1, pool_batches=3
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def backbone() -> CutBackbone:
    torch.manual_seed(0)
    return load_backbone(LITE0, pretrained=False)


@pytest.fixture
def sampler(tmp_path: Path) -> CropSampler:
    names = [f"{number}.png" for number in range(5)]
    store = build_photo_store([PhotoSource(write_tar(tmp_path / "photos.tar", names))], tmp_path / "store")
    return CropSampler(store, seed=1)


def trainer(recipe: Recipe, backbone: CutBackbone, sampler: CropSampler, out: Path) -> Trainer:
    out.mkdir(exist_ok=True)
    return Trainer(recipe, {LITE0: backbone}, sampler, data_sha256="00", out=out, autocast=False)


def run(made: Trainer, *, until: int, total: int) -> None:
    """Train to step ``until`` of a plan of ``total`` steps."""
    made.run(lambda counters: 1.0 if counters.step >= until else counters.step / total, intervals=QUIET)


@pytest.mark.parametrize(("analysis", "decoders_only"), [("conv_stem", False), ("inverted_residual", True)])
def test_resume_equals_uninterrupted(analysis: str, decoders_only: bool, sampler: CropSampler, tmp_path: Path) -> None:
    """Six steps in one go, and three, a new process, three more: the same weights, average and lambdas, bit for bit.
    Where decoders learn alone, everything else is as it began.
    """
    codec = CodecConfig(analysis=analysis, backbones=(LITE0,))
    recipe = tiny_recipe(codec=codec, decoders_only=decoders_only)
    backbone = load_backbone(LITE0, stride=recipe.codec.cut_stride, pretrained=False)
    whole = trainer(recipe, backbone, sampler, tmp_path / "whole")
    whole.start()
    began = {key: value.clone() for key, value in whole.codec.state_dict().items()}
    run(whole, until=6, total=6)

    first = trainer(recipe, backbone, sampler, tmp_path / "parts")
    first.start()
    run(first, until=3, total=6)
    second = trainer(recipe, backbone, sampler, tmp_path / "parts")
    second.restore(load_checkpoint(tmp_path / "parts" / "last.pt"))
    run(second, until=6, total=6)

    assert second.counters.step == whole.counters.step == 6
    assert second.log_lambda == whole.log_lambda
    for module in ("codec", "average"):
        expected, actual = getattr(whole, module).state_dict(), getattr(second, module).state_dict()
        assert all(torch.equal(expected[key], actual[key]) for key in expected), module
    moved = {
        key.partition(".")[0] for key, value in whole.codec.state_dict().items() if not torch.equal(value, began[key])
    }
    assert ("analysis" in moved) == (not decoders_only)
    assert "synthesis" in moved


def test_frozen_stays_frozen(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """Training moves encoder, gains, priors and decoder; the backbone keeps its hash."""
    made = trainer(tiny_recipe(), backbone, sampler, tmp_path / "out")
    made.start()
    before = {key: value.clone() for key, value in made.codec.state_dict().items()}
    frozen = {key: value.clone() for key, value in made.frozen[LITE0].state_dict().items()}
    backbone_before = backbone.weights_hash()
    run(made, until=4, total=4)
    after = made.codec.state_dict()
    for name in (
        "analysis.transform.transforms.0.weight",
        "log_gain_PC",
        "bottlenecks.1._matrix0",
        f"synthesis.{LITE0}.project.weight",
    ):
        assert not torch.equal(before[name], after[name]), name
    assert all(torch.equal(frozen[key], value) for key, value in made.frozen[LITE0].state_dict().items())
    assert backbone.weights_hash() == backbone_before


def test_a_kept_latent_is_the_same_encoder(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """Where decoders learn alone, latents are computed once, and the step is the one that images give."""
    codec = CodecConfig(analysis="inverted_residual", backbones=(LITE0,))
    errors = []
    for decoders_only in (True, False):
        made = trainer(tiny_recipe(codec=codec, decoders_only=decoders_only), backbone, sampler, tmp_path / "out")
        made.start()
        errors.append([made.step(made.recipe.phases[1], 0.0)[f"mse_{LITE0}"] for _ in range(1)])
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)


def test_crops_have_to_fit_the_grid(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    codec = CodecConfig(analysis="inverted_residual", backbones=(LITE0,))
    phase = replace(tiny_recipe().phases[0], crop=48)
    with pytest.raises(ConfigError, match=r"crops of 48 pixels do not fit the encoder inverted_residual: .* of 32"):
        trainer(tiny_recipe(codec=codec, phases=(phase,)), backbone, sampler, tmp_path / "out")


def test_a_start_in_closed_form(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """Before any step a fresh run has an encoder, gains for its bytes and a decoder that restores the feature."""
    codec = CodecConfig(analysis="inverted_residual", backbones=(LITE0,))
    phase = replace(tiny_recipe().phases[0], crop=64, batch=8)
    made = trainer(
        tiny_recipe(codec=codec, phases=(phase,), target_bytes=(800.0, 1600.0, 3200.0)), backbone, sampler, tmp_path
    )
    made.start()
    image = sampler.batch(2**31, size=64, count=8)
    synthesis = made.codec.synthesis[LITE0].eval()
    with torch.no_grad():
        latent = made.codec.analysis(image)
        target = (made.frozen[LITE0].head_part(image) - synthesis.target_mean) / synthesis.target_std
        error = (synthesis.normalised(latent) - target).square().mean() / target.square().mean()
    assert error < 0.3
    gains = made.codec.log_gain_PC.detach().mean(dim=1).tolist()
    assert gains == sorted(gains)
    assert gains[0] < gains[2]
    assert torch.equal(made.average.log_gain_PC, made.codec.log_gain_PC)


def test_a_deeper_decoder_goes_on_from_a_usual_one(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """What its weights lack begins as blocks that pass everything on: the same features at first; then all learn."""
    tag = "tf_efficientnet_lite2"
    backbones = {LITE0: backbone, tag: load_backbone(tag, pretrained=False)}

    def of(deep_decoders: tuple[str, ...], out: Path) -> Trainer:
        out.mkdir()
        recipe = tiny_recipe(codec=CodecConfig(backbones=(tag,), deep_decoders=deep_decoders))
        return Trainer(recipe, backbones, sampler, data_sha256="00", out=out, autocast=False)

    usual, deep = of((), tmp_path / "usual"), of((tag,), tmp_path / "deep")
    usual.start()
    run(usual, until=2, total=4)
    deep.start(usual.average.state_dict())
    latent_BCHW = torch.randn(2, 256, 2, 2)
    before, after = (one.average.eval().synthesis[tag](latent_BCHW) for one in (usual, deep))
    run(deep, until=2, total=4)
    moved = deep.codec.synthesis[tag].blocks[3].layers[-1].weight

    assert torch.equal(before, after)
    assert moved.abs().max() > 0


def test_loss_falls(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """On one repeated batch, plain distillation gets better."""
    phase = Phase("distil", until=1.0, crop=32, batch=4, learning_rate=(2e-3, 2e-3))
    made = trainer(tiny_recipe(phases=(phase,), pool_batches=1, pool_rounds=100), backbone, sampler, tmp_path / "out")
    made.start()
    errors = [made.step(phase, 0.0)[f"mse_{LITE0}"] for _ in range(25)]
    assert sum(errors[-3:]) < 0.8 * sum(errors[:3])


def test_rate_is_steered_to_its_target(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """Too many bytes lower an operating point's lambda, too few raise it, and it stays within its limits."""
    made = trainer(tiny_recipe(target_bytes=(1000.0, 1000.0, 1000.0)), backbone, sampler, tmp_path / "out")
    before = list(made.log_lambda)
    made._steer_rate([4000.0, 1000.0, 250.0])
    signs = [(after > old) - (after < old) for after, old in zip(made.log_lambda, before, strict=True)]
    assert signs == [-1, 0, 1]
    for _ in range(10_000):
        made._steer_rate([1e9, 1000.0, 1.0])
    assert made.log_lambda[0] > -3.1
    assert made.log_lambda[2] < 7


def test_stop_saves_and_returns(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """A stop request ends the run after the step in hand, with a checkpoint."""
    made = trainer(tiny_recipe(), backbone, sampler, tmp_path / "out")
    made.start()
    made.stop()
    run(made, until=100, total=100)
    assert load_checkpoint(tmp_path / "out" / "last.pt")["counters"]["step"] == 0


def test_checkpoint_carries_its_origin(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """Recipe, data hash and revision are in the file, and the codec can be had without a Trainer."""
    recipe = tiny_recipe()
    made = trainer(recipe, backbone, sampler, tmp_path / "out")
    made.start()
    made.save()
    content = load_checkpoint(tmp_path / "out" / "last.pt")
    assert recipe_from_dict(content["recipe"]) == recipe
    assert content["data_sha256"] == "00"
    assert content["git_revision"]
    assert load_codec(tmp_path / "out" / "last.pt").config == recipe.codec


def test_recipe_round_trip() -> None:
    """The default recipe survives being written as plain data."""
    assert recipe_from_dict(recipe_to_dict(Recipe())) == Recipe()


def test_a_phase_may_begin_with_the_average(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """Its first step goes on from the averaged weights, at the lowest rate of a new warm-up; later ones do not."""
    before = tiny_recipe().phases[0]
    after = replace(tiny_recipe().phases[1], learning_rate=(1e-3, 1e-3), from_average=True)
    made = trainer(tiny_recipe(warmup_steps=4, ema_decay=0.5), backbone, sampler, tmp_path / "out")
    made.start()
    for _ in range(3):
        made.step(before, 0.0)
    taken: list[bool] = []
    forward = made.codec.analysis.register_forward_pre_hook(
        lambda module, _inputs: taken.append(
            all(torch.equal(a, b) for a, b in zip(module.parameters(), made.average.analysis.parameters(), strict=True))
        )
    )
    rates = [made.step(after, 0.5)["lr"] for _ in range(2)]
    forward.remove()
    assert taken == [True, False]
    assert rates == [pytest.approx(0.25e-3), pytest.approx(0.5e-3)]
    assert (made.counters.phase, made.counters.phase_began) == (after.name, 3)


def test_phases_cover_the_run() -> None:
    """Progress 0 to 1 passes through all phases in order, each from its own 0 to 1."""
    recipe = tiny_recipe()
    assert [phase_at(recipe, p)[0].name for p in (0.0, 0.49, 0.5, 1.0)] == ["distil", "distil", "task", "task"]
    assert [phase_at(recipe, p)[1] for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 0.0, 1.0]
