"""The default recipe: codec, then bundle, then heads, each stage once.

OUT/run/       checkpoints and logs of the codec         OUT/packed/    the loose parts and bundle/
OUT/done.json  the stages that are done
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.bundle import Bundle
from pipeline.errors import ConfigError


class Stages:
    """Runs each stage unless `file` says that it is done. A stage that is stopped gives False and is not."""

    def __init__(self, file: Path, console: Console) -> None:
        self._file = file
        self._console = console
        self._done: list[str] = json.loads(file.read_text()) if file.exists() else []

    def run(self, name: str, do: Callable[[], bool | None]) -> bool:
        """Whether the stage is done now."""
        if name in self._done:
            self._console.print(f"{name}: done before")
            return True
        self._console.print(f"[bold]{name}[/]")
        if do() is False:
            return False
        self._done.append(name)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._done))
        return True


def train_default_bundle(
    settings: Any,
    *,
    evaluate_photos: Path,
    data: Path | None,
    tasks: Sequence[str],
    clips: Path | None,
    cache: Path | None,
    objective: str,
    name: str,
    console: Console,
) -> Path | None:
    """The finished bundle's folder; None if the run was stopped. `settings`: pipeline.training.run.RunSettings.

    Raises FrankenError; what can be checked is checked before anything is trained.
    """
    training, packing = _module("training.codec"), _module("packing.pack")
    evaluation = _module("training.run").EvaluationPhotos(evaluate_photos)
    evaluation.check()
    if clips is not None:
        _module("packing.inputs").clip_files(clips)
    if data is not None:
        check_data(data, tasks)
    elif tasks:
        raise ConfigError("--tasks name heads to train: give the folder of their --data too")
    out: Path = settings.out
    packed, stages = out / "packed", Stages(out / "done.json", console)
    # Minutes count over all resumes here: stages that are done take none.
    codec_run = replace(settings, out=out / "run", minutes=None, minutes_in_all=settings.minutes)

    def train() -> bool:
        wishes = training.Wishes(objective=objective)
        return bool(training.train_codec(codec_run, wishes, evaluation=evaluation).finished)

    def pack() -> None:
        packing.pack(
            packing.PackSettings(
                checkpoint=out / "run" / "last.pt", out=packed, photos=settings.photos, clips=clips,
                evaluate_photos=evaluate_photos, cache=cache, name=name, threads=settings.threads,
            ),
            say=lambda line: console.print(line, markup=False),
        )  # fmt: skip

    def heads() -> None:
        assert data is not None
        train_heads_into(
            packed / "bundle", data, tasks=tasks, cache=cache, threads=settings.threads, console=console
        )  # fmt: skip
        # Again: a server's drift is measured on the heads too.
        figures = _module("packing.reference_figures")
        figures.add_reference_figures(packed / "bundle", evaluate_photos, threads=settings.threads)

    done = stages.run("codec", train)
    if os.environ.get("RANK", "0") != "0":
        return None  # of several processes (torchrun) the first one does the rest
    if not done:
        console.print("stopped; the same command goes on from here")
        return None
    stages.run("bundle", pack)
    if data is not None:
        stages.run("heads", heads)
    return packed / "bundle"


def check_data(data: Path, tasks: Sequence[str]) -> None:
    """Raises ConfigError for tasks that are none of ours, InputError where pictures are missing. No tasks: all."""
    from tasks.train_default import PLACES, find_data

    _check_tasks(tasks)
    for task in tasks or PLACES:
        for split in ("train", "test"):
            find_data(data, task, split)


def _check_tasks(tasks: Sequence[str]) -> None:
    from tasks.train_default import PLACES

    unknown = [task for task in tasks if task not in PLACES]
    if unknown:
        raise ConfigError(
            f"task is {unknown[0]!r}, expected {', '.join(PLACES)}; for pictures of your own: frankenstream tasks add"
        )


def _module(name: str) -> Any:
    """A module of pipeline that needs torch."""
    return importlib.import_module(f"pipeline.{name}")


def train_heads_into(
    folder: Path,
    data: Path,
    *,
    tasks: Sequence[str] = (),
    backbones: Sequence[str] = (),
    operating_point: str = "",
    pictures_max: int | None = None,
    views: int = 2,
    cache: Path | None = None,
    threads: int = 0,
    dry_run: bool = False,
    console: Console,
) -> None:
    """Train heads through the codec of the bundle at `folder`, print what they are worth, and put them into it.

    Raises FrankenError.
    """
    from pipeline.runtime.engines import build_engine
    from tasks.feature_cache import FeatureCache
    from tasks.head_figures import figures_table
    from tasks.train_default import PLACES, add_heads, progress_bars, train_heads

    _check_tasks(tasks)
    if views not in (1, 2):
        raise ConfigError(f"--views is {views}, expected 1 or 2")
    bundle = Bundle.open(folder)
    check_data(data, tasks)
    engines = [
        build_engine(bundle, tag, backend="onnx", threads=threads, progress=console.print)
        for tag in backbones or [one.tag for one in bundle.backbones]
    ]
    with progress_bars(console) as say:
        trained, figures = train_heads(
            bundle, engines, data, tasks=tasks or tuple(PLACES), operating_point=operating_point, views=views,
            pictures_max=pictures_max, cache=FeatureCache(cache) if cache else None, on_progress=say,
        )  # fmt: skip
    console.print(figures_table(figures))
    if not dry_run:
        written = add_heads(folder, trained, figures)
        console.print(f"{len(trained)} heads written to {folder}, bundle id {written.bundle_id[:12]}…")
