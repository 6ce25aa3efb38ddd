"""What every training command has in common: photos, a folder, a budget, processes, and how a run ends.

`frankenstream train …` is a thin layer over `train_codec` here, `decoder.train_decoder` and `backbone.train_backbone`.
"""

from __future__ import annotations

import datetime
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from pipeline.bundle import Bundle
from pipeline.errors import ConfigError
from pipeline.models.backbones import CutBackbone, load_backbone
from pipeline.models.feature_codec import CodecConfig
from pipeline.models.synthesis import begins_linear
from pipeline.training.checkpoints import codec_state_from_bundle, load_checkpoint, recipe_from_dict
from pipeline.training.data import CropSampler, PhotoSource, PhotoStore, build_photo_store
from pipeline.training.development import DevelopmentLog
from pipeline.training.log import Counters
from pipeline.training.loop import Trainer
from pipeline.training.parallel import Workers, join_workers, leave_workers
from pipeline.training.recipes import Recipe, decoder_recipe, objective_recipe, with_crops
from pipeline.training.teacher import fixed_side

LAST = "last.pt"
Progressing = Callable[[Counters], float]


@dataclass(frozen=True)
class RunSettings:
    """Photos as `PATH[:PREFIX[:STRIDE[:WEIGHT]]]`, the folder for their pixels, and the one for checkpoints and logs.

    Exactly one budget: minutes from now, a time of day (HH:MM), optimiser steps or minutes of training; the last two
    over all resumes.
    """

    photos: tuple[str, ...]
    store: Path
    out: Path
    minutes: float | None = None
    end_at: str = ""
    steps: int | None = None
    minutes_in_all: float | None = None
    threads: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Outcome:
    """What a command leaves: a file or folder, and whether the budget was spent (else the run can be gone on with)."""

    path: Path
    finished: bool


@dataclass(frozen=True)
class Ground:
    """What a run stands on."""

    workers: Workers
    store: PhotoStore
    console: Console

    def say(self, line: str) -> None:
        """To people, from the first process only."""
        if self.workers.leads:
            self.console.print(line, markup=False)


@contextmanager
def ground(settings: RunSettings) -> Iterator[Ground]:
    """Join the other processes, decode the photos (the first process does it), and leave again."""
    check_budget(settings)
    sources = [PhotoSource.parse(text) for text in settings.photos]
    if not sources:
        raise ConfigError("no photos: give at least one --photos PATH")
    if settings.threads > 0:
        torch.set_num_threads(settings.threads)
    workers, console = join_workers(settings.device), Console(highlight=False, soft_wrap=True, emoji=False)
    try:
        if workers.leads:
            _build_store(sources, settings.store, console)
        workers.wait()
        made = Ground(workers, PhotoStore(settings.store), console)
        for line in made.store.broken[:3]:
            made.say(f"left out: {line}")
        if len(made.store.broken) > 3:
            made.say(f"left out: {len(made.store.broken) - 3} more images that do not decode")
        yield made
    finally:
        leave_workers()


def _build_store(sources: Sequence[PhotoSource], folder: Path, console: Console) -> None:
    text = "{task.description} {task.completed:.0f}"
    with Progress(text, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("decoding photos", total=None)
        build_photo_store(sources, folder, on_photo=lambda done: bar.update(task, completed=done))


def check_budget(settings: RunSettings) -> None:
    """Raises ConfigError unless exactly one budget is given, and above zero."""
    minutes = settings.minutes if settings.minutes_in_all is None else settings.minutes_in_all
    given = {"--minutes": minutes, "--end-at": settings.end_at or None, "--steps": settings.steps}
    named = {flag: value for flag, value in given.items() if value is not None}
    if len(named) != 1:
        raise ConfigError(f"budgets given: {', '.join(named) or 'none'}; expected one of {', '.join(given)}")
    value = next(iter(named.values()))
    if not isinstance(value, str) and value <= 0:
        raise ConfigError(f"{next(iter(named))} is {value:g}, expected above 0")
    if isinstance(value, str):
        _seconds_until(value)


def progress_by(settings: RunSettings, start: Counters) -> Progressing:
    """Progress by the counters. By time, what has elapsed and what is left until the end make the whole."""
    steps, minutes_in_all = settings.steps, settings.minutes_in_all
    if steps is not None:
        return lambda counters: counters.step / steps
    if minutes_in_all is not None:
        return lambda counters: counters.elapsed_s / (minutes_in_all * 60)
    left_s = _seconds_until(settings.end_at) if settings.minutes is None else settings.minutes * 60
    end, before_s = time.monotonic() + left_s, start.elapsed_s
    return lambda _counters: min(1.0, 1 - max(end - time.monotonic(), 0.0) / (before_s + left_s))


def _seconds_until(text: str) -> float:
    try:
        wanted = datetime.time.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--end-at is {text!r}, expected a time of day such as 07:30") from None
    now = datetime.datetime.now()
    return (datetime.datetime.combine(now.date(), wanted) - now).total_seconds() % 86400


def load_backbones(tags: Sequence[str], weights: Mapping[str, Path], *, stride: int) -> dict[str, CutBackbone]:
    """The frozen backbones, cut at 1/``stride``, with weights from files where named. Raises ConfigError,
    EngineError.
    """
    strange = sorted(set(weights) - set(tags))
    if strange:
        raise ConfigError(f"weights are named for {strange[0]}, which is none of {', '.join(tags)}")
    return {tag: load_backbone(tag, stride=stride, weights_file=weights.get(tag)) for tag in tags}


def _needed_backbones(recipe: Recipe, *, fresh: bool) -> tuple[str, ...]:
    """The codec's, and the one that a fresh encoder begins with."""
    own = recipe.codec.backbones
    begins = fresh and recipe.codec.analysis == "inverted_residual" and recipe.encoder_from not in own
    return (*own, recipe.encoder_from) if begins else own


def at_sizes_of(recipe: Recipe, backbones: Mapping[str, CutBackbone]) -> Recipe:
    """The recipe with the crops that the backbones can take."""
    sides = {side for backbone in backbones.values() if (side := fixed_side(backbone)) is not None}
    if len(sides) > 1:
        raise ConfigError(f"the backbones take images of {sorted(sides)} pixels only: train them apart")
    return with_crops(recipe, sides.pop()) if sides else recipe


def train_codec(
    settings: RunSettings,
    *,
    objective: str = "default",
    backbones: tuple[str, ...] = (),
    weights: Mapping[str, Path] | None = None,
    analysis: str = "",
    target_bytes: tuple[float, ...] = (),
    from_bundle: Path | None = None,
    from_checkpoint: Path | None = None,
    from_average: bool = False,
    new_recipe: bool = False,
    evaluate_photos: Path | None = None,
    held_out_photos: Path | None = None,
) -> Outcome:
    """Train a codec, or go on with the run in `settings.out`; gives its checkpoint.

    A run that is gone on with keeps its recipe unless `new_recipe` is given; a new one starts afresh, from a bundle's
    weights or from a checkpoint's average. Raises FrankenError.
    """
    check_budget(settings)
    last = settings.out / LAST
    content = load_checkpoint(last) if last.exists() else None
    if content is not None and not new_recipe:
        recipe = recipe_from_dict(content["recipe"])
    else:
        recipe = _new_recipe(objective, backbones, analysis or _analysis_of(from_bundle, from_checkpoint))
    state, origin = _start(from_bundle, from_checkpoint) if content is None else (None, "resumed")
    fresh = content is None and state is None
    if target_bytes and recipe.decoders_only and not fresh:
        raise ConfigError(f"the gains of {recipe.codec.analysis} are chosen at the start: target bytes want a new run")
    recipe = _with_targets(recipe, target_bytes)
    loaded = load_backbones(_needed_backbones(recipe, fresh=fresh), weights or {}, stride=recipe.codec.cut_stride)
    with ground(settings) as made:
        trainer = new_trainer(at_sizes_of(recipe, loaded), loaded, settings, made)
        if content is None:
            trainer.start(state)
        else:
            trainer.restore(content)
        if from_average:
            trainer.start_from_average()
        made.say(f"{len(made.store)} photos, sha256 {made.store.sha256[:16]}; {origin}; {describe(made.workers)}")
        finished = run_to_the_end(trainer, settings, evaluate_photos=evaluate_photos, held_out_photos=held_out_photos)
    return Outcome(last, finished)


def new_trainer(recipe: Recipe, backbones: dict[str, CutBackbone], settings: RunSettings, made: Ground) -> Trainer:
    """A Trainer on this ground."""
    settings.out.mkdir(parents=True, exist_ok=True)
    sampler = CropSampler(made.store, seed=recipe.seed)
    return Trainer(
        recipe, backbones, sampler, data_sha256=made.store.sha256, out=settings.out, workers=made.workers
    )  # fmt: skip


def run_to_the_end(
    trainer: Trainer,
    settings: RunSettings,
    *,
    evaluate_photos: Path | None = None,
    held_out_photos: Path | None = None,
) -> bool:
    """Train until the budget is spent; True then. SIGTERM and Ctrl-C save and end: False. Evaluates if there are photos
    for it.
    """
    evaluate: Callable[[Trainer], None] | None = None
    if evaluate_photos is not None and trainer.workers.leads:
        evaluate = DevelopmentLog(trainer.out / "dev.csv", evaluate_photos, held_out_photos)
    with stopping_on_signals(trainer.stop):
        trainer.run(progress_by(settings, trainer.counters), evaluate=evaluate)
    return not trainer.stopping


@contextmanager
def stopping_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and Ctrl-C call `stop` meanwhile."""
    before = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(workers: Workers) -> str:
    """Where it runs, for people."""
    if workers.device.type == "cuda":
        place = torch.cuda.get_device_name(workers.device)
    else:
        place = f"CPU, {torch.get_num_threads()} threads"
    return place if workers.count == 1 else f"{workers.count} processes, each on {place}"


def _start(from_bundle: Path | None, from_checkpoint: Path | None) -> tuple[dict[str, Tensor] | None, str]:
    if from_bundle is not None and from_checkpoint is not None:
        raise ConfigError("--from-bundle and --from-checkpoint contradict each other: give one of them")
    if from_bundle is not None:
        return codec_state_from_bundle(Bundle.open(from_bundle)), f"from {from_bundle}"
    if from_checkpoint is not None:
        state: dict[str, Tensor] = load_checkpoint(from_checkpoint)["average"]
        return state, f"from {from_checkpoint}"
    return None, "new run"


def _analysis_of(from_bundle: Path | None, from_checkpoint: Path | None) -> str:
    """The kind of encoder of what the run starts from."""
    if from_bundle is not None:
        return Bundle.open(from_bundle).edge_spec.analysis.name
    if from_checkpoint is not None:
        return recipe_from_dict(load_checkpoint(from_checkpoint)["recipe"]).codec.analysis
    return CodecConfig().analysis


def _new_recipe(objective: str, backbones: tuple[str, ...], analysis: str) -> Recipe:
    codec = replace(CodecConfig(), analysis=analysis)
    latent = codec.latent  # refuses a name that it does not know
    base = replace(Recipe(), codec=codec)
    if backbones and backbones != codec.backbones:
        base = replace(
            base,
            codec=replace(codec, backbones=backbones),
            backbone_shares=(1 / len(backbones),) * len(backbones),
        )
    if analysis == "inverted_residual":
        linear = [tag for tag in base.codec.backbones if begins_linear(tag, latent)]
        base = decoder_recipe(base.codec, base, linear=linear)
    return objective_recipe(objective, base)


def _with_targets(recipe: Recipe, target_bytes: tuple[float, ...]) -> Recipe:
    if not target_bytes:
        return recipe
    points = recipe.codec.operating_points
    if len(target_bytes) != len(points) or min(target_bytes) <= 0:
        raise ConfigError(f"target bytes are {list(target_bytes)}, expected one above 0 each for {', '.join(points)}")
    return replace(recipe, target_bytes=target_bytes)
