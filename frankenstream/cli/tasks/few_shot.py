"""`frankenstream tasks capture` and `teach`: a task from what the camera sees, without storing a pixel."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from frankenstream.cli.tasks.adding import free_name
from frankenstream.cli.tasks.settings import DEFAULT_ADMIN, ServerAddress, hand_over, progress, show_lesson
from frankenstream.config import names
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.errors import ConfigError, InputError
from tasks.adding import origin_of
from tasks.captured import read_capture
from tasks.example_store import Examples, Origin, examples_of, label_text
from tasks.learning import Wish, today
from tasks.store import HeadStore
from tasks.teaching import teach as train

_SLICE = 5
"""Frames that are asked for at one time, so that one sees them come."""


def capture(
    name: str,
    label: str,
    *,
    address: ServerAddress | None = None,
    frames: int = 20,
    every: float = 0.2,
    session: str = "",
    backbone: str = "",
    wait: float = 30.0,
    replace: bool = False,
) -> None:
    """Collect examples of one label from what a live camera sees now: features, no pixels.

    Show the camera the thing, move it and turn it meanwhile. Then capture the next label, and what is none of them.

    Parameters
    ----------
    name:
        The task.
    label:
        What the camera sees now.
    frames:
        How many.
    every:
        Seconds between them; frames that follow each other at once teach little.
    session:
        Id or client of the edge, or its beginning; the only one if not given.
    backbone:
        Backbone whose features are taken; the server's default if not given.
    wait:
        Give up when no frame came for so many seconds.
    replace:
        Forget earlier captures of this label.
    """
    console = Console(highlight=False)
    task, label = free_name(name), label_text(label)
    if not 1 <= frames <= limits.CAPTURE_FRAMES_MAX:
        raise ConfigError(f"frames is {frames}, expected 1 to {limits.CAPTURE_FRAMES_MAX}")
    client = (address or ServerAddress()).client(DEFAULT_ADMIN)
    assert client is not None
    store = HeadStore()
    with store.lock(task):
        examples = examples_of(store.place(task))
        taken: list[Examples] = []
        with Progress(console=console, transient=True) as bars:
            bar = bars.add_task(f"{label}: frames", total=frames)
            while (have := sum(map(len, taken))) < frames:
                wish = {
                    "frames": min(_SLICE, frames - have), "session": session, "backbone": backbone,
                    "every_s": every, "wait_s": wait, "task": task, "label": label,
                }  # fmt: skip
                part, origin = _read_capture(client.capture(**wish), label)
                taken.append(part)
                bars.update(bar, completed=have + len(part))
        pooled = Examples.joined(taken).pooled_MD
        if replace:
            examples.forget(label)
        examples.save_capture(label, pooled, origin)
        counts = ", ".join(f"{one} {count}" for one, count in examples.counts(origin).items())
    console.print(f"{task}: {len(pooled)} frames of {label!r}; in all {counts}", markup=False)
    further = f"the next label, or: frankenstream tasks teach {task} --server {client.url}"
    console.print(further, style="dim", markup=False, soft_wrap=True)


def teach(
    name: str,
    *,
    address: ServerAddress | None = None,
    backbone: str = "",
    bundle: Path | None = None,
    kind: str = "linear",
    unknown: bool = True,
    title: str = "",
) -> None:
    """Train a task from all its examples, captured ones and those of `tasks add`, and swap it in.

    Parameters
    ----------
    name:
        The task.
    backbone:
        Backbones that get a head, comma separated; the bundle's default if not given.
    bundle:
        Bundle folder or .zip; the default one if not given. It must be the server's.
    kind:
        linear, mlp or nearest.
    unknown:
        Answer "unknown" for what fits no class.
    title:
        What people read; the name if not given.
    """
    console = Console(highlight=False)
    address = address or ServerAddress()
    Wish(kind=kind, unknown=unknown, title=title).check()
    task, opened, store = free_name(name), Bundle.open(bundle), HeadStore()
    with store.lock(task):
        files = []
        for one in dict.fromkeys(opened.backbone(wish).tag for wish in names(backbone) or ("",)):
            entry = opened.backbone(one)
            origin = origin_of(opened, entry)
            found, strange = examples_of(store.place(task)).load(origin)
            if strange:
                line = f"note: {len(strange)} files of examples are from another bundle: left aside"
                console.print(line, style="yellow")
            if found is None:
                raise InputError(
                    f"task {task} has no examples on {entry.alias or entry.tag}{' of this bundle' if strange else ''}: "
                    f"`frankenstream tasks capture {task} LABEL`, or `tasks add {task} FOLDER`"
                )
            with progress(console) as say:
                lesson = train(
                    task, found, origin, kind=kind, unknown=unknown, title=title, created=today(),
                    operating_point=opened.edge_spec.default_operating_point, weights_sha256=entry.weights_sha256,
                    trained_on=f"{sum(found.counts().values())} examples, through the codec", on_step=say,
                )  # fmt: skip
            show_lesson(console, lesson, backbone=entry.alias or entry.tag)
            files.append(lesson.files)
        version = store.save(task, files)
        console.print(f"{task} version {version} is in {store.place(task)}", markup=False, soft_wrap=True)
        hand_over(console, task, store.load(task, version), address)


def _read_capture(data: bytes, label: str) -> tuple[Examples, Origin]:
    """What a server captured, and what it came through."""
    import numpy as np

    pooled, origin = read_capture(data)
    count = len(pooled)
    each = np.arange(count)
    return Examples((label,), pooled, np.zeros(count, np.int64), each, np.zeros(count, bool)), origin
