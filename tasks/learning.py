"""From labelled pictures to a head, in one go: what `frankenstream tasks add` and the operator's page both do."""

from __future__ import annotations

import datetime
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from pipeline import limits
from pipeline.bundle import Backbone, Bundle
from pipeline.clock import monotonic
from pipeline.errors import ConfigError
from pipeline.runtime.engine import Engine
from tasks.adding import gather_examples, origin_of
from tasks.example_store import ExampleStore
from tasks.labelled_pictures import LabelledPictures
from tasks.teaching import KINDS, Lesson, OnStep, teach


@dataclass(frozen=True)
class Wish:
    """What is to be taught. `views`: how often each picture is looked at; `threads` 0: all cores."""

    kind: str = "linear"
    unknown: bool = True
    title: str = ""
    operating_point: str = ""
    views: int = 2
    threads: int = 0

    def check(self) -> None:
        """Before minutes of work, not after. Raises ConfigError."""
        if self.kind not in KINDS:
            raise ConfigError(
                f"kind is {self.kind!r}, expected {', '.join(KINDS)}; others come as packages, see docs/tasks.md"
            )
        if len(self.title) > limits.NAME_CHARS_MAX:
            raise ConfigError(f"title is {len(self.title)} characters, limit {limits.NAME_CHARS_MAX}: shorten it")
        if self.views not in (1, 2):
            raise ConfigError(f"views is {self.views}, expected 1 or 2")
        if self.kind == "linear" and importlib.util.find_spec("scipy") is None:
            raise ConfigError("training heads needs scipy: pip install 'frankenstream[train]'")


@dataclass(frozen=True)
class Learnt:
    """A lesson, how long it took, and lines about pictures that could not be read and classes that were left aside."""

    lesson: Lesson
    broken: tuple[str, ...]
    notes: tuple[str, ...]
    features_s: float
    taught_s: float


def learn(
    task: str,
    found: LabelledPictures,
    bundle: Bundle,
    backbone: Backbone,
    engine: Engine,
    wish: Wish,
    *,
    source: str,
    examples: ExampleStore | None,
    on_step: OnStep = lambda what, done, total: None,
    on_gathered: Callable[[tuple[str, ...], tuple[str, ...]], None] = lambda broken, notes: None,
) -> Learnt:
    """Features of `found` through the codec, and a head from them and from what `examples` has already.

    `source` says where the pictures are from; `examples` keeps their features (None: nobody does). `on_gathered` hears
    of broken pictures before the training, which may refuse what is left. Raises InputError, ConfigError.
    """
    started = monotonic()
    total = len(found.pictures)
    gathered = gather_examples(
        found, bundle, engine, operating_point=wish.operating_point, views=wish.views, threads=wish.threads,
        maps=wish.kind == "map", on_picture=lambda done: on_step("features", done, total),
    )  # fmt: skip
    features_s = monotonic() - started
    on_gathered(gathered.broken, gathered.notes)
    origin = origin_of(bundle, backbone)
    everything = gathered.examples
    if examples is not None:
        examples.save_pictures(gathered.examples, origin)
        if gathered.maps_MFhw is None:  # what is kept and captured are pooled features
            everything = examples.load(origin)[0] or gathered.examples
    lesson = teach(
        task, everything, origin, maps_MFhw=gathered.maps_MFhw, kind=wish.kind, unknown=wish.unknown, title=wish.title,
        operating_point=wish.operating_point or bundle.edge_spec.default_operating_point,
        weights_sha256=backbone.weights_sha256,
        trained_on=f"{total - len(gathered.broken)} pictures of {source}, through the codec", created=today(),
        on_step=on_step,
    )  # fmt: skip
    return Learnt(lesson, gathered.broken, gathered.notes, features_s, monotonic() - started - features_s)


def today() -> str:
    """Now, as heads say when they were made."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
