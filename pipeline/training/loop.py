"""The training loop, top to bottom: one shared encoder, one backbone a step, all operating points in every batch.

    loss = mean over operating points of  distortion + bits per pixel / lambda

The distortion is the phase's mix of terms (objectives.py). Backbones are frozen. bfloat16 for convolutions where it is
faster, float32 for everything about rate. A run goes by *progress* (0 ... 1), which comes from a number of steps or
from a time of day to end at, and can be planned anew at every resume. One process or several (parallel.py), on CPUs or
GPUs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError, EngineError
from pipeline.models.backbones import CutBackbone
from pipeline.models.feature_codec import LAYERS, FeatureCodec
from pipeline.training import losses
from pipeline.training.checkpoints import check_weights, git_revision, load_state, recipe_to_dict, save_checkpoint
from pipeline.training.closed_form import FRAME_PIXELS
from pipeline.training.data import CropSampler
from pipeline.training.fast_forms import autocast_on, training_form, use_fast_strided
from pipeline.training.log import Counters, Figures, TrainingLog
from pipeline.training.muon import CodecOptimiser
from pipeline.training.objectives import distortion_terms, weighted
from pipeline.training.parallel import Workers
from pipeline.training.pool import CropPool, PooledBatch, answer_for, image_of, latent_for, shuffled
from pipeline.training.recipes import TERM_WEIGHTS, Phase, Recipe, phase_at
from pipeline.training.start import (
    begin_behind_encoder,
    begin_encoder,
    load_what_is_there,
    measure,
    measured_crops,
    set_statistics,
)
from pipeline.training.teacher import Answer, ask

_LAMBDA_RANGE = (0.05, 400.0)


@dataclass(frozen=True)
class Intervals:
    """What happens how often, in seconds of wall time; log lines are in steps."""

    checkpoint_s: float = 180.0
    evaluate_s: float = 1200.0
    log_steps: int = 20


class Trainer:
    """One run: ``run()`` trains until its budget is spent. ``progress_of(counters)`` tells how much of it is.

    ``backbones``: those of the codec; and the one that a fresh encoder begins with (``recipe.encoder_from``). Raises
    ConfigError for crops that the latent's grid does not divide.
    """

    def __init__(
        self,
        recipe: Recipe,
        backbones: dict[str, CutBackbone],
        sampler: CropSampler,
        *,
        data_sha256: str,
        out: Path,
        autocast: bool | None = None,
        workers: Workers | None = None,
    ) -> None:
        _check_crops(recipe)
        torch.manual_seed(recipe.seed)
        self.workers = workers if workers is not None else Workers()
        self.device = self.workers.device
        self.recipe = recipe
        self.sampler = sampler
        self.pool = CropPool(sampler, batches=recipe.pool_batches, rounds=recipe.pool_rounds, device=self.device)
        self.data_sha256 = data_sha256
        self.out = out
        self.autocast = autocast_on(self.device, autocast)
        assert all(one.stride == recipe.codec.cut_stride for one in backbones.values())
        self.frozen = {tag: training_form(backbones[tag]).to(self.device) for tag in recipe.codec.backbones}
        self._weights = {tag: backbones[tag].weights_hash() for tag in recipe.codec.backbones}
        self._encoder_source = backbones.get(recipe.encoder_from)
        self.codec = FeatureCodec(recipe.codec).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = FeatureCodec(recipe.codec).to(self.device).requires_grad_(False).eval()
        self.counters = Counters()
        self.stopping = False
        self.log_lambda = [math.log(value) for value in recipe.initial_lambda]
        self.pooled_std: dict[str, Tensor] = {}
        self.optimiser = self._optimiser()

    def _optimiser(self) -> CodecOptimiser:
        """Over what the recipe trains; what it does not train is frozen here."""
        if self.device.type == "cpu":
            use_fast_strided(self.codec.analysis)
        networks = nn.ModuleList([self.codec.analysis, self.codec.synthesis])
        rate = [self.codec.log_gain_PC, *self.codec.bottlenecks.parameters()]
        if self.recipe.decoders_only:
            self.codec.requires_grad_(False)
            self.codec.synthesis.requires_grad_(True)
            networks, rate = nn.ModuleList([self.codec.synthesis]), []
        return CodecOptimiser(networks, rate, rate_factor=self.recipe.rate_learning_factor)

    # --- State ----------------------------------------------------------------------------------------------------

    def start(self, codec_state: dict[str, Tensor] | None = None) -> None:
        """Instead of ``restore``: begin with ``codec_state`` (from a bundle or checkpoint), or afresh; measures the
        backbones. Decoders that the state has not start afresh, those of other backbones are passed over.
        """
        crops = measured_crops(self.sampler, self.recipe.phases[-1], self.device)
        measured = {tag: measure(frozen, crops) for tag, frozen in self.frozen.items()}
        self.pooled_std = {tag: one.pooled_std for tag, one in measured.items()}
        set_statistics(self.codec, measured)
        fresh: Sequence[str] = self.recipe.codec.backbones
        computed = False
        if codec_state is None:
            computed = begin_encoder(self.codec, self.recipe, self.frozen, self._encoder_source, crops, measured)
        else:
            fresh = load_what_is_there(self.codec, codec_state)
        bytes_P = self.recipe.target_bytes if computed else None
        begin_behind_encoder(self.codec, crops, measured, decoders=fresh, bytes_P=bytes_P)
        self.workers.share_([*self.codec.state_dict().values(), *self.pooled_std.values()])
        self.average.load_state_dict(self.codec.state_dict())

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint's content. Raises EngineError if it is for another codec, ConfigError if the
        backbones have other weights by now.
        """
        check_weights(self._weights, content)
        load_state(self.codec, content["codec"])
        load_state(self.average, content["average"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.counters = Counters(**content["counters"])
        self.log_lambda = list(content["log_lambda"])
        self.pooled_std = {tag: std_D.to(self.device) for tag, std_D in content["pooled_std"].items()}

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
            "weights": self._weights,
        }

    def save(self) -> None:
        """Write ``last.pt``."""
        save_checkpoint(self.out / "last.pt", self.content())

    # --- Training -------------------------------------------------------------------------------------------------

    def run(
        self,
        progress_of: Callable[[Counters], float],
        *,
        intervals: Intervals | None = None,
        evaluate: Callable[[Trainer], None] | None = None,
    ) -> None:
        """Train until progress reaches 1; logs, checkpoints and evaluates on the way, and once more at the end."""
        intervals = intervals if intervals is not None else Intervals()
        leads = self.workers.leads
        log = TrainingLog(self.out, columns=figure_names(self.recipe), steps=intervals.log_steps) if leads else None
        try:
            stopped = self._train(progress_of, intervals, log, evaluate)
        finally:
            if log is not None:
                log.close()
        if leads:
            self.save()
            if evaluate is not None and not stopped:
                evaluate(self)
        self.workers.wait()

    def _train(
        self,
        progress_of: Callable[[Counters], float],
        intervals: Intervals,
        log: TrainingLog | None,
        evaluate: Callable[[Trainer], None] | None,
    ) -> bool:
        """Step until progress reaches 1, or until somebody stops it: True then."""
        saved = evaluated = time.monotonic()
        while True:
            progress, stopping = self.workers.agree(progress_of(self.counters), self.stopping)
            if stopping or progress >= 1.0:
                return bool(stopping)
            began = time.monotonic()
            phase, within = phase_at(self.recipe, progress)
            figures = self.step(phase, within)
            now = time.monotonic()
            self.counters.elapsed_s += now - began
            if log is None:
                continue
            log.add(self.counters, phase.name, progress, figures)
            if now - saved > intervals.checkpoint_s:
                self.save()
                saved = now
            if evaluate is not None and now - evaluated > intervals.evaluate_s:
                evaluate(self)
                evaluated = time.monotonic()

    def stop(self) -> None:
        """Let ``run`` save and return after the current step; safe to call from a signal handler."""
        self.stopping = True

    def step(self, phase: Phase, within: float) -> Figures:
        """One optimiser step at ``within`` (0 ... 1) of ``phase``; returns figures for the log."""
        recipe, step, workers = self.recipe, self.counters.step, self.workers
        self._enter(phase)
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        tag = self._pick_backbone(generator)
        if not workers.leads:
            generator.manual_seed((recipe.seed * 1_000_003 + step) * 1_009 + workers.rank)
        number = step * workers.count + workers.rank
        batch = self.pool.batch(number, size=phase.crop, count=phase.batch, stride=workers.count)
        with self.autocast():
            answer = answer_for(batch, tag, phase.parts, partial(ask, self.frozen[tag]))
            seen_BCHW, encode = self._entrance(batch)
        seen_BCHW, answer = shuffled(batch, answer, seen_BCHW, generator)
        self.codec.train()
        learning_rate = self._set_learning_rate(phase, within)

        distortion_B, bpp_B, figures = self._forward(encode, seen_BCHW, answer, phase, tag, generator)
        rate_weight = self._rate_weight(phase, within)
        loss = distortion_B.new_zeros(())
        for point, part in enumerate(self._point_slices(phase.batch)):
            share = (part.stop - part.start) / phase.batch
            loss = loss + share * (
                distortion_B[part].mean() + rate_weight * bpp_B[part].mean() / math.exp(self.log_lambda[point])
            )
        self.optimiser.zero_grad()
        loss.backward()
        self._average_over_workers()
        norm = torch.nn.utils.clip_grad_norm_(self.codec.parameters(), recipe.gradient_norm_max)
        if not torch.isfinite(norm):
            raise EngineError(
                f"the gradient is {float(norm)} at step {step}: begin another run from the last checkpoint "
                f"(--from-checkpoint {self.out / 'last.pt'}, another --out), which draws other crops"
            )
        self.optimiser.step()
        self._update_average()
        if step % recipe.quantile_interval == 0 and not recipe.decoders_only:
            self.codec.update_quantiles()

        bpp_P = torch.stack([bpp_B[part].detach().mean() for part in self._point_slices(phase.batch)])
        figures |= {"loss": loss.detach(), "norm": norm, "bits_per_pixel": bpp_B.detach().mean()}
        means, bpps = self._told(figures, bpp_P)
        payload_P = [bpp * FRAME_PIXELS / 8 for bpp in bpps]
        if rate_weight >= 1.0 and not recipe.decoders_only:
            self._steer_rate(payload_P)
        self.counters.step += 1
        self.counters.crops += phase.batch * workers.count
        means |= {"lr": learning_rate, "rate_weight": rate_weight}
        for name, payload, log_lambda in zip(recipe.codec.operating_points, payload_P, self.log_lambda, strict=True):
            means |= {f"bytes_{name}": payload, f"lambda_{name}": math.exp(log_lambda)}
        return means

    def _enter(self, phase: Phase) -> None:
        """At a phase's first step: note it, and go on from the average where the phase wants it."""
        counters = self.counters
        if phase.name == counters.phase:
            return
        known = counters.phase != "" or counters.step == 0  # checkpoints of before do not say
        counters.phase = phase.name
        if known:
            counters.phase_began = counters.step
            if phase.from_average and counters.step > 0:
                self.codec.load_state_dict(self.average.state_dict())

    def _entrance(self, batch: PooledBatch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """(what training sees of a batch, what makes a latent of it): images and the encoder, or, where that is not
        trained, latents as they are.
        """
        if self.recipe.decoders_only:
            return latent_for(batch, self.codec.analysis), lambda latent_BCHW: latent_BCHW
        return image_of(batch), self.codec.analysis

    def _average_over_workers(self) -> None:
        """Equal gradients and BatchNorm statistics everywhere."""
        gradients = [p.grad for p in self.codec.parameters() if p.grad is not None]
        self.workers.average_([*gradients, *(b for b in self.codec.buffers() if b.is_floating_point())])

    def _told(self, figures: dict[str, Tensor], bpp_P: Tensor) -> tuple[Figures, list[float]]:
        """The figures and rates as numbers, means over all processes; the device is waited for once."""
        values = torch.cat([torch.stack([value.float() for value in figures.values()]), bpp_P.float()])
        self.workers.average_([values])
        numbers = values.tolist()
        return dict(zip(figures, numbers, strict=False)), numbers[len(figures) :]

    def _forward(
        self,
        encode: Callable[[Tensor], Tensor],
        seen_BCHW: Tensor,
        answer: Answer,
        phase: Phase,
        tag: str,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(distortion [B], bits per pixel [B], figures)."""
        with self.autocast():
            latent_BCHW, bits_BCHW, weight_B = self._through_channel(encode(seen_BCHW), phase, generator)
            synthesis = self.codec.synthesis[tag]
            terms = distortion_terms(
                synthesis, self.frozen[tag], latent_BCHW, answer, phase, self.pooled_std[tag]  # type: ignore[arg-type]
            )  # fmt: skip
            distortion_B = weighted(terms, phase)
        figures = {f"{name}_{tag}": term_B.detach().mean() for name, term_B in terms.items()}
        figures["distortion"] = distortion_B.detach().mean()
        # A frame that lost layers is far off whatever the codec does; unweighted, few of them would rule the gradient.
        distortion_B = distortion_B * weight_B
        pixels = latent_BCHW.shape[2] * latent_BCHW.shape[3] * self.recipe.codec.latent.stride**2
        return distortion_B, losses.bits_per_pixel(bits_BCHW, pixels=pixels), figures

    def _through_channel(
        self, latent_BCHW: Tensor, phase: Phase, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Quantisation and losses on the way, each slice of the batch at its operating point: (latent at the server,
        bits).
        """
        latent_BCHW = latent_BCHW.float()
        noise_BCHW = (torch.rand(latent_BCHW.shape, generator=generator) - 0.5).to(self.device)
        layers_B = losses.sample_layers(
            len(latent_BCHW), layers=LAYERS, drop_probability=phase.tail_drop, generator=generator
        )
        rounded = phase.rounding == "straight_through"
        seen, bits = [], []
        for point, part in enumerate(self._point_slices(len(latent_BCHW))):
            received, spent = self.codec.simulate(
                latent_BCHW[part],
                point,
                noise_BCHW=noise_BCHW[part],
                rounded=rounded,
                layers_B=layers_B[part],
                encoder_pays=point == self.recipe.paying_point,
            )
            seen.append(received)
            bits.append(spent)
        weight_B = torch.where(layers_B < LAYERS, self.recipe.dropped_frame_weight, 1.0)
        return torch.cat(seen).contiguous(memory_format=torch.channels_last), torch.cat(bits), weight_B.to(self.device)

    def _pick_backbone(self, generator: torch.Generator) -> str:
        shares = torch.tensor(self.recipe.backbone_shares)
        return self.recipe.codec.backbones[int(torch.multinomial(shares, 1, generator=generator))]

    def _point_slices(self, batch: int) -> list[slice]:
        """Consecutive parts of a batch, one for each operating point; none is empty."""
        edges, total, points = [0], 0.0, len(self.recipe.point_shares)
        for number, share in enumerate(self.recipe.point_shares, start=1):
            total += share
            edges.append(min(max(round(total * batch), edges[-1] + 1), batch - points + number))
        return [slice(start, stop) for start, stop in pairwise(edges)]

    def _set_learning_rate(self, phase: Phase, within: float) -> float:
        first, last = phase.learning_rate
        rate = last + (first - last) * 0.5 * (1 + math.cos(math.pi * within))
        began = self.counters.phase_began if phase.from_average else 0
        rate *= min((self.counters.step - began + 1) / self.recipe.warmup_steps, 1.0)
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


def _check_crops(recipe: Recipe) -> None:
    stride = recipe.codec.latent.stride
    for phase in recipe.phases:
        if phase.crop % stride:
            raise ConfigError(
                f"crops of {phase.crop} pixels do not fit the encoder {recipe.codec.analysis}: expected multiples of "
                f"{stride}"
            )


def figure_names(recipe: Recipe) -> list[str]:
    """Every figure that a run of ``recipe`` may log, in order."""
    terms = [name for name, weight in TERM_WEIGHTS.items() if any(getattr(phase, weight) for phase in recipe.phases)]
    names = ["loss", "distortion", "bits_per_pixel", "norm", "lr", "rate_weight"]
    for point in recipe.codec.operating_points:
        names += [f"bytes_{point}", f"lambda_{point}"]
    return names + [f"{term}_{tag}" for tag in recipe.codec.backbones for term in dict.fromkeys(["mse", *terms])]
