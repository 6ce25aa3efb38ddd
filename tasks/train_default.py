"""Train the shipped heads through a bundle's codec and put them into it.

    python -m tasks.train_default --bundle DIR --data DIR

For each backbone of the bundle and each task: features of two views of every training picture (the live square, and
the mirrored evaluation crop), through the real bitstream at the default operating point; a linear probe on them;
top-1 on the test split

    direct     a probe trained on and tested with the unmodified backbone's features: what there is to lose
    codec      the shipped head through the real bitstream; the loss is against `direct`, on the same pictures
    head       the shipped head on unmodified features (clients that send JPEGs)

DATA holds the data sets: `food101.tar`, `flowers102.tar`, `cifar100-train.tar`, `cifar100-test.tar`, or their published
folders.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pipeline.bundle import Bundle, HeadEntry, write_bundle
from pipeline.datasets import Dataset, Item, open_dataset
from pipeline.errors import InputError
from pipeline.runtime.encoder import FrameEncoder
from pipeline.runtime.engine import Engine
from tasks.catalogue import load_catalogue
from tasks.evaluate import Estimate, accuracy, agreement, loss_points
from tasks.probe import Float32, Probe, fit_probe
from tasks.through_codec import (
    BothWays,
    CodecRoute,
    FeatureSet,
    View,
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


@dataclass(frozen=True)
class HeadFigures:
    """How good a head is on its test split: top-1 in percent, loss in points, agreement in percent, bytes a frame."""

    task: str
    backbone: str
    pictures: int
    direct: Estimate
    codec: Estimate
    head: Estimate
    loss: Estimate
    agreement: Estimate
    payload_bytes_mean: float
    penalty: float

    def as_table(self) -> dict[str, float | int | list[float]]:
        """For a manifest."""
        return {
            "test_pictures": self.pictures,
            "accuracy_direct": round(self.direct.value, 2),
            "accuracy_codec": round(self.codec.value, 2),
            "accuracy_head_direct": round(self.head.value, 2),
            "loss_points": round(self.loss.value, 2),
            "loss_points_interval": [round(self.loss.low, 2), round(self.loss.high, 2)],
            "agreement": round(self.agreement.value, 2),
            "payload_bytes_mean": round(self.payload_bytes_mean, 1),
            "penalty": self.penalty,
        }


def train_heads(
    bundle: Bundle,
    engines: Sequence[Engine],
    data: Path,
    *,
    tasks: Sequence[str] = tuple(PLACES),
    operating_point: str = "",
    pictures_max: int | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[list[Trained], list[HeadFigures]]:
    """Heads of `tasks` on every engine, ready for write_bundle, and what they are worth.

    `pictures_max` takes only that many pictures of each split (trying things out). Raises InputError where data is
    missing.
    """
    say = on_progress or (lambda what, done, total: None)
    # fp32, so that heads do not depend on what is faster on this machine.
    encoder = FrameEncoder(bundle, provider="cpu", precision="fp32")
    route = CodecRoute(bundle, operating_point=operating_point, encoder=encoder)
    trained: list[Trained] = []
    figures: list[HeadFigures] = []
    for task in tasks:
        learn = _features(task, "train", data, route, engines, training_views(task, bundle), pictures_max, say)
        test = _features(task, "test", data, route, engines, [test_view(task, bundle)], pictures_max, say)
        for engine in engines:
            what = f"{task} on {engine.backbone}: probe"
            head, one = train_head(task, learn[engine.backbone], test[engine.backbone], say=say, what=what)
            trained.append(head)
            figures.append(one)
    return trained, figures


def train_head(
    task: str, learn: BothWays, test: BothWays, *, say: OnProgress, what: str = "probe"
) -> tuple[Trained, HeadFigures]:
    """The head of one task on one backbone, and its figures."""
    classes = len(load_catalogue(task))
    reference = _fit(learn.direct, classes, lambda done, total: say(f"{what} (direct)", done, total))
    probe = _fit(learn.codec, classes, lambda done, total: say(f"{what} (codec)", done, total))
    figures = _figures(task, reference, probe, test)
    entry = HeadEntry(
        task=task, backbone=learn.codec.backbone, classes=classes, labels=task, title=load_catalogue(task).title,
        trained_on=f"{len(np.unique(learn.codec.pictures_M))} pictures, two views each, through the codec",
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
    new = {(entry.task, entry.backbone) for entry, _weight, _bias in heads}
    old = [
        (entry, *bundle.head_arrays(entry))
        for backbone in bundle.backbones
        for entry in bundle.heads(backbone.tag)
        if (entry.task, entry.backbone) not in new
    ]
    tables: dict[str, dict[str, object]] = {k: dict(v) for k, v in bundle.manifest.figures.get("heads", {}).items()}
    for one in figures:
        tables.setdefault(one.task, {})[one.backbone] = one.as_table()
    skip = {backbone.synthesis_path for backbone in bundle.backbones} | {"server/backbones.toml"}
    extras = [path for path in bundle.paths if path.startswith("server/") and path not in skip]
    edge = [path for path in bundle.paths if path.startswith("edge/") and path != "edge/spec.toml"]
    return write_bundle(
        folder,
        name=bundle.manifest.name,
        edge_spec=bundle.edge_spec,
        edge_files={path.removeprefix("edge/"): bundle.read(path) for path in edge},
        backbones=bundle.backbones,
        synthesis={backbone.tag: bundle.read(backbone.synthesis_path) for backbone in bundle.backbones},
        heads=[*old, *heads],
        server_files={path.removeprefix("server/"): bundle.read(path) for path in extras},
        figures={**bundle.manifest.figures, "heads": tables},
        provenance=bundle.manifest.provenance,
        licence=bundle.manifest.licence,
        created=bundle.manifest.created,
    )


def figures_table(figures: Sequence[HeadFigures]) -> Table:
    """What people read at the end."""
    table = Table(title="Heads: top-1 in percent on the test split, 95 % intervals")
    for column in (
        "task",
        "backbone",
        "pictures",
        "direct",
        "codec",
        "loss (points)",
        "agreement",
        "head on JPEG",
        "bytes",
    ):
        table.add_column(column, justify="left" if column in ("task", "backbone") else "right")
    for one in figures:
        table.add_row(
            one.task, one.backbone, str(one.pictures), str(one.direct), str(one.codec), str(one.loss),
            f"{one.agreement.value:.1f}", str(one.head), f"{one.payload_bytes_mean:.0f}",
        )  # fmt: skip
    return table


def _features(
    task: str,
    split: str,
    data: Path,
    route: CodecRoute,
    engines: Sequence[Engine],
    views: Sequence[View],
    pictures_max: int | None,
    say: OnProgress,
) -> Mapping[str, BothWays]:
    dataset = find_data(data, task, split)
    items = _spread(list(dataset.items()), pictures_max)
    chosen = Dataset(dataset.name, dataset.classes, lambda: items)
    total = len(items) * len(views)
    return features_both_ways(
        chosen, route, engines, views, on_picture=lambda done: say(f"{task}: {split} features", done, total)
    )


def _spread(items: list[Item], count: int | None) -> list[Item]:
    """At most `count` items, evenly spread."""
    if count is None or count >= len(items):
        return items
    return [items[i * len(items) // count] for i in range(count)]


def _fit(features: FeatureSet, classes: int, on_step: Callable[[int, int], None]) -> Probe:
    return fit_probe(
        features.pooled_MD, features.labels_M, classes=classes, groups_M=features.pictures_M, on_step=on_step
    )


def _figures(task: str, reference: Probe, probe: Probe, test: BothWays) -> HeadFigures:
    labels = test.codec.labels_M
    direct, codec = reference.logits(test.direct.pooled_MD), probe.logits(test.codec.pooled_MD)

    def correct(logits: Float32) -> np.ndarray:
        return np.asarray(logits.argmax(axis=1) == labels)

    return HeadFigures(
        task=task,
        backbone=test.codec.backbone,
        pictures=len(labels),
        direct=accuracy(correct(direct)),
        codec=accuracy(correct(codec)),
        head=accuracy(correct(probe.logits(test.direct.pooled_MD))),
        loss=loss_points(correct(direct), correct(codec)),
        agreement=agreement(direct, codec),
        payload_bytes_mean=float(test.codec.payload_bytes_M.mean()),
        penalty=probe.penalty,
    )


@contextmanager
def _progress(console: Console) -> Iterator[OnProgress]:
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
    parser.add_argument("--dry-run", action="store_true", help="measure only, leave the bundle as it is")
    arguments = parser.parse_args()
    console = Console()
    bundle = Bundle.open(arguments.bundle)
    names = [name for name in arguments.backbones.split(",") if name] or [one.tag for one in bundle.backbones]
    engines = [build_engine(bundle, name, backend="onnx", progress=console.print) for name in names]
    with _progress(console) as say:
        heads, figures = train_heads(
            bundle,
            engines,
            arguments.data,
            tasks=[task for task in arguments.tasks.split(",") if task],
            operating_point=arguments.operating_point,
            pictures_max=arguments.pictures,
            on_progress=say,
        )
    console.print(figures_table(figures))
    if not arguments.dry_run:
        written = add_heads(arguments.bundle, heads, figures)
        console.print(f"{len(heads)} heads written to {arguments.bundle}, bundle id {written.bundle_id[:12]}…")


if __name__ == "__main__":
    main()
