"""`frankenstream tasks add`: labelled pictures in, a task out, on this machine and on a running server."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from frankenstream.cli.tasks.settings import ServerAddress, hand_over, progress, show_lesson
from frankenstream.config import names
from pipeline.bundle import Backbone, Bundle
from pipeline.bundle.files import read_zip
from pipeline.errors import BundleError, ConfigError
from pipeline.runtime.engine import Engine
from pipeline.runtime.engines import build_engine
from tasks import known_tasks
from tasks.example_store import examples_of
from tasks.head_file import HeadFiles, check_made_for, read_head, read_head_entry
from tasks.labelled_pictures import LabelledPictures, find_pictures
from tasks.learning import Wish, learn
from tasks.store import HeadStore, task_name
from tasks.teaching import Lesson, OnStep

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
        linear, mlp (one hidden layer), nearest (the nearest examples vote) or map (looks at every place of the feature
        map, the strongest one answers: for small things anywhere in the frame).
    unknown:
        Answer "unknown" for what fits no class; a map never does.
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
    wish = Wish(kind=kind, unknown=unknown, title=title, operating_point=quality, views=views, threads=threads)
    wish.check()
    if client is not None:
        client.tasks()
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
                    lesson = _learn(console, task, found, opened, entry, engine, store, say, wish, source=place.name)
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
    wish: Wish,
    *,
    source: str,
) -> Lesson:
    def tell(broken: tuple[str, ...], notes: tuple[str, ...]) -> None:
        for line in broken[:BROKEN_SHOWN]:
            console.print(f"not readable: {line}", style="yellow", markup=False)
        if len(broken) > BROKEN_SHOWN:
            console.print(f"not readable: {len(broken) - BROKEN_SHOWN} more", style="yellow")
        for note in notes:
            console.print(f"note: {note}", style="yellow", markup=False)

    learnt = learn(
        task, found, bundle, backbone, engine, wish, source=source,
        examples=examples_of(store.place(task)), on_step=say, on_gathered=tell,
    )  # fmt: skip
    rate = len(found.pictures) / max(learnt.features_s, 1e-9)
    console.print(f"features {learnt.features_s:.1f} s ({rate:.0f} pictures/s), learning {learnt.taught_s:.1f} s")
    return learnt.lesson


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
