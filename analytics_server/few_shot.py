"""Teaching from a live stream: what was captured is kept under a label, learnt from, swapped in, and forgotten again.

What the web page does with a button that is held; `frankenstream tasks capture` and `teach` do the same from a command
line, and both read and write the same examples (tasks.example_store). Only features are kept, no pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from pipeline import limits
from pipeline.bundle import Backbone, Bundle
from pipeline.clock import Clock, monotonic
from pipeline.errors import ConfigError, FrankenError, InputError
from tasks.adding import origin_of
from tasks.captured import read_capture
from tasks.example_store import Examples, ExampleStore, Origin, examples_of, label_text
from tasks.head_file import HeadFiles
from tasks.learning import Wish, today
from tasks.store import HeadStore
from tasks.teaching import Lesson, teach
from tasks.unknown import EXAMPLES_MIN

log = structlog.get_logger(__name__)

VIEWS_MIN = EXAMPLES_MIN
"""Views of one label at a time: with fewer, a first label could not be told from what is none."""
EXAMPLES_MAX = 20_000
"""Of one task: some 50 MB."""

Put = Callable[[str, Sequence[HeadFiles]], dict[str, Any]]


class FewShot:
    """`free_name` checks a task's name, `put` serves heads (TaskAdmin), `default_backbone` says which features are
    taken, `heads_dir` keeps all (None: nothing can be taught). Thread-safe; writers of one task exclude each other.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        free_name: Callable[[str], str],
        put: Put,
        default_backbone: Callable[[], str],
        heads_dir: Path | None,
        clock: Clock = monotonic,
    ) -> None:
        self._bundle = bundle
        self._free_name = free_name
        self._put = put
        self._default_backbone = default_backbone
        self._store = HeadStore(heads_dir) if heads_dir else None
        self._clock = clock

    def known(self) -> list[dict[str, Any]]:
        """Tasks with examples that can be taught from: how many of each label."""
        if self._store is None:
            return []
        rows, origin = [], self._origin()[1]
        for folder in sorted(self._store.folder.glob("*/examples")):
            try:
                counts = ExampleStore(folder).counts(origin)
            except FrankenError as error:
                rows.append({"task": folder.parent.name, "labels": {}, "error": str(error)})
                continue
            if counts:
                rows.append({"task": folder.parent.name, "labels": counts, "error": ""})
        return rows

    def add(self, name: str, label: str, captures: Sequence[bytes]) -> dict[str, Any]:
        """Keep captured features under a label. Raises FrankenError."""
        task, label, store = self._free_name(name), label_text(label), self._kept()
        parts = [self._read(data) for data in captures]
        views = sum(map(len, parts))
        if views < VIEWS_MIN:
            raise InputError(
                f"{views} views of {label!r}, expected at least {VIEWS_MIN}: hold for two seconds or more, and move it "
                "or the camera meanwhile"
            )
        with store.lock(task):
            examples, origin = examples_of(store.place(task)), self._origin()[1]
            counts = examples.counts(origin)
            before = sum(counts.values())
            if before + views > EXAMPLES_MAX:
                raise InputError(f"task {task} has {before} views, limit {EXAMPLES_MAX}: forget some of its labels")
            examples.save_capture(label, np.concatenate(parts), origin)
        log.info("examples added", task=task, label=label, views=views)
        return {"task": task, "label": label, "views": views, "labels": {**counts, label: counts.get(label, 0) + views}}

    def forget(self, name: str, label: str) -> dict[str, Any]:
        """Remove what was captured of a label, "": of all, through any bundle.

        What was learnt stays until it is taught again, or removed. Raises FrankenError.
        """
        task, store = self._free_name(name), self._kept()
        label = label_text(label) if label else ""
        with store.lock(task):
            examples, origin = examples_of(store.place(task)), self._origin()[1]
            gone = examples.forget(label) if label else examples.forget_all()
            counts = examples.counts(origin)
            if not gone:
                there = ", ".join(counts) or "nothing"
                raise ConfigError(f"task {task} has no captures{f' of {label!r}' if label else ''}: there is {there}")
        log.info("examples forgotten", task=task, label=label, captures=gone)
        return {"task": task, "labels": counts}

    def teach(self, name: str, title: str = "") -> dict[str, Any]:
        """Learn from all examples of a task, and serve what was learnt. Raises FrankenError."""
        task, store = self._free_name(name), self._kept()
        Wish().check()
        backbone, origin = self._origin()
        started = self._clock()
        with store.lock(task):
            found, strange = examples_of(store.place(task)).load(origin)
            if found is None:
                aside = f", {len(strange)} files are of another bundle" if strange else ""
                raise InputError(f"task {task} has nothing to learn from{aside}: show something first")
            lesson = self._learn(task, found, origin, backbone, title[: limits.NAME_CHARS_MAX])
            served = self._put(task, [lesson.files])
        taught_s = self._clock() - started
        log.info("taught", task=task, version=served["version"], seconds=round(taught_s, 2))
        accuracy = lesson.accuracy
        return {
            "task": task, "version": served["version"], "kept": served["kept"], "labels": lesson.counts,
            "accuracy": None if accuracy is None else round(accuracy.value, 1), "held_out": lesson.held_out,
            "confusions": [[one.first, one.second] for one in lesson.confusions], "notes": list(lesson.notes),
            "taught_s": round(taught_s, 2),
        }  # fmt: skip

    def _learn(self, task: str, found: Examples, origin: Origin, backbone: Backbone, title: str) -> Lesson:
        return teach(
            task, found, origin, title=title, created=today(), weights_sha256=backbone.weights_sha256,
            operating_point=self._bundle.edge_spec.default_operating_point,
            trained_on=f"{sum(found.counts().values())} examples, through the codec",
        )  # fmt: skip

    def _read(self, data: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
        pooled_MD, origin = read_capture(data)
        backbone, ours = self._origin()
        seen, wanted = ((one.backbone, one.codec_id, one.synthesis_sha256, one.feature_width) for one in (origin, ours))
        if seen != wanted:
            raise InputError(
                f"the capture came through another bundle or backbone ({origin.backbone}), this server teaches on "
                f"{backbone.tag}: capture again"
            )
        return pooled_MD

    def _origin(self) -> tuple[Backbone, Origin]:
        backbone = self._bundle.backbone(self._default_backbone())
        return backbone, origin_of(self._bundle, backbone)

    def _kept(self) -> HeadStore:
        if self._store is None:
            raise ConfigError("this server keeps no tasks: start it with `frankenstream serve`, or with heads_dir")
        return self._store
