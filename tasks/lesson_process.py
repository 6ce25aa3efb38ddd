"""A lesson in a process of its own, at the lowest priority: a server that teaches a head goes on answering frames.

    python -m tasks.lesson_process ORDER.json

Reads an `Order`; says what it does as lines of JSON on stdout: `Step`s, then a `Done` or a `Failed`. The heads lie in
`Order.out` then, a pair of files for each backbone. It ends by itself when nobody reads what it says.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from pipeline.bundle import Bundle
from pipeline.clock import monotonic
from pipeline.errors import FrankenError
from pipeline.runtime.engine import Engine
from pipeline.runtime.engines import build_engine
from tasks.evaluate import Estimate
from tasks.example_store import examples_of
from tasks.head_file import HeadFiles
from tasks.labelled_pictures import find_pictures
from tasks.learning import Learnt, Wish, learn
from tasks.store import HeadStore
from tasks.teaching import OnStep

LOWEST_PRIORITY = 19
BROKEN_NAMED = 20
"""Broken pictures that are named; the others are counted."""
STEP_S = 0.2
"""Between two steps that are told."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to teach. Paths are text; empty `heads`: features are not kept, empty `cache`: the home folder's."""

    task: str
    pictures: str
    source: str
    out: str
    bundle: str
    backbones: list[str]
    heads: str = ""
    cache: str = ""
    kind: str = "linear"
    unknown: bool = True
    title: str = ""
    threads: int = 1


class Step(msgspec.Struct, frozen=True, tag="step"):
    """What is being done, `done` of `total`."""

    what: str
    done: int
    total: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a head is worth; estimates are in percent, None where nothing could be measured."""

    backbone: str
    classes: int
    examples: int
    fewest: tuple[str, int]
    held_out: int
    accuracy: Estimate | None
    unknown: Estimate | None
    confusions: list[tuple[str, str, int, int]]
    """(one class, another, mistakes between them, held-out examples of both)"""
    regularisation: str
    cost_ms: float
    size_bytes: int
    features_s: float
    taught_s: float


class Done(msgspec.Struct, frozen=True, tag="done"):
    """Heads are there."""

    pictures: int
    reports: list[Report]
    notes: list[str]
    broken: list[str]
    broken_count: int


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Why there are none, in a line; `broken` pictures that were found until then."""

    error: str
    broken: list[str] = []
    broken_count: int = 0


Said = Step | Done | Failed
Say = Callable[[Said], None]
MakeEngine = Callable[..., Engine]


def carry_out(order: Order, say: Say, *, make_engine: MakeEngine = build_engine) -> None:
    """Teach; every end is told."""
    broken: list[str] = []
    try:
        say(_taught(order, say, make_engine, broken))
    except FrankenError as error:
        line = str(error)
    except MemoryError:
        line = "there is not enough memory to learn from these pictures: send fewer at a time"
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        line = f"{error.filename or 'a file'} cannot be used: {error.strerror or error}"
    else:
        return
    say(Failed(line.replace(order.pictures, order.source), broken[:BROKEN_NAMED], len(broken)))


def read_heads(out: Path) -> list[HeadFiles]:
    """What a process left in `Order.out`. Raises OSError."""
    return [
        HeadFiles(path.read_bytes(), path.with_suffix(".safetensors").read_bytes())
        for path in sorted(out.glob("*.toml"))
    ]


def _taught(order: Order, say: Say, make_engine: MakeEngine, broken: list[str]) -> Done:
    wish = Wish(kind=order.kind, unknown=order.unknown, title=order.title, threads=order.threads)
    wish.check()
    say(Step("starting", 0, 1))
    bundle = Bundle.open(order.bundle)
    store = HeadStore(Path(order.heads)) if order.heads else None
    with store.lock(order.task) if store else contextlib.nullcontext():
        found = find_pictures(Path(order.pictures))
        notes, reports = list(found.notes), []
        for name in order.backbones:
            backbone = bundle.backbone(name)
            engine = make_engine(
                bundle, backbone.tag, backend="onnx", threads=order.threads,
                cache_dir=Path(order.cache) if order.cache else None,
            )  # fmt: skip
            label = f" on {backbone.alias or backbone.tag}" if len(order.backbones) > 1 else ""
            learnt = learn(
                order.task, found, bundle, backbone, engine, wish, source=order.source,
                examples=examples_of(store.place(order.task)) if store else None,
                on_step=_now_and_then(say, label),
                on_gathered=lambda lines, _: broken.extend(line for line in lines if line not in broken),
            )  # fmt: skip
            notes += [note for note in (*learnt.notes, *learnt.lesson.notes) if note not in notes]
            reports.append(_report(learnt, backbone.alias or backbone.tag))
            _write(Path(order.out) / backbone.tag, learnt.lesson.files)
    return Done(len(found.pictures), reports, notes, broken[:BROKEN_NAMED], len(broken))


def _report(learnt: Learnt, backbone: str) -> Report:
    lesson = learnt.lesson
    return Report(
        backbone=backbone, classes=len(lesson.counts), examples=sum(lesson.counts.values()),
        fewest=min(lesson.counts.items(), key=lambda item: item[1]), held_out=lesson.held_out,
        accuracy=lesson.accuracy and lesson.accuracy.rounded(),
        unknown=lesson.unknown and lesson.unknown.rounded(),
        confusions=[(one.first, one.second, one.count, one.examples) for one in lesson.confusions],
        regularisation=lesson.regularisation, cost_ms=round(lesson.cost_us / 1e3, 4), size_bytes=lesson.size_bytes,
        features_s=round(learnt.features_s, 2), taught_s=round(learnt.taught_s, 2),
    )  # fmt: skip


def _write(stem: Path, files: HeadFiles) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.safetensors").write_bytes(files.arrays)
    stem.with_name(f"{stem.name}.toml").write_bytes(files.toml)


def _now_and_then(say: Say, label: str) -> OnStep:
    """Tells each step every STEP_S; its first and its last are told always."""
    told: dict[str, float] = {}

    def on_step(what: str, done: int, total: int) -> None:
        now = monotonic()
        if done >= total or now - told.get(what, float("-inf")) >= STEP_S:
            told[what] = now
            say(Step(what + label, done, total))

    return on_step


def main() -> None:
    os.nice(LOWEST_PRIORITY)
    order = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not stand between the lines

    def say(said: Said) -> None:
        out.write(msgspec.json.encode(said) + b"\n")
        out.flush()

    with contextlib.suppress(BrokenPipeError):
        carry_out(order, say)


if __name__ == "__main__":
    main()
