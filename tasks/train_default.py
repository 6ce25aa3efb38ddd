"""Train the shipped heads through a bundle's codec and put them into it.

    python -m tasks.train_default --bundle DIR --data DIR

For each backbone of the bundle and each task: features of two views of every training picture (the live square, and the
mirrored evaluation crop), through the real bitstream at the default operating point and directly; one linear probe on
both, so that it serves edges and clients that send JPEGs; top-1 on the test split

    direct     a probe trained and tested on the unmodified backbone's features: what there is to lose
    codec      the shipped head through the real bitstream; the loss is against `direct`, on the same pictures
    head       the shipped head on unmodified features

DATA holds the data sets: `food101.tar`, `flowers102.tar`, `cifar100-train.tar`, `cifar100-test.tar`, or their published
folders.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from pipeline.bundle import Bundle, HeadEntry, write_bundle
from pipeline.bundle.writing import bundle_parts
from pipeline.datasets import Dataset, Item, open_dataset
from pipeline.errors import InputError
from pipeline.runtime.encoder import FrameEncoder
from pipeline.runtime.engine import Engine
from tasks.catalogue import load_catalogue
from tasks.feature_cache import FeatureCache
from tasks.head_figures import HeadFigures, figures_table, measure_head
from tasks.probe import Probe, fit_probe
from tasks.through_codec import (
    BothWays,
    CodecRoute,
    FeatureSet,
    View,
    direct_features,
    evaluation_view,
    features_both_ways,
    live_view,
    whole_view,
)

PLACES: dict[str, tuple[str, ...]] = {
    "food101": ("food101.tar", "food-101"),
    "cifar100": ("cifar100-{split}.tar", "cifar-100-python", "cifar-100-binary"),
    "flowers102": ("flowers102.tar", "flowers-102", "102flowers"),
}
"""Task → where its pictures may lie within the data folder; `{split}` is train or test."""

Trained = tuple[HeadEntry, np.ndarray, np.ndarray]
OnProgress = Callable[[str, int, int], None]
"""(what is being done, done, total)"""


def train_heads(
    bundle: Bundle,
    engines: Sequence[Engine],
    data: Path,
    *,
    tasks: Sequence[str] = tuple(PLACES),
    operating_point: str = "",
    views: int = 2,
    pictures_max: int | None = None,
    cache: FeatureCache | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[list[Trained], list[HeadFigures]]:
    """Heads of `tasks` on every engine, ready for write_bundle, and what they are worth.

    `views`: how many views of each training picture (1 halves the time); `pictures_max` takes only that many pictures
    of each split (trying things out). Raises InputError where data is missing.
    """
    say = on_progress or (lambda what, done, total: None)
    # fp32, so that heads do not depend on what is faster on this machine.
    encoder = FrameEncoder(bundle, provider="cpu", precision="fp32")
    route = CodecRoute(bundle, operating_point=operating_point, encoder=encoder)
    trained: list[Trained] = []
    figures: list[HeadFigures] = []
    for task in tasks:
        learn, test = (
            _both_ways(split, bundle, route, engines, cache, say)
            for split in _splits(task, bundle, data, views, pictures_max)
        )
        with ThreadPoolExecutor(max_workers=max(1, len(engines))) as pool:
            fits = [pool.submit(train_head, task, learn[tag], test[tag], say=say) for tag in learn]
        for fit in fits:
            head, one = fit.result()
            trained.append(head)
            figures.append(one)
    return trained, figures


def fill_cache(
    bundle: Bundle,
    engines: Sequence[Engine],
    data: Path,
    cache: FeatureCache,
    *,
    tasks: Sequence[str] = tuple(PLACES),
    views: int = 2,
    pictures_max: int | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Compute the direct features that `cache` lacks: what of training does not depend on the codec."""
    say = on_progress or (lambda what, done, total: None)
    for task in tasks:
        for split in _splits(task, bundle, data, views, pictures_max):
            known = _known(split, bundle, engines, cache)
            for engine in [engine for engine in engines if engine.backbone not in known]:
                dataset = Dataset(task, (), lambda items=split.items: items)  # type: ignore[misc]
                on_picture = split.on_picture(say, f"direct on {engine.backbone}")
                found = direct_features(dataset, [engine], split.views, on_picture=on_picture)
                _keep(split, bundle, engine, cache, found[engine.backbone])


def _splits(task: str, bundle: Bundle, data: Path, views: int, pictures_max: int | None) -> tuple[_Split, _Split]:
    """(to learn from, to test on)"""
    learn = _Split.of(task, "train", data, training_views(task, bundle)[:views], pictures_max)
    return learn, _Split.of(task, "test", data, [test_view(task, bundle)], pictures_max)


def train_head(task: str, learn: BothWays, test: BothWays, *, say: OnProgress) -> tuple[Trained, HeadFigures]:
    """The head of one task on one backbone, and its figures."""
    what = f"{task} on {learn.codec.backbone}: probe"
    classes = len(load_catalogue(task))
    reference = _fit([learn.direct], classes, lambda done, total: say(f"{what} (direct)", done, total))
    probe = _fit([learn.codec, learn.direct], classes, lambda done, total: say(f"{what} (shipped)", done, total))
    figures = measure_head(task, reference, probe, test)
    pictures = learn.codec.pictures_M
    entry = HeadEntry(
        task=task, backbone=learn.codec.backbone, classes=classes, labels=task, title=load_catalogue(task).title,
        trained_on=f"{len(np.unique(pictures))} pictures, {len(pictures)} views, through the codec and directly",
        accuracy_direct=round(figures.direct.value, 2), accuracy_codec=round(figures.codec.value, 2),
    )  # fmt: skip
    return (entry, probe.weight, probe.bias), figures


def training_views(task: str, bundle: Bundle) -> list[View]:
    """Two views, so that a head knows both framings and does not care for left and right."""
    if task == "cifar100":
        return [whole_view(bundle), whole_view(bundle, mirrored=True)]
    return [live_view(bundle), evaluation_view(bundle, mirrored=True)]


def test_view(task: str, bundle: Bundle) -> View:
    """The view that accuracy is measured on."""
    return whole_view(bundle) if task == "cifar100" else evaluation_view(bundle)


def find_data(data: Path, task: str, split: str) -> Dataset:
    """The split of a task's data set within the folder `data`. Raises InputError, which says what was looked for."""
    names = [name.format(split=split) for name in PLACES[task]]
    for name in names:
        if (data / name).exists():
            return open_dataset(data / name, split=split, classes=load_catalogue(task).keys)
    raise InputError(f"no {task} in {data}: looked for {', '.join(names)}")


def add_heads(folder: Path, heads: Sequence[Trained], figures: Sequence[HeadFigures]) -> Bundle:
    """Write the bundle at `folder` again with these heads (in place of those of the same task and backbone)."""
    bundle = Bundle.open(folder)
    parts = bundle_parts(bundle)
    new = {(entry.task, entry.backbone) for entry, _weight, _bias in heads}
    old = [head for head in parts["heads"] if (head[0].task, head[0].backbone) not in new]
    tables: dict[str, dict[str, object]] = {k: dict(v) for k, v in bundle.manifest.figures.get("heads", {}).items()}
    for one in figures:
        tables.setdefault(one.task, {})[one.backbone] = one.as_table()
    return write_bundle(
        folder, **parts | {"heads": [*old, *heads], "figures": {**bundle.manifest.figures, "heads": tables}}
    )


@dataclass(frozen=True)
class _Split:
    """The pictures of one split and how they are looked at."""

    task: str
    split: str
    items: list[Item]
    views: Sequence[View]

    @classmethod
    def of(cls, task: str, split: str, data: Path, views: Sequence[View], pictures_max: int | None) -> _Split:
        return cls(task, split, _spread(list(find_data(data, task, split).items()), pictures_max), views)

    def on_picture(self, say: OnProgress, what: str) -> Callable[[int], None]:
        total = len(self.items) * len(self.views)
        return lambda done: say(f"{self.task}: {self.split} {what}", done, total)


def _known(
    split: _Split, bundle: Bundle, engines: Sequence[Engine], cache: FeatureCache | None
) -> dict[str, FeatureSet]:
    """Direct features that the cache has."""
    if cache is None:
        return {}
    found = {engine.backbone: cache.load(_place(split, bundle, engine, cache), engine.backbone) for engine in engines}
    return {backbone: features for backbone, features in found.items() if features is not None}


def _keep(split: _Split, bundle: Bundle, engine: Engine, cache: FeatureCache | None, direct: FeatureSet) -> None:
    if cache is not None:
        cache.save(_place(split, bundle, engine, cache), direct)


def _place(split: _Split, bundle: Bundle, engine: Engine, cache: FeatureCache) -> Path:
    weights_sha256 = bundle.backbone(engine.backbone).weights_sha256
    return cache.place(engine.backbone, weights_sha256, split.items, split.views)


def _both_ways(
    split: _Split,
    bundle: Bundle,
    route: CodecRoute,
    engines: Sequence[Engine],
    cache: FeatureCache | None,
    say: OnProgress,
) -> dict[str, BothWays]:
    dataset = Dataset(split.task, (), lambda: split.items)
    known = _known(split, bundle, engines, cache)
    both = features_both_ways(
        dataset, route, engines, split.views, direct=known, on_picture=split.on_picture(say, "features")
    )
    for engine in engines:
        if engine.backbone not in known:
            _keep(split, bundle, engine, cache, both[engine.backbone].direct)
    return both


def _spread(items: list[Item], count: int | None) -> list[Item]:
    """At most `count` items, evenly spread."""
    if count is None or count >= len(items):
        return items
    return [items[i * len(items) // count] for i in range(count)]


def _fit(parts: Sequence[FeatureSet], classes: int, on_step: Callable[[int, int], None]) -> Probe:
    pictures = np.concatenate([part.pictures_M for part in parts])
    labels = np.concatenate([part.labels_M for part in parts])
    pooled = np.concatenate([part.pooled_MD for part in parts])
    return fit_probe(pooled, labels, classes=classes, groups_M=pictures, on_step=on_step)


@contextmanager
def progress_bars(console: Console) -> Iterator[OnProgress]:
    with Progress(console=console) as progress:
        bars: dict[str, int] = {}

        def say(what: str, done: int, total: int) -> None:
            bar = bars[what] if what in bars else bars.setdefault(what, progress.add_task(what, total=total))
            progress.update(bar, completed=done, total=total)  # type: ignore[arg-type]

        yield say


def main() -> None:
    from pipeline.runtime.engines import build_engine

    parser = argparse.ArgumentParser(prog="python -m tasks.train_default", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle that gets the heads")
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--tasks", default=",".join(PLACES), help="which, separated by commas")
    parser.add_argument("--backbones", default="", help="which, separated by commas (default: all of the bundle)")
    parser.add_argument("--operating-point", default="", help="by name (default: the bundle's)")
    parser.add_argument("--pictures", type=int, default=None, help="at most so many of each split, for a quick look")
    parser.add_argument(
        "--views", type=int, default=2, choices=(1, 2), help="of each training picture; 1 halves the time"
    )
    parser.add_argument("--cache", type=Path, help="folder that keeps features of the unmodified backbones")
    parser.add_argument("--fill-cache", action="store_true", help="only compute what does not depend on the codec")
    parser.add_argument("--threads", type=int, default=0, help="of each engine (default: all cores)")
    parser.add_argument("--dry-run", action="store_true", help="measure only, leave the bundle as it is")
    arguments = parser.parse_args()
    console = Console()
    bundle = Bundle.open(arguments.bundle)
    names = [name for name in arguments.backbones.split(",") if name] or [one.tag for one in bundle.backbones]
    engines = [
        build_engine(bundle, name, backend="onnx", threads=arguments.threads, progress=console.print) for name in names
    ]
    tasks = [task for task in arguments.tasks.split(",") if task]
    cache = FeatureCache(arguments.cache) if arguments.cache else None
    options: dict[str, Any] = {"tasks": tasks, "views": arguments.views, "pictures_max": arguments.pictures}
    with progress_bars(console) as say:
        if arguments.fill_cache:
            if cache is None:
                parser.error("--fill-cache needs --cache FOLDER")
            fill_cache(bundle, engines, arguments.data, cache, on_progress=say, **options)
            return
        point = arguments.operating_point
        heads, figures = train_heads(
            bundle, engines, arguments.data, operating_point=point, cache=cache, on_progress=say, **options
        )
    console.print(figures_table(figures))
    if not arguments.dry_run:
        written = add_heads(arguments.bundle, heads, figures)
        console.print(f"{len(heads)} heads written to {arguments.bundle}, bundle id {written.bundle_id[:12]}…")


if __name__ == "__main__":
    main()
