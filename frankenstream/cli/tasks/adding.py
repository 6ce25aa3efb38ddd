"""`frankenstream tasks add`: labelled pictures in, a task out, on this machine and on a running server."""

from __future__ import annotations

import datetime
from pathlib import Path

from rich.console import Console

from frankenstream.cli.tasks.settings import ServerAddress, hand_over, progress, show_lesson
from frankenstream.config import names
from pipeline.bundle import Backbone, Bundle
from pipeline.bundle.files import read_zip
from pipeline.clock import monotonic
from pipeline.errors import BundleError, ConfigError
from pipeline.runtime.engine import Engine
from pipeline.runtime.engines import build_engine
from tasks import known_tasks
from tasks.adding import gather_examples, origin_of
from tasks.example_store import ExampleStore
from tasks.head_file import HeadFiles, check_made_for, read_head, read_head_entry
from tasks.labelled_pictures import LabelledPictures, find_pictures
from tasks.store import HeadStore, task_name
from tasks.teaching import KINDS, Lesson, OnStep, teach

BROKEN_SHOWN = 5


def add(
    name: str,
    place: Path,
    *,
    address: ServerAddress | None = None,
    backbone: str = "",
    bundle: Path | None = None,
    quality: str = "",
    kind: str = "linear",
    unknown: bool = True,
    title: str = "",
    views: int = 2,
    per_class: int | None = None,
    threads: int = 0,
) -> None:
    """Teach a task from labelled pictures: features through the codec, a head, how good it is; hand it over.

    The pictures are not kept; their features are, so that `tasks capture` and `tasks teach` can add to them.

    Parameters
    ----------
    name:
        What the task is called, in any script.
    place:
        A folder with a folder for each class (train/ and val/ folders are kept apart), a CSV with columns path and
        label, tar shards, or a .zip of `tasks export`.
    backbone:
        Backbones that get a head, comma separated; the bundle's default if not given.
    bundle:
        Bundle folder or .zip; the default one if not given. It must be the server's.
    quality:
        Operating point that the edges use; the bundle's default if not given.
    kind:
        linear, mlp (one hidden layer) or nearest (the nearest examples vote).
    unknown:
        Answer "unknown" for what fits no class.
    title:
        What people read; the name if not given.
    views:
        How often each picture is looked at, 1 or 2; 1 halves the time.
    per_class:
        At most so many pictures of each class.
    threads:
        Threads; 0: all cores.
    """
    console = Console(highlight=False)
    address = address or ServerAddress()
    client = address.client()  # so that a wrong address is told before the work
    task = free_name(name)
    if kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}, expected {', '.join(KINDS)}; others come as packages, see docs/tasks.md")
    if views not in (1, 2):
        raise ConfigError(f"views is {views}, expected 1 or 2")
    if client is not None:
        client.tasks()
    _need_scipy(kind)
    opened = Bundle.open(bundle)
    store = HeadStore()
    with store.lock(task):
        if place.suffix.lower() == ".zip":
            files = _from_export(task, place, opened)
        else:
            found = find_pictures(place.expanduser(), pictures_max=per_class)
            _introduce(console, task, found, opened)
            files = []
            for one in dict.fromkeys(opened.backbone(wish).tag for wish in names(backbone) or ("",)):
                entry = opened.backbone(one)
                engine = build_engine(
                    opened, one, backend="onnx", threads=threads, progress=lambda line: console.print(line, style="dim")
                )
                with progress(console) as say:
                    lesson = _learn(
                        console, task, found, opened, entry, engine, store, say, quality=quality, kind=kind,
                        unknown=unknown, title=title, views=views, threads=threads, place=place,
                    )  # fmt: skip
                show_lesson(console, lesson, backbone=entry.alias or entry.tag)
                files.append(lesson.files)
        version = store.save(task, files)
        console.print(f"[bold]{task}[/] version {version} is in {store.place(task)}", soft_wrap=True)
        hand_over(console, task, store.load(task, version), address)


def free_name(name: str) -> str:
    """`name` as a task of the user's own. Raises ConfigError if it is taken by one that is there already."""
    task = task_name(name)
    if task in known_tasks():
        raise ConfigError(f"task {task} comes with FrankenStream or a package: choose another name")
    return task


def counted(count: int, one: str, many: str) -> str:
    """`1 class`, `2 classes`."""
    return f"{count} {one if count == 1 else many}"


def today() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _need_scipy(kind: str) -> None:
    """Before minutes of work, not after."""
    if kind == "linear":
        try:
            import scipy.optimize  # noqa: F401
        except ImportError:
            raise ConfigError("training heads needs scipy: pip install 'frankenstream[train]'") from None


def _introduce(console: Console, task: str, found: LabelledPictures, bundle: Bundle) -> None:
    held = sum(picture.held_out for picture in found.pictures)
    classes = counted(len(found.classes), "class", "classes")
    through = f"through codec {bundle.codec_id[:12]}"
    line = f"{task}: {len(found.pictures)} pictures of {classes}, {held} of them held out; {through}"
    console.print(line, markup=False, soft_wrap=True)
    for note in found.notes:
        console.print(f"note: {note}", style="yellow", markup=False)


def _learn(
    console: Console,
    task: str,
    found: LabelledPictures,
    bundle: Bundle,
    backbone: Backbone,
    engine: Engine,
    store: HeadStore,
    say: OnStep,
    *,
    quality: str,
    kind: str,
    unknown: bool,
    title: str,
    views: int,
    threads: int,
    place: Path,
) -> Lesson:
    started = monotonic()
    total = len(found.pictures)
    gathered = gather_examples(
        found, bundle, engine, operating_point=quality, views=views, threads=threads,
        on_picture=lambda done: say("features", done, total),
    )  # fmt: skip
    features_s = monotonic() - started
    for line in gathered.broken[:BROKEN_SHOWN]:
        console.print(f"not readable: {line}", style="yellow", markup=False)
    if len(gathered.broken) > BROKEN_SHOWN:
        console.print(f"not readable: {len(gathered.broken) - BROKEN_SHOWN} more", style="yellow")
    for note in gathered.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    origin = origin_of(bundle, backbone)
    examples = ExampleStore(store.place(task) / "examples")
    examples.save_pictures(gathered.examples, origin)
    everything, _ = examples.load(origin)
    lesson = teach(
        task, everything or gathered.examples, origin, kind=kind, unknown=unknown, title=title,
        operating_point=quality or bundle.edge_spec.default_operating_point, weights_sha256=backbone.weights_sha256,
        trained_on=f"{total - len(gathered.broken)} pictures of {place.name}, through the codec", created=today(),
        on_step=say,
    )  # fmt: skip
    taught_s = monotonic() - started - features_s
    rate = total / max(features_s, 1e-9)
    console.print(f"features {features_s:.1f} s ({rate:.0f} pictures/s), learning {taught_s:.1f} s")
    return lesson


def _from_export(task: str, place: Path, bundle: Bundle) -> list[HeadFiles]:
    """The heads in a .zip of `tasks export`, checked against this bundle."""
    import msgspec

    from pipeline.bundle.writing import to_toml

    if not place.is_file():
        raise ConfigError(f"there is no {place}: check the path")
    members = read_zip(place, where=str(place))
    files = []
    for path in sorted(members):
        arrays = members.get(path.removesuffix(".toml") + ".safetensors")
        if path.endswith(".toml") and arrays is not None:
            entry = msgspec.structs.replace(read_head_entry(members[path]), task=task)
            check_made_for(entry, bundle)
            files.append(HeadFiles(to_toml(entry), arrays))
            backbone = bundle.backbone(entry.backbone)
            read_head(files[-1], backbone=backbone.tag, feature_width=backbone.pooled_width)
    if not files:
        raise BundleError(f"{place} holds no heads: expected a .zip of `frankenstream tasks export`")
    return files
