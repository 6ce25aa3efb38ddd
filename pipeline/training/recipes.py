"""Training plans as data: phases over the run's progress, and the weights of the loss in each.

The default plan is head distillation first (features only, rate weight ramped from near zero: a task loss from
scratch collapses the latent), then distillation of what the unmodified backbone says, through its own
frozen tail, with truly rounded symbols, at growing resolution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.models.feature_codec import CodecConfig

Rounding = Literal["noise", "straight_through"]


@dataclass(frozen=True)
class Phase:
    """One stretch of the run, up to ``until`` (a fraction of its progress).

    ``learning_rate`` goes from the first to the second value along a half cosine. ``kl_weight`` and
    ``pooled_weight`` are relative to the feature MSE; both 0 means that the tail is not run at all.
    ``freeze_statistics`` holds the decoders' BatchNorm statistics.
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
    freeze_statistics: bool = False

    @property
    def with_task(self) -> bool:
        """Whether the loss looks beyond the cut, so that tails must run."""
        return self.kl_weight > 0 or self.pooled_weight > 0


DEFAULT_PHASES = (
    Phase("distil", until=0.30, crop=160, batch=24, learning_rate=(3e-3, 1.5e-3), rate_ramp=True, tail_drop=0.1),
    Phase(
        "task", until=0.55, crop=160, batch=24, learning_rate=(1e-3, 6e-4), rounding="straight_through",
        kl_weight=0.4, pooled_weight=0.05, tail_drop=0.1,
    ),
    Phase(
        "task-192", until=0.92, crop=192, batch=24, learning_rate=(6e-4, 4e-5), rounding="straight_through",
        kl_weight=0.5, pooled_weight=0.08, tail_drop=0.1,
    ),
    Phase(
        "polish", until=1.0, crop=192, batch=24, learning_rate=(4e-5, 1e-6), rounding="straight_through",
        kl_weight=0.5, pooled_weight=0.08, tail_drop=0.1, freeze_statistics=True,
    ),
)  # fmt: skip
"""The tail's gradient is about 40 times the feature loss's, so ``kl_weight`` looks small: at 1.5 and a learning rate of
1e-3 the task loss undid in 100 steps what distillation had learnt (with Adam)."""


@dataclass(frozen=True)
class Recipe:
    """All that determines a run, apart from its photos and its budget.

    Each batch is shared out among the operating points by ``point_shares``; each step trains one backbone, drawn with
    ``backbone_shares``. ``target_bytes`` (a frame at 224 x 224, by the learned prior; whole photos take about 20 %
    less than crops) steer each point's lambda: its logarithm moves by ``rate_control`` times the relative excess
    every step. The loss is distortion + bits per pixel / lambda.
    """

    codec: CodecConfig = field(default_factory=CodecConfig)
    phases: tuple[Phase, ...] = DEFAULT_PHASES
    seed: int = 1
    backbone_shares: tuple[float, ...] = (0.7, 0.3)
    point_shares: tuple[float, ...] = (0.125, 0.625, 0.25)
    target_bytes: tuple[float, ...] = (2300.0, 4600.0, 7200.0)
    initial_lambda: tuple[float, ...] = (1.2, 28.0, 100.0)
    rate_control: float = 0.002
    ramp_fraction: float = 0.5
    warmup_steps: int = 200
    gradient_norm_max: float = 1.0
    ema_decay: float = 0.999
    rate_learning_factor: float = 4.0
    quantile_interval: int = 100
    pool_batches: int = 500
    dropped_frame_weight: float = 0.15


def phase_at(recipe: Recipe, progress: float) -> tuple[Phase, float]:
    """The phase at ``progress`` (0 ... 1) and how far it has got (0 ... 1)."""
    start = 0.0
    for phase in recipe.phases:
        if progress < phase.until or phase is recipe.phases[-1]:
            return phase, min((progress - start) / (phase.until - start), 1.0)
        start = phase.until
    raise AssertionError("a recipe has at least one phase")
