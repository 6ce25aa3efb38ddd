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
    clips: Path | None,
    cache: Path | None,
    objective: str,
    name: str,
    console: Console,
) -> Path | None:
    """The finished bundle's folder; None if the run was stopped. `settings`: pipeline.training.run.RunSettings.

    Raises FrankenError; what can be checked is checked before anything is trained.
    """
    for path in (evaluate_photos, data, clips):
        if path is not None and not path.exists():
            raise ConfigError(f"there is nothing at {path}: check the path")
    out: Path = settings.out
    packed, stages = out / "packed", Stages(out / "done.json", console)
    # Minutes count over all resumes here: stages that are done take none.
    codec_run = replace(settings, out=out / "run", minutes=None, minutes_in_all=settings.minutes)

    def train() -> bool:
        outcome = importlib.import_module("pipeline.training.run").train_codec(
            codec_run, objective=objective, evaluate_photos=evaluate_photos
        )
        return bool(outcome.finished)

    def pack() -> None:
        flags = [
            "--checkpoint", out / "run" / "last.pt", "--out", packed, "--count-photos", *settings.photos,
            "--evaluate-photos", evaluate_photos, "--name", name,
            *(["--clips", clips] if clips else []), *(["--cache", cache] if cache else []),
            *(["--threads", settings.threads] if settings.threads else []),
        ]  # fmt: skip
        importlib.import_module("pipeline.training.package_default").main([str(flag) for flag in flags])

    def heads() -> None:
        assert data is not None
        train_heads_into(packed / "bundle", data, cache=cache, threads=settings.threads, console=console)

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

    unknown = [task for task in tasks if task not in PLACES]
    if unknown:
        raise ConfigError(
            f"task is {unknown[0]!r}, expected {', '.join(PLACES)}; for pictures of your own: frankenstream tasks add"
        )
    if views not in (1, 2):
        raise ConfigError(f"--views is {views}, expected 1 or 2")
    bundle = Bundle.open(folder)
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
