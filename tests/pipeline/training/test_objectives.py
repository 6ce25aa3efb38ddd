"""Objectives: which terms a phase computes, what they train, and that the frozen stays frozen."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.codec import LatentShape  # noqa: E402
from pipeline.errors import ConfigError  # noqa: E402
from pipeline.models.backbones import CutBackbone, load_backbone  # noqa: E402
from pipeline.models.feature_codec import CodecConfig  # noqa: E402
from pipeline.models.synthesis import build_synthesis  # noqa: E402
from pipeline.training import teacher  # noqa: E402
from pipeline.training.data import CropSampler, PhotoSource, build_photo_store  # noqa: E402
from pipeline.training.loop import Trainer, figure_names  # noqa: E402
from pipeline.training.objectives import distortion_terms, limited_by_frame, weighted  # noqa: E402
from pipeline.training.recipes import (  # noqa: E402
    DEFAULT_PHASES,
    OBJECTIVES,
    TERM_WEIGHTS,
    Phase,
    Recipe,
    continued_recipe,
    decoder_recipe,
    objective_recipe,
)
from tests.pipeline.training.photos import write_tar  # noqa: E402

LITE0 = "tf_efficientnet_lite0"
TERMS = {
    "default": {"mse", "kl", "pooled", "stages"},
    "fp": {"mse"},
    "sgfp": {"mse", "saliency"},
    "ghnd": {"mse", "stages"},
    "kl": {"mse", "kl"},
    "pooled": {"mse", "pooled"},
}
TASK = Phase(
    "task", until=1.0, crop=32, batch=4, learning_rate=(1e-3, 1e-3), rounding="straight_through",
    kl_weight=0.3, pooled_weight=0.05, stage_weight=0.3,
)  # fmt: skip
TINY = Recipe(
    codec=CodecConfig(backbones=(LITE0,), initial_gains=(8.0, 16.0, 32.0)),
    phases=(TASK,),
    backbone_shares=(1.0,),
    warmup_steps=1,
    pool_batches=2,
)


@pytest.fixture(scope="module")
def backbone() -> CutBackbone:
    torch.manual_seed(0)
    return load_backbone(LITE0, pretrained=False)


@pytest.fixture
def sampler(tmp_path: Path) -> CropSampler:
    names = [f"{number}.png" for number in range(4)]
    store = build_photo_store([PhotoSource(write_tar(tmp_path / "photos.tar", names))], tmp_path / "store")
    return CropSampler(store, seed=1)


def trainer(recipe: Recipe, backbone: CutBackbone, sampler: CropSampler, out: Path) -> Trainer:
    made = Trainer(recipe, {LITE0: backbone}, sampler, data_sha256="00", out=out, autocast=False)
    made.start()
    return made


def test_every_objective_is_tested() -> None:
    assert set(TERMS) == set(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_reach_what_they_should(
    name: str, backbone: CutBackbone, sampler: CropSampler, tmp_path: Path
) -> None:
    """Every objective trains encoder, gains, priors and decoder; the backbone gets no gradient and keeps every bit."""
    recipe = objective_recipe(name, TINY)
    made = trainer(recipe, backbone, sampler, tmp_path)
    frozen = {key: value.clone() for key, value in made.frozen[LITE0].state_dict().items()}
    figures = made.step(recipe.phases[0], 0.5)
    assert {key.removesuffix(f"_{LITE0}") for key in figures if key.endswith(LITE0)} == TERMS[name]
    assert set(figures) <= set(figure_names(recipe))
    made.step(recipe.phases[0], 0.5)  # what begins silent hides what is before it from the first step's gradient
    silent = [key for key, p in made.codec.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
    assert all(p.grad is None and not p.requires_grad for p in made.frozen[LITE0].parameters())
    assert all(torch.equal(frozen[key], value) for key, value in made.frozen[LITE0].state_dict().items())
    assert not any(module._forward_hooks for module in made.frozen[LITE0].modules())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_of_the_default_plan(name: str) -> None:
    """Behind its first phase the shipped plan weighs the objective's own terms and no other."""
    for phase in objective_recipe(name).phases[1:]:
        weighed = {term for term, field in TERM_WEIGHTS.items() if getattr(phase, field) > 0}
        assert weighed | {"mse"} == TERMS[name]


def test_no_frame_rules_the_gradient() -> None:
    """A frame far above the batch's median is brought down to the limit, keeping its direction; the others stay."""
    gradient = torch.randn(5, 3, 4, 4)
    gradient /= gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    gradient *= torch.tensor([1.0, 2.0, 3.0, 4.0, 300.0]).view(-1, 1, 1, 1)
    limited = limited_by_frame(gradient, maximum=1.5)
    assert torch.equal(limited[:4], gradient[:4])
    torch.testing.assert_close(limited[4], gradient[4] * (4.5 / 300.0))


def test_silent_frames_stay_silent() -> None:
    """A batch without any gradient gives zeros, not NaN."""
    assert torch.equal(limited_by_frame(torch.zeros(2, 1, 2, 2), maximum=1.5), torch.zeros(2, 1, 2, 2))


def test_the_limit_reaches_the_step(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """A phase with a limit far below the median takes another step than one without; the loss itself is the same."""
    losses, norms = [], []
    for place, maximum in enumerate((0.0, 0.01)):
        phase = replace(TASK, frame_gradient_max=maximum)
        figures = trainer(replace(TINY, phases=(phase,)), backbone, sampler, tmp_path / str(place)).step(phase, 0.5)
        losses.append(figures["loss"])
        norms.append(figures["norm"])
    assert losses[0] == pytest.approx(losses[1])
    assert norms[1] < 0.9 * norms[0]


def test_unknown_objective() -> None:
    with pytest.raises(ConfigError, match="'fps', expected one of default, fp, sgfp"):
        objective_recipe("fps")


def test_objectives_share_their_first_phase() -> None:
    """All begin with plain distillation and have the default plan's phases, rates and crops."""
    for name in OBJECTIVES:
        recipe = objective_recipe(name)
        assert recipe.phases[0] == Recipe().phases[0]
        assert [(p.until, p.crop, p.batch) for p in recipe.phases] == [
            (p.until, p.crop, p.batch) for p in Recipe().phases
        ]


def test_the_saliency_map_is_of_the_crop(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """The map that the loss uses is the one of the crop in the pool, computed once and shuffled with it."""
    recipe = objective_recipe("sgfp", TINY)
    made = trainer(recipe, backbone, sampler, tmp_path)
    made.step(recipe.phases[0], 0.0)
    batch = made.pool.batch(0, size=32, count=4)
    answer = batch.answers[LITE0]
    expected = teacher.saliency_maps(made.frozen[LITE0], batch.pixels_BCHW.float() / 255)
    torch.testing.assert_close(answer.saliency_B1HW, expected)
    made.counters.step = 2  # the pool has two batches
    made.step(recipe.phases[0], 0.0)
    assert batch.answers[LITE0] is answer


@pytest.mark.parametrize(("tag", "side"), [(LITE0, 64), ("resnet18", 64), ("convnext_atto", 64)])
def test_a_perfect_decoder_has_no_distortion(tag: str, side: int) -> None:
    """Where g_s gives the backbone's own feature, every term is zero, for each family."""
    torch.manual_seed(0)
    backbone = load_backbone(tag, pretrained=False)
    image = torch.rand(2, 3, side, side)
    parts = frozenset({"pooled", "stages", "saliency"})
    answer = teacher.ask(backbone, image, parts)
    assert answer.parts == parts
    synthesis = build_synthesis(tag, LatentShape(96, 16))
    synthesis.normalised = lambda _latent: answer.feature_BCHW  # type: ignore[method-assign]
    phase = replace(TASK, saliency_weight=1.0, stage_weight=1.0)
    terms = distortion_terms(synthesis, backbone, torch.zeros(1), answer, phase, torch.ones(backbone.pooled_features))
    assert set(terms) == {"mse", "saliency", "stages", "kl", "pooled"}
    torch.testing.assert_close(weighted(terms, phase), torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("tag", "stages"),
    [(LITE0, 4), ("resnet18", 2), ("convnext_atto", 2), ("swin_tiny_patch4_window7_224", 2), ("mobilenetv2_100", 4)],
)
def test_stages_are_channels_first(tag: str, stages: int) -> None:
    """Each stage behind the cut, as [B, C, H, W] at 1/16 or 1/32 of the resolution."""
    side = 224 if "swin" in tag else 64
    backbone = load_backbone(tag, pretrained=False)
    answer = teacher.ask(backbone, torch.rand(1, 3, side, side), frozenset({"stages"}))
    assert answer.stages is not None
    assert len(answer.stages) == stages
    assert all(stage.shape[2] == stage.shape[3] for stage in answer.stages)
    assert {side // stage.shape[2] for stage in answer.stages} <= {16, 32}
    assert teacher.fixed_side(backbone) == (224 if "swin" in tag else None)


@pytest.mark.parametrize(
    ("backbones", "trained", "shares", "small_steps"),
    [
        (("tf_efficientnet_lite0", "tf_efficientnet_lite2"), (), (0, 1), True),
        (("tf_efficientnet_lite0",), (), (1,), True),
        (("tf_efficientnet_lite2", "mobilenetv2_100"), (), (0.5, 0.5), True),
        (("tf_efficientnet_lite0", "tf_efficientnet_lite2", "resnet18"), (), (0, 0, 1), False),
        (("resnet18", "convnext_atto"), (), (0.5, 0.5), False),
        (("resnet18", "convnext_atto"), ("resnet18",), (0, 1), False),
        (("resnet18",), ("resnet18",), (1,), True),
    ],
)
def test_whose_decoders_learn(
    backbones: tuple[str, ...], trained: tuple[str, ...], shares: tuple[float, ...], small_steps: bool
) -> None:
    """Linear and trained ones in small steps, but for that of the encoder's own backbone; none where others are from
    scratch.
    """
    recipe = decoder_recipe(CodecConfig(backbones=backbones), trained=trained)
    assert recipe.decoders_only
    assert recipe.backbone_shares == pytest.approx(shares)
    assert (max(rate for phase in recipe.phases for rate in phase.learning_rate) <= 1e-4) is small_steps


def test_linear_decoders_learn_all_objectives() -> None:
    """The terms are those of any other run."""
    recipe = decoder_recipe(CodecConfig())
    for name, terms in TERMS.items():
        for phase in objective_recipe(name, recipe).phases:
            assert {term for term, field in TERM_WEIGHTS.items() if getattr(phase, field) > 0} | {"mse"} == terms


def test_what_has_learnt_does_not_begin_again() -> None:
    """No ramp, no steps of 3e-3; the other phases fill the whole run."""
    plan, first = continued_recipe(Recipe()).phases, DEFAULT_PHASES[0]
    assert first.rate_ramp
    assert [phase.name for phase in plan] == [phase.name for phase in DEFAULT_PHASES[1:]]
    assert plan[-1].until == pytest.approx(1.0)
    lengths = [b.until - a for b, a in zip(plan, [0.0, *(phase.until for phase in plan)], strict=False)]
    theirs = [b.until - a.until for a, b in itertools.pairwise(DEFAULT_PHASES)]
    assert lengths == pytest.approx([length / (1 - first.until) for length in theirs])
    assert max(rate for phase in plan for rate in phase.learning_rate) <= 3e-4


def test_decoder_recipe_freezes_the_encoder(backbone: CutBackbone, sampler: CropSampler, tmp_path: Path) -> None:
    """A new decoder learns while encoder, gains, priors and their medians keep every bit."""
    recipe = decoder_recipe(TINY.codec, TINY)
    assert all(phase.rounding == "straight_through" and not phase.rate_ramp for phase in recipe.phases)
    made = trainer(recipe, backbone, sampler, tmp_path)
    before = {key: value.clone() for key, value in made.codec.state_dict().items()}
    for number in range(3):
        made.step(recipe.phases[0], number / 3)
    for state in (made.codec.state_dict(), made.average.state_dict()):
        moved = {key for key in before if not torch.equal(before[key], state[key])}
        assert moved
        assert all(key.startswith("synthesis.") for key in moved)
    assert all(p.grad is None for key, p in made.codec.named_parameters() if not key.startswith("synthesis."))
    assert made.log_lambda == pytest.approx([torch.tensor(v).log().item() for v in recipe.initial_lambda])
