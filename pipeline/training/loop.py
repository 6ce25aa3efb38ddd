"""The training loop, top to bottom: one shared encoder, one backbone a step, all operating points in every batch.

    loss = mean over operating points of  distortion + bits per pixel / lambda
    distortion = feature MSE + kl_weight * KL to the unmodified backbone + pooled_weight * MSE of pooled features

Backbones are frozen. bfloat16 autocast for convolutions, float32 for everything about rate. A run goes by
*progress* (0 ... 1), which comes from a number of steps or from a time of day to end at, and can be planned anew at
every resume.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.backbones import CutBackbone
from pipeline.models.feature_codec import LAYERS, FeatureCodec
from pipeline.training import losses
from pipeline.training.checkpoints import git_revision, recipe_to_dict, save_checkpoint
from pipeline.training.data import CropSampler
from pipeline.training.fast_forms import strided_in_float32, training_form
from pipeline.training.muon import CodecOptimiser
from pipeline.training.pool import CropPool, Teacher, shuffled, teacher_for
from pipeline.training.recipes import Phase, Recipe, phase_at

FRAME_PIXELS = 224 * 224
_LAMBDA_RANGE = (0.5, 400.0)
_STATISTICS_BATCHES = 12


@dataclass
class Counters:
    """Where a run is; part of its checkpoint. ``elapsed_s`` counts training only, over all resumes."""

    step: int = 0
    crops: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Intervals:
    """What happens how often, in seconds of wall time; log lines are in steps."""

    checkpoint_s: float = 180.0
    evaluate_s: float = 1200.0
    log_steps: int = 20


class Trainer:
    """One run: ``run()`` trains until its budget is spent. ``progress_of(counters)`` tells how much of it is."""

    def __init__(
        self,
        recipe: Recipe,
        backbones: dict[str, CutBackbone],
        sampler: CropSampler,
        *,
        data_sha256: str,
        out: Path,
        autocast: bool = True,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.sampler = sampler
        self.pool = CropPool(sampler, batches=recipe.pool_batches)
        self.data_sha256 = data_sha256
        self.out = out
        self.autocast = autocast
        self.frozen = {tag: training_form(backbones[tag]) for tag in recipe.codec.backbones}
        self.codec = FeatureCodec(recipe.codec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        strided_in_float32(self.codec.analysis)
        self.average = FeatureCodec(recipe.codec).requires_grad_(False).eval()
        self.counters = Counters()
        self.stopping = False
        self.log_lambda = [math.log(value) for value in recipe.initial_lambda]
        self.pooled_std: dict[str, Tensor] = {}
        networks = nn.ModuleList([self.codec.analysis, self.codec.synthesis])
        rate = [self.codec.log_gain_PC, *self.codec.bottlenecks.parameters()]
        self.optimiser = CodecOptimiser(networks, rate, rate_factor=recipe.rate_learning_factor)

    # -- state -------------------------------------------------------------------------------------------------------
    # ----------

    def start(self, codec_state: dict[str, Tensor] | None = None) -> None:
        """Instead of ``restore``: begin with ``codec_state`` (from a bundle), or afresh; measures the backbones."""
        for tag in self.frozen:
            self._measure_targets(tag)
        if codec_state is not None:
            self.codec.load_state_dict(codec_state)
        self.average.load_state_dict(self.codec.state_dict())

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint's content."""
        self.codec.load_state_dict(content["codec"])
        self.average.load_state_dict(content["average"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.counters = Counters(**content["counters"])
        self.log_lambda = list(content["log_lambda"])
        self.pooled_std = dict(content["pooled_std"])

    def start_from_average(self) -> None:
        """Go on from the moving average, which is ahead of the raw weights while the learning rate is high."""
        self.codec.load_state_dict(self.average.state_dict())

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "recipe": recipe_to_dict(self.recipe),
            "codec": self.codec.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "counters": vars(self.counters),
            "log_lambda": self.log_lambda,
            "pooled_std": self.pooled_std,
            "data_sha256": self.data_sha256,
            "git_revision": git_revision(),
        }

    def save(self) -> None:
        """Write ``last.pt``."""
        save_checkpoint(self.out / "last.pt", self.content())

    # -- training
    # --------------------------------------------------------------------------------------------------------------

    def run(
        self,
        progress_of: Callable[[Counters], float],
        *,
        intervals: Intervals | None = None,
        evaluate: Callable[[Trainer], None] | None = None,
    ) -> None:
        """Train until progress reaches 1; logs, checkpoints and evaluates on the way, and once more at the end."""
        intervals = intervals if intervals is not None else Intervals()
        log = TrainingLog(self.out / "train.csv", intervals.log_steps)
        saved = evaluated = mark = time.monotonic()
        while not self.stopping and (progress := progress_of(self.counters)) < 1.0:
            phase, within = phase_at(self.recipe, progress)
            record = self.step(phase, within)
            now = time.monotonic()
            self.counters.elapsed_s += now - mark
            mark = now
            log.add(self.counters, phase, progress, record)
            if now - saved > intervals.checkpoint_s:
                self.save()
                saved = now
            if evaluate is not None and now - evaluated > intervals.evaluate_s:
                evaluate(self)
                evaluated = time.monotonic()
        self.save()
        if evaluate is not None and not self.stopping:
            evaluate(self)

    def stop(self) -> None:
        """Let ``run`` save and return after the current step; safe to call from a signal handler."""
        self.stopping = True

    def step(self, phase: Phase, within: float) -> dict[str, float]:
        """One optimiser step at ``within`` (0 ... 1) of ``phase``; returns figures for the log."""
        recipe, step = self.recipe, self.counters.step
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        tag = self._pick_backbone(generator)
        batch = self.pool.batch(step, size=phase.crop, count=phase.batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            teacher = teacher_for(
                batch, tag, with_pooled=phase.with_task, compute=partial(self._ask_teacher, tag, phase)
            )
        image_BCHW, teacher = shuffled(batch, teacher, generator)
        self.codec.train(not phase.freeze_statistics)
        learning_rate = self._set_learning_rate(phase, within)

        distortion_B, bpp_B, record = self._forward(image_BCHW, teacher, phase, tag, generator)
        rate_weight = self._rate_weight(phase, within)
        loss = distortion_B.new_zeros(())
        for point, part in enumerate(self._point_slices(phase.batch)):
            share = (part.stop - part.start) / phase.batch
            loss = loss + share * (
                distortion_B[part].mean() + rate_weight * bpp_B[part].mean() / math.exp(self.log_lambda[point])
            )
        self.optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.codec.parameters(), recipe.gradient_norm_max)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"gradient norm is {float(norm)} at step {step}: lower the learning rate, resume from the checkpoint"
            )
        self.optimiser.step()
        self._update_average()
        if step % recipe.quantile_interval == 0:
            self.codec.update_quantiles()

        payload_P = [float(bpp_B[part].detach().mean()) * FRAME_PIXELS / 8 for part in self._point_slices(phase.batch)]
        if rate_weight >= 1.0:
            self._steer_rate(payload_P)
        self.counters.step += 1
        self.counters.crops += phase.batch
        record |= {"loss": float(loss.detach()), "norm": float(norm), "lr": learning_rate, "rate_weight": rate_weight}
        for name, payload, log_lambda in zip(recipe.codec.operating_points, payload_P, self.log_lambda, strict=True):
            record |= {f"bytes_{name}": payload, f"lambda_{name}": math.exp(log_lambda)}
        return record

    @torch.no_grad()
    def _ask_teacher(self, tag: str, phase: Phase, image_BCHW: Tensor) -> Teacher:
        feature_BCHW = self.frozen[tag].head_part(image_BCHW)
        return Teacher(feature_BCHW, self.frozen[tag].tail(feature_BCHW) if phase.with_task else None)

    def _forward(
        self, image_BCHW: Tensor, teacher: Teacher, phase: Phase, tag: str, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        """(distortion [B], bits per pixel [B], figures)."""
        frozen, synthesis = self.frozen[tag], self.codec.synthesis[tag]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            latent_BCHW, bits_BCHW, weight_B = self._through_channel(self.codec.analysis(image_BCHW), phase, generator)
            predicted_BCHW = synthesis.normalised(latent_BCHW)
            target_BCHW = (teacher.feature_BCHW.float() - synthesis.target_mean) / synthesis.target_std
            feature_B = losses.feature_loss(predicted_BCHW, target_BCHW)
            distortion_B, record = feature_B, {f"mse_{tag}": float(feature_B.detach().mean())}
            if phase.with_task and teacher.pooled_BD is not None:
                pooled_BD = frozen.tail(predicted_BCHW * synthesis.target_std + synthesis.target_mean)
                kl_B = losses.kl_loss(frozen.classifier(pooled_BD), frozen.classifier(teacher.pooled_BD))
                pooled_B = losses.pooled_loss(pooled_BD, teacher.pooled_BD, self.pooled_std[tag])
                distortion_B = feature_B + phase.kl_weight * kl_B + phase.pooled_weight * pooled_B
                record |= {f"kl_{tag}": float(kl_B.detach().mean()), f"pooled_{tag}": float(pooled_B.detach().mean())}
        # A frame that lost layers is far off whatever the codec does; unweighted, few of them would rule the gradient.
        distortion_B = distortion_B * weight_B
        return distortion_B, losses.bits_per_pixel(bits_BCHW, pixels=image_BCHW.shape[2] * image_BCHW.shape[3]), record

    def _through_channel(
        self, latent_BCHW: Tensor, phase: Phase, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Quantisation and losses on the way, each slice of the batch at its operating point: (latent at the server,
        bits).
        """
        latent_BCHW = latent_BCHW.float()
        noise_BCHW = torch.rand(latent_BCHW.shape, generator=generator) - 0.5
        layers_B = losses.sample_layers(
            len(latent_BCHW), layers=LAYERS, drop_probability=phase.tail_drop, generator=generator
        )
        rounded = phase.rounding == "straight_through"
        seen, bits = [], []
        for point, part in enumerate(self._point_slices(len(latent_BCHW))):
            received, spent = self.codec.simulate(
                latent_BCHW[part], point, noise_BCHW=noise_BCHW[part], rounded=rounded, layers_B=layers_B[part]
            )
            seen.append(received)
            bits.append(spent)
        weight_B = torch.where(layers_B < LAYERS, self.recipe.dropped_frame_weight, 1.0)
        return torch.cat(seen).contiguous(memory_format=torch.channels_last), torch.cat(bits), weight_B

    def _pick_backbone(self, generator: torch.Generator) -> str:
        shares = torch.tensor(self.recipe.backbone_shares)
        return self.recipe.codec.backbones[int(torch.multinomial(shares, 1, generator=generator))]

    def _point_slices(self, batch: int) -> list[slice]:
        """Consecutive parts of a batch, one for each operating point."""
        edges, total = [0], 0.0
        for share in self.recipe.point_shares:
            total += share
            edges.append(round(total * batch))
        return [slice(start, stop) for start, stop in pairwise(edges)]

    def _set_learning_rate(self, phase: Phase, within: float) -> float:
        first, last = phase.learning_rate
        rate = last + (first - last) * 0.5 * (1 + math.cos(math.pi * within))
        rate *= min((self.counters.step + 1) / self.recipe.warmup_steps, 1.0)
        self.optimiser.set_learning_rate(rate)
        return rate

    def _rate_weight(self, phase: Phase, within: float) -> float:
        """From 0.02 to 1, geometrically, over the first part of a phase with a ramp."""
        if not phase.rate_ramp or within >= self.recipe.ramp_fraction:
            return 1.0
        return float(0.02 ** (1 - within / self.recipe.ramp_fraction))

    def _steer_rate(self, payload_P: list[float]) -> None:
        """Integral control of each lambda towards its point's target bytes; a batch's excess counts at most a factor
        of 2.
        """
        low, high = map(math.log, _LAMBDA_RANGE)
        for point, (payload, target) in enumerate(zip(payload_P, self.recipe.target_bytes, strict=True)):
            excess = min(max(math.log(payload / target), -0.7), 0.7)
            self.log_lambda[point] = min(max(self.log_lambda[point] - self.recipe.rate_control * excess, low), high)

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.ema_decay, (1 + self.counters.step) / (10 + self.counters.step))
        averages = [t for t in self.average.state_dict().values() if t.is_floating_point()]
        current = [t for t in self.codec.state_dict().values() if t.is_floating_point()]
        torch._foreach_lerp_(averages, current, 1 - decay)

    @torch.no_grad()
    def _measure_targets(self, tag: str) -> None:
        """Per-channel mean and std of the cut feature, and std of the pooled features, over a few hundred crops."""
        frozen = self.frozen[tag]
        size, count = self.recipe.phases[-1].crop, self.recipe.phases[-1].batch
        features, pooled = [], []
        for number in range(_STATISTICS_BATCHES):
            feature_BCHW = frozen.head_part(self.sampler.batch(2**31 + number, size=size, count=count))
            features.append(feature_BCHW.float())
            pooled.append(frozen.tail(feature_BCHW).float())
        feature_NCHW = torch.cat(features)
        std_C = feature_NCHW.std(dim=(0, 2, 3)).clamp_min(1e-3)
        self.codec.synthesis[tag].set_target_statistics(feature_NCHW.mean(dim=(0, 2, 3)), std_C)  # type: ignore[operator]
        std_D = torch.cat(pooled).std(dim=0)
        # Rarely active pooled features would weigh far too much if divided by their own tiny deviation.
        self.pooled_std[tag] = std_D.clamp_min(0.25 * float(std_D.median()))


class TrainingLog:
    """Averages figures over ``steps`` steps: a CSV line each, and the same as a line for people."""

    def __init__(self, file: Path, steps: int) -> None:
        self._file = file
        self._steps = steps
        self._sums: dict[str, list[float]] = {}
        self._mark: tuple[float, int] | None = None

    def add(self, counters: Counters, phase: Phase, progress: float, record: dict[str, float]) -> None:
        """Take one step's figures; writes a line when enough steps have come."""
        if self._mark is None:
            self._mark = (counters.elapsed_s, counters.crops)
        for key, value in record.items():
            self._sums.setdefault(key, []).append(value)
        if counters.step % self._steps != 0:
            return
        seconds, crops = counters.elapsed_s - self._mark[0], counters.crops - self._mark[1]
        means = {key: sum(values) / len(values) for key, values in sorted(self._sums.items())}
        speed = crops / seconds if seconds > 0 else 0.0
        left_min = counters.elapsed_s * (1 - progress) / progress / 60 if progress > 0 else float("nan")
        row = {
            "step": counters.step,
            "crops": counters.crops,
            "elapsed_s": counters.elapsed_s,
            "phase": phase.name,
            "crops_per_s": speed,
        }
        self._append(row | means)
        figures = " ".join(f"{key.replace('tf_efficientnet_', '')} {value:.4g}" for key, value in means.items())
        place = f"{progress:6.1%} {phase.name} step {counters.step}"
        print(f"{place} {speed:.0f} crops/s, {left_min:.0f} min left | {figures}", flush=True)
        self._sums, self._mark = {}, (counters.elapsed_s, counters.crops)

    def _append(self, row: dict[str, Any]) -> None:
        # Columns appear as phases add terms, so each line names its own figures instead of sharing one header.
        with self._file.open("a", newline="") as stream:
            csv.writer(stream).writerow(
                [f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()]
            )
