"""What every training command has in common: photos, a folder, a budget, processes, and how a run ends.

`frankenstream train …` is a thin layer over `codec.train_codec`, `decoder.train_decoder` and `backbone.train_backbone`.
"""

from __future__ import annotations

import datetime
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from pipeline.errors import ConfigError, InputError
from pipeline.models.backbones import CutBackbone, load_backbone
from pipeline.training.data import CropSampler, PhotoSource, PhotoStore, build_photo_store, read_photos
from pipeline.training.development import DevelopmentLog
from pipeline.training.evaluate import read_labels
from pipeline.training.log import Counters
from pipeline.training.loop import Trainer
from pipeline.training.parallel import Workers, join_workers, leave_workers
from pipeline.training.recipes import Recipe, with_crops
from pipeline.training.teacher import fixed_side

LAST = "last.pt"
FRAME_SIDE = 224
"""What bundles are made for, in pixels."""
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


def at_sizes_of(recipe: Recipe, backbones: Mapping[str, CutBackbone]) -> Recipe:
    """The recipe with the crops that the backbones can take. Raises ConfigError for one that takes no frames of 224."""
    sides = {tag: side for tag, backbone in backbones.items() if (side := fixed_side(backbone)) is not None}
    for tag, side in sides.items():
        if side != FRAME_SIDE:
            raise ConfigError(
                f"{tag} takes images of {side} pixels only, bundles are for {FRAME_SIDE}: choose one that takes these"
            )
    return with_crops(recipe, FRAME_SIDE) if sides else recipe


@dataclass(frozen=True)
class EvaluationPhotos:
    """Where runs are evaluated on the way: a tar with labels.csv, and photos without labels beside it."""

    labelled: Path | None = None
    held_out: Path | None = None

    def check(self) -> None:
        """Raises ConfigError, InputError: now, and not after the photos are decoded."""
        if self.labelled is not None:
            read_labels(self.labelled)
        if self.held_out is None:
            return
        if self.labelled is None:
            raise ConfigError("--held-out-photos go with --evaluate-photos: give both")
        if next(read_photos(PhotoSource.parse(str(self.held_out))), None) is None:
            raise InputError(f"no photos in {self.held_out} to evaluate on: check the path")

    def log(self, folder: Path) -> Callable[[Trainer], None] | None:
        """What evaluates a run whose folder this is; None without photos."""
        return None if self.labelled is None else DevelopmentLog(folder / "dev.csv", self.labelled, self.held_out)


def carry_out(
    settings: RunSettings,
    recipe: Recipe,
    backbones: dict[str, CutBackbone],
    *,
    content: dict[str, Any] | None,
    state: dict[str, Tensor] | None,
    evaluation: EvaluationPhotos,
    what: str,
    from_average: bool = False,
    then: Callable[[Trainer], None] | None = None,
) -> bool:
    """Go on from a checkpoint's ``content``, or begin with ``state`` (None: afresh), until the budget is spent: True
    then, after the first process has done ``then``. SIGTERM and Ctrl-C save and end: False.
    """
    recipe = at_sizes_of(recipe, backbones)
    with ground(settings) as made:
        settings.out.mkdir(parents=True, exist_ok=True)
        sampler = CropSampler(made.store, seed=recipe.seed)
        trainer = Trainer(
            recipe, backbones, sampler, data_sha256=made.store.sha256, out=settings.out, workers=made.workers
        )
        if content is None:
            trainer.start(state)
        else:
            trainer.restore(content)
        if from_average:
            trainer.start_from_average()
        made.say(f"{len(made.store)} photos, sha256 {made.store.sha256[:16]}; {what}; {describe(made.workers)}")
        if content is not None and content["data_sha256"] != made.store.sha256:
            made.say("the photos are not those that the run began with")
        evaluate = evaluation.log(settings.out) if made.workers.leads else None
        with stopping_on_signals(trainer.stop):
            trainer.run(progress_by(settings, trainer.counters), evaluate=evaluate)
        finished = not trainer.stopping
        if finished and made.workers.leads and then is not None:
            then(trainer)
        made.workers.wait()
    return finished


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
