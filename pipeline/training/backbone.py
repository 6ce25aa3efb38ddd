"""Distil any timm classifier from another one's answers on photos without labels.

For families whose pretrained weights cannot be had: a ResNet or ConvNeXt that has learnt to answer like a backbone that
can. No match for real pretraining, but enough to try decoders, tails and heads on. The result is a safetensors file in
timm's own names, which `load_backbone(weights_file=…)` and `--weights` take.

Axes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import ConfigError, EngineError
from pipeline.models.backbones import CutBackbone, load_backbone
from pipeline.training import losses
from pipeline.training.checkpoints import git_revision, load_checkpoint, load_state, save_checkpoint
from pipeline.training.data import CropSampler
from pipeline.training.fast_forms import autocast_on, training_form
from pipeline.training.log import Counters, TrainingLog
from pipeline.training.loop import Intervals
from pipeline.training.muon import CodecOptimiser
from pipeline.training.parallel import Workers
from pipeline.training.run import (
    LAST,
    Outcome,
    Progressing,
    RunSettings,
    check_budget,
    describe,
    ground,
    progress_by,
    stopping_on_signals,
)
from pipeline.training.teacher import fixed_side

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class DistillationPlan:
    """Learning rate from first to last along a half cosine after a linear warm-up; KL at ``temperature``."""

    student: str
    teacher: str
    crop: int = 160
    batch: int = 32
    learning_rate: tuple[float, float] = (2e-3, 2e-5)
    warmup_steps: int = 100
    temperature: float = 2.0
    gradient_norm_max: float = 1.0
    seed: int = 1


class BackboneTrainer:
    """One student under one frozen teacher. BatchNorm works on batch statistics while training, as it should."""

    def __init__(
        self,
        plan: DistillationPlan,
        student: CutBackbone,
        teacher: CutBackbone,
        sampler: CropSampler,
        *,
        out: Path,
        autocast: bool | None = None,
        workers: Workers | None = None,
    ) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.sampler = sampler
        self.out = out
        self.workers = workers if workers is not None else Workers()
        self.device = self.workers.device
        self.autocast = autocast_on(self.device, autocast)
        self.teacher = training_form(teacher).to(self.device)
        # The CutBackbone holds its model in eval mode, so the model itself is what trains.
        self.student = student.to(self.device)
        self.model = student.model.requires_grad_(True)
        self.optimiser = CodecOptimiser(self.model, [], rate_factor=1.0)
        self.counters = Counters()
        self.stopping = False
        self.workers.share_(list(self.model.state_dict().values()))

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint's content. Raises ConfigError if it is of another pair."""
        was = (content["plan"]["student"], content["plan"]["teacher"])
        if was != (self.plan.student, self.plan.teacher):
            raise ConfigError(f"the run in {self.out} distils {was[0]} from {was[1]}: name another --out")
        load_state(self.model, content["model"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.counters = Counters(**content["counters"])

    def save(self) -> None:
        """Write the checkpoint and the weights."""
        content = {
            "kind": "backbone",
            "plan": asdict(self.plan),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "counters": vars(self.counters),
            "git_revision": git_revision(),
        }
        save_checkpoint(self.out / LAST, content)
        save_file({k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}, self.out / WEIGHTS)

    def run(self, progress_of: Progressing, *, intervals: Intervals | None = None) -> None:
        """Train until progress reaches 1, with checkpoints on the way."""
        intervals = intervals if intervals is not None else Intervals()
        columns = ["loss", "agreement", "norm", "lr"]
        log = TrainingLog(self.out, columns=columns, steps=intervals.log_steps) if self.workers.leads else None
        saved = time.monotonic()
        while True:
            progress, stopping = self.workers.agree(progress_of(self.counters), self.stopping)
            if stopping or progress >= 1.0:
                break
            began = time.monotonic()
            figures = self.step(progress)
            self.counters.elapsed_s += time.monotonic() - began
            if log is None:
                continue
            log.add(self.counters, "distil", progress, figures)
            if time.monotonic() - saved > intervals.checkpoint_s:
                self.save()
                saved = time.monotonic()
        if log is not None:
            log.close()
            self.save()
        self.workers.wait()

    def stop(self) -> None:
        """Let ``run`` save and return after the step in hand."""
        self.stopping = True

    def step(self, progress: float) -> dict[str, float]:
        """One optimiser step; figures for the log."""
        plan, number = self.plan, self.counters.step * self.workers.count + self.workers.rank
        image_BCHW = self.sampler.batch(number, size=plan.crop, count=plan.batch).to(self.device)
        self.model.train()
        with self.autocast():
            with torch.no_grad():
                taught_BK = self.teacher(image_BCHW).float()
            answer_BK = self._logits(image_BCHW).float()
        heat = plan.temperature
        loss = heat * heat * losses.kl_loss(answer_BK / heat, taught_BK / heat).mean()
        self.optimiser.zero_grad()
        loss.backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.workers.average_([*gradients, *(b for b in self.model.buffers() if b.is_floating_point())])
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), plan.gradient_norm_max)
        if not torch.isfinite(norm):
            raise EngineError(
                f"gradient norm is {float(norm)} at step {self.counters.step}: resume from the checkpoint"
            )
        rate = self._learning_rate(progress)
        self.optimiser.set_learning_rate(rate)
        self.optimiser.step()
        self.counters.step += 1
        self.counters.crops += plan.batch * self.workers.count
        agreement = (answer_BK.argmax(dim=1) == taught_BK.argmax(dim=1)).float().mean()
        values = torch.stack([loss.detach(), 100 * agreement, norm])
        self.workers.average_([values])
        return dict(zip(("loss", "agreement", "norm"), values.tolist(), strict=True)) | {"lr": rate}

    def _logits(self, image_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.model((image_BCHW - self.student.mean) / self.student.std)
        return logits_BK

    def _learning_rate(self, progress: float) -> float:
        first, last = self.plan.learning_rate
        rate = last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))
        return rate * min((self.counters.step + 1) / self.plan.warmup_steps, 1.0)


def train_backbone(
    settings: RunSettings,
    student: str,
    *,
    teacher: str = "tf_efficientnet_lite0",
    teacher_weights: Path | None = None,
    initial_weights: Path | None = None,
    crop: int = 160,
    batch: int = 32,
) -> Outcome:
    """Distil `student` from `teacher` (timm tags), or go on with the run in `settings.out`; gives the weights' file.

    `initial_weights`: where the student starts from; random weights if None. Raises FrankenError.
    """
    torch.manual_seed(0)
    taught = load_backbone(student, weights_file=initial_weights, pretrained=initial_weights is not None)
    teaching = load_backbone(teacher, weights_file=teacher_weights)
    classes = [int(one.model.num_classes) for one in (taught, teaching)]
    if classes[0] != classes[1]:
        raise ConfigError(f"{student} has {classes[0]} classes, {teacher} {classes[1]}: choose a teacher with as many")
    check_budget(settings)
    sides = [side for one in (taught, teaching) if (side := fixed_side(one)) is not None]
    plan = DistillationPlan(student, teacher, crop=sides[0] if sides else crop, batch=batch)
    last = settings.out / LAST
    content = load_checkpoint(last, kind="backbone") if last.exists() else None
    with ground(settings) as made:
        settings.out.mkdir(parents=True, exist_ok=True)
        sampler = CropSampler(made.store, seed=plan.seed)
        trainer = BackboneTrainer(plan, taught, teaching, sampler, out=settings.out, workers=made.workers)
        if content is not None:
            trainer.restore(content)
        made.say(f"{len(made.store)} photos; {student} learns from {teacher}; {describe(made.workers)}")
        with stopping_on_signals(trainer.stop):
            trainer.run(progress_by(settings, trainer.counters))
    return Outcome(settings.out / WEIGHTS, finished=not trainer.stopping)
