"""Training plans as data: phases over the run's progress, and the weights of the loss in each.

Encoders from scratch begin with head distillation (features only, rate weight ramped from near zero: a task loss from
scratch collapses the latent), then comes distillation of what the unmodified backbone says, through its own frozen
tail, with truly rounded symbols, at growing resolution. Behind an encoder in closed form decoders learn in small steps.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.errors import ConfigError
from pipeline.models.feature_codec import CodecConfig
from pipeline.models.synthesis import begins_linear

Rounding = Literal["noise", "straight_through"]
Part = Literal["pooled", "stages", "saliency"]
"""What a loss may want to know of a backbone beside its cut feature (teacher.py)."""

TERM_WEIGHTS = {
    "mse": "feature_weight",
    "saliency": "saliency_weight",
    "stages": "stage_weight",
    "kl": "kl_weight",
    "pooled": "pooled_weight",
}
"""Term of the distortion -> the field of ``Phase`` that weighs it (objectives.py says what each compares)."""


@dataclass(frozen=True)
class Phase:
    """One stretch of the run, up to ``until`` (a fraction of its progress).

    ``learning_rate`` goes from the first to the second value along a half cosine. The weights of the distortion's terms
    are relative to each other; a term of weight 0 is not computed. ``from_average`` begins with the moving average of
    the weights and warms the learning rate up again. ``frame_gradient_max``: how many times the batch's median a
    frame's gradient behind the cut may be; 0: no limit.
    """

    name: str
    until: float
    crop: int
    batch: int
    learning_rate: tuple[float, float]
    rounding: Rounding = "noise"
    kl_weight: float = 0.0
    pooled_weight: float = 0.0
    tail_drop: float = 0.0
    rate_ramp: bool = False
    feature_weight: float = 1.0
    saliency_weight: float = 0.0
    stage_weight: float = 0.0
    from_average: bool = False
    frame_gradient_max: float = 0.0

    @property
    def runs_tail(self) -> bool:
        """Whether the loss looks beyond the cut."""
        return self.kl_weight > 0 or self.pooled_weight > 0 or self.stage_weight > 0

    @property
    def parts(self) -> frozenset[Part]:
        """What the loss wants to know of the unmodified backbone, beside its cut feature."""
        wanted: set[Part] = set()
        if self.kl_weight > 0 or self.pooled_weight > 0:
            wanted.add("pooled")
        if self.stage_weight > 0:
            wanted.add("stages")
        if self.saliency_weight > 0:
            wanted.add("saliency")
        return frozenset(wanted)


_TAIL: dict[str, Any] = {
    "batch": 24, "rounding": "straight_through", "tail_drop": 0.1, "stage_weight": 0.3, "frame_gradient_max": 1.5,
}  # fmt: skip
_TASK: dict[str, Any] = {**_TAIL, "crop": 160, "kl_weight": 0.4, "pooled_weight": 0.05}
_END: dict[str, Any] = {**_TAIL, "crop": 192}

DEFAULT_PHASES = (
    Phase("distil", until=0.08, crop=160, batch=24, learning_rate=(3e-3, 1e-3), rate_ramp=True, tail_drop=0.1),
    Phase("task", until=0.48, learning_rate=(3e-4, 1.8e-4), from_average=True, **_TASK),
    Phase("task-192", until=0.82, learning_rate=(1.8e-4, 3e-5), kl_weight=0.5, pooled_weight=0.08, **_END),
    Phase(
        "answers", until=1.0, learning_rate=(6e-5, 1e-6), feature_weight=0.5, kl_weight=1.5, pooled_weight=0.15, **_END
    ),
)  # fmt: skip
"""The tail's gradient is many times the feature loss's, so ``kl_weight`` looks small, and it is heavy-tailed. Without a
limit on each frame's share a learning rate of 1e-3 undoes what distillation has learnt (feature error 0.21 to 0.35 in
260 steps) and 3e-4 brings little (KL on photos 0.126 after 260 steps); with it 3e-4 brings KL 0.085 in the same steps,
6e-4 0.098, and the feature error falls too. The stages' term pays at once: after the same 7,200 crops of the task
phase, KL 0.120 with it and 0.140 without (encoder ``stem``)."""


@dataclass(frozen=True)
class Recipe:
    """All that determines a run, apart from its photos and its budget.

    Each batch is shared out among the operating points by ``point_shares``; each step trains one backbone, drawn
    with ``backbone_shares``. ``target_bytes`` (a frame at 224 x 224, by the learned prior; whole photos take as
    much as crops of 192, small ones up to 20 % more, and the tables that ship 3 to 6 % less) determine the gains of
    an encoder in closed form, and steer each point's lambda where the encoder learns: its logarithm moves by
    ``rate_control`` times the relative excess every step. The loss is distortion + bits per pixel / lambda; the
    encoder pays for the rate of point number ``paying_point`` alone, the others have their gains and priors to save
    with (a low point's 1 / lambda is so large that it would shape the encoder for all). ``decoders_only`` keeps
    encoder, gains and priors bit for bit. A fresh encoder with a trunk begins with the shallow layers of the
    backbone ``encoder_from``, and behind them in closed form (closed_form.py). ``objective`` is for people: the name
    of what the phases' weights came from.
    """

    codec: CodecConfig = field(default_factory=CodecConfig)
    phases: tuple[Phase, ...] = DEFAULT_PHASES
    seed: int = 1
    backbone_shares: tuple[float, ...] = (0.6, 0.4)
    point_shares: tuple[float, ...] = (0.25, 0.4, 0.35)
    target_bytes: tuple[float, ...] = (1525.0, 2550.0, 4040.0)
    initial_lambda: tuple[float, ...] = (1.0, 3.0, 6.0)
    paying_point: int = 1
    rate_control: float = 0.005
    ramp_fraction: float = 0.5
    warmup_steps: int = 200
    gradient_norm_max: float = 1.0
    ema_decay: float = 0.999
    rate_learning_factor: float = 4.0
    quantile_interval: int = 100
    pool_batches: int = 600
    pool_rounds: int = 2
    dropped_frame_weight: float = 0.15
    decoders_only: bool = False
    encoder_from: str = "tf_efficientnet_lite0"
    objective: str = "default"


def _without(*terms: str) -> dict[str, float]:
    return {TERM_WEIGHTS[term]: 0.0 for term in terms}


CLOSED_FORM_PHASES = (
    Phase(
        "task", until=0.7, crop=160, learning_rate=(1e-4, 4e-5), feature_weight=0.5, kl_weight=0.5, pooled_weight=0.1,
        **_TAIL,
    ),
    Phase(
        "task-192", until=1.0, crop=192, learning_rate=(4e-5, 1e-6), feature_weight=0.5, kl_weight=0.5,
        pooled_weight=0.1, **_TAIL,
    ),
)  # fmt: skip
"""For decoders that begin as least-squares maps: small steps. At 3e-4 the KL rises within 5,000 crops, as it does for
any finished decoder; at 1e-4 it falls from the first evaluation on."""


OBJECTIVES: dict[str, dict[str, float]] = {
    "default": {},
    "fp": _without("kl", "pooled", "stages"),
    "sgfp": _without("mse", "kl", "pooled", "stages") | {"saliency_weight": 1.0},
    "ghnd": _without("kl", "pooled") | {"stage_weight": 0.3},
    "kl": _without("pooled", "stages"),
    "pooled": _without("kl", "stages") | {"pooled_weight": 0.3},
}
"""Name -> what it changes in those phases of the default plan that look beyond the cut. All else is equal, so that
objectives can be compared: phases, crops, learning rates, target bytes. Encoders from scratch all begin with plain
head distillation."""


def objective_recipe(name: str = "default", base: Recipe | None = None) -> Recipe:
    """The default plan (or ``base``) with the objective ``name``. Raises ConfigError, which names those there are."""
    if name not in OBJECTIVES:
        raise ConfigError(f"objective is {name!r}, expected one of {', '.join(OBJECTIVES)}")
    base = base if base is not None else Recipe()
    changes: dict[str, Any] = OBJECTIVES[name]
    phases = tuple(replace(phase, **changes) if phase.runs_tail else phase for phase in base.phases)
    return replace(base, phases=phases, objective=name)


def continued_recipe(base: Recipe) -> Recipe:
    """The plan without its beginning from scratch, for weights that have been trained: no phase with a ramp."""
    kept = [phase for phase in base.phases if not phase.rate_ramp]
    began = max((phase.until for phase in base.phases if phase.rate_ramp), default=0.0)
    return replace(base, phases=tuple(replace(one, until=(one.until - began) / (1 - began)) for one in kept))


def decoder_recipe(codec: CodecConfig, base: Recipe | None = None, *, trained: Collection[str] = ()) -> Recipe:
    """The plan for decoders on an encoder that stays: no rate, and symbols truly rounded from the start. Decoders that
    begin as linear maps, and those of the backbones ``trained``, which have learnt before, bear small steps only.

    Where others have to be trained from scratch, these stay as they begin (``train decoder`` goes on with one). Where
    there are none, that of the backbone which the encoder comes from stays: steps were not found to improve it.
    """
    base = base if base is not None else Recipe()
    begun = {tag for tag in codec.backbones if tag in trained or begins_linear(tag, codec.latent)}
    phases = tuple(replace(phase, rounding="straight_through", rate_ramp=False) for phase in base.phases)
    learning = [tag for tag in codec.backbones if tag not in begun]
    if not learning:
        phases = CLOSED_FORM_PHASES
        learning = [tag for tag in codec.backbones if tag != base.encoder_from] or list(codec.backbones)
    shares = tuple((tag in learning) / len(learning) for tag in codec.backbones)
    points = len(codec.operating_points)
    if points != len(base.point_shares):
        ones = (1.0,) * points  # no rate is steered, so neither targets nor lambdas matter
        base = replace(
            base, point_shares=(1 / points,) * points, target_bytes=ones, initial_lambda=ones, paying_point=0
        )
    return replace(base, codec=codec, phases=phases, backbone_shares=shares, decoders_only=True)


def with_crops(recipe: Recipe, side: int) -> Recipe:
    """The same plan with crops of ``side`` pixels throughout, for backbones that take one size only."""
    return replace(recipe, phases=tuple(replace(phase, crop=side) for phase in recipe.phases))


def phase_at(recipe: Recipe, progress: float) -> tuple[Phase, float]:
    """The phase at ``progress`` (0 ... 1) and how far it has got (0 ... 1)."""
    start = 0.0
    for phase in recipe.phases:
        if progress < phase.until or phase is recipe.phases[-1]:
            return phase, min((progress - start) / (phase.until - start), 1.0)
        start = phase.until
    raise AssertionError("a recipe has at least one phase")
