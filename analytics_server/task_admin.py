"""The heads of a running server: where they come from, and how they come, change and go without losing a frame.

    the bundle's          there from the start
    packages'             by entry point (tasks.registry), there from the start
    users'                in the home folder (tasks.store): the current version of each, from the start; PUT adds one
    uploaded              POST: as long as the server runs

A new head is read, checked against the bundle and run once beside the ones that serve; only then the lane's stack is
replaced, between two batches. Frames under way are answered by the stack that their batch began with. Whatever is
wrong with a new head is one line for whoever sent it, and what serves goes on serving.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import structlog

from analytics_server.heads import read_head, with_head, without_head
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.errors import BundleError, ConfigError, FrankenError
from pipeline.runtime.engine import Engine
from tasks import Head, HeadStack, bundle_heads, known_tasks
from tasks.head import IMAGENET
from tasks.head_file import HeadFiles, check_made_for, read_head_entry
from tasks.store import HeadStore, task_name

log = structlog.get_logger(__name__)


class Lane(Protocol):
    """What is needed of an EngineLane."""

    engine: Engine
    heads: HeadStack


Replace = Callable[[str, HeadStack], None]
"""(backbone, its new stack): serve it from the next batch on."""


class TaskAdmin:
    """Heads come and go here, one change at a time. `lanes` is the server's own table and fills while it starts."""

    def __init__(
        self,
        bundle: Bundle,
        lanes: Mapping[str, Lane],
        *,
        replace: Replace,
        changed: Callable[[], None],
        store: HeadStore | None,
    ) -> None:
        self._bundle = bundle
        self._lanes = lanes
        self._replace = replace
        self._changed = changed
        self._store = store
        self._lock = threading.Lock()
        self._sources: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        """User heads that are in the home folder and not served, by `task@backbone`, with the reason."""

    def heads_for(self, engine: Engine) -> list[Head]:
        """What an engine serves from the start. Heads that do not fit are left out and named in the log."""
        heads: list[Head] = list(bundle_heads(self._bundle, engine))
        self._sources |= dict.fromkeys((head.name for head in heads), "bundle")
        for task in known_tasks().values():
            if task.make_head is not None and task.name not in {head.name for head in heads}:
                self._try(heads, engine, task.name, "package", lambda make=task.make_head: _made(make, engine))  # type: ignore[misc]
        for name in self._store.names() if self._store else ():
            self._try(heads, engine, name, "home", lambda name=name: self._stored(name, engine))  # type: ignore[misc]
        return heads

    def table(self) -> list[dict[str, Any]]:
        """Every head that is served, with what became of it."""
        return [
            {
                "name": info.name, "backbone": info.backbone, "classes": info.classes, "version": info.version,
                "title": info.title, "error": lane.heads.failed.get(info.name, ""),
                "kind": lane.heads.head(info.name).kind, "source": self._sources.get(info.name, "uploaded"),
            }
            for lane in list(self._lanes.values())
            for info in lane.heads.infos()
        ]  # fmt: skip

    def own(self) -> list[dict[str, Any]]:
        """Users' tasks in the home folder, removed ones included: versions, the current one (0: none), its worth."""
        return [own_task(self._store, name) for name in self._store.all_names()] if self._store else []

    def add(self, toml: bytes, arrays: bytes) -> dict[str, Any]:
        """One more head for as long as the server runs. Raises FrankenError."""
        entry = read_head_entry(toml)
        self.free_name(entry.task)
        if entry.codec_id:
            check_made_for(entry, self._bundle)
        head = self._read(HeadFiles(toml, arrays))
        self._try_out(head)
        with self._lock:
            self._replace(head.backbone, with_head(self._lanes[head.backbone].heads, head))
            self._sources[head.name] = "uploaded"
        self._changed()
        log.info("head added", task=head.name, backbone=head.backbone, classes=len(head.labels), version=head.version)
        return {"name": head.name, "backbone": head.backbone, "classes": len(head.labels), "version": head.version}

    def put(self, name: str, files: Sequence[HeadFiles]) -> dict[str, Any]:
        """A new version of a user's task, whole: its heads on all backbones. It is kept where there is a store.

        Raises FrankenError; then the version before goes on.
        """
        task = self.free_name(name)
        if not 1 <= len(files) <= limits.HEADS_PER_TASK_MAX:
            raise BundleError(f"{len(files)} heads were sent, expected 1 to {limits.HEADS_PER_TASK_MAX}")
        with self._lock:
            self._check(task, files)
            asked = max(read_head_entry(one.toml).version for one in files)
            version = self._store.save(task, files, version=asked) if self._store else asked
            return self._swap(task, [one.with_version(version) for one in files])

    def roll_back(self, name: str, version: int = 0) -> dict[str, Any]:
        """Serve an earlier version of a user's task. Raises FrankenError."""
        if self._store is None:
            raise ConfigError("this server keeps no heads: send the version that is wanted with PUT")
        task = self.free_name(name)
        with self._lock:
            chosen = self._store.earlier(task, version)
            files = self._store.load(task, chosen)
            self._check(task, files)
            self._store.roll_back(task, chosen)
            return self._swap(task, files)

    def remove(self, name: str, backbone: str, default: str) -> None:
        """Stop serving a head; sessions that still ask for it are told so in their results. Raises FrankenError.

        A user's task goes from all backbones, and from the home folder's current ones, unless `backbone` is named.
        """
        kept = self._store is not None and bool(self._store.current(name)) and not backbone
        tag = self._bundle.backbone(backbone).tag if backbone else default
        if tag not in self._lanes:
            raise ConfigError(f"backbone {backbone!r} is not served here: choose one of {', '.join(self._lanes)}")
        with self._lock:
            tags = [one for one, lane in self._lanes.items() if name in lane.heads.names] if kept else [tag]
            for one in tags:
                self._replace(one, without_head(self._lanes[one].heads, name))
            if kept and self._store is not None:
                self._store.remove(name)
        self._changed()
        log.info("head removed", task=name, backbone=", ".join(tags))

    def _check(self, task: str, files: Sequence[HeadFiles]) -> None:
        """Raise BundleError unless `files` are heads for `task` that this server can serve; nothing is changed."""
        for entry in (read_head_entry(one.toml) for one in files):
            if entry.task != task:
                raise BundleError(f"the head is for task {entry.task!r}, the address says {task!r}: send it there")
            check_made_for(entry, self._bundle)
        for head in self._served(files):
            self._try_out(head)

    def _swap(self, task: str, files: Sequence[HeadFiles]) -> dict[str, Any]:
        heads = {head.backbone: head for head in self._served(files)}
        for tag, lane in self._lanes.items():
            if tag in heads:
                self._replace(tag, with_head(lane.heads, heads[tag]))
            elif task in lane.heads.names:
                self._replace(tag, without_head(lane.heads, task))
        self._sources[task] = "home" if self._store else "uploaded"
        self._changed()
        version = max(head.version for head in heads.values())
        log.info("task changed", task=task, version=version, backbones=list(heads), kept=self._store is not None)
        first = next(iter(heads.values()))
        return {
            "name": task, "version": version, "backbones": list(heads), "classes": len(first.labels),
            "kept": self._store is not None,
        }  # fmt: skip

    def free_name(self, name: str) -> str:
        """`name` as a task of a user's. Raises ConfigError if it is none or is taken."""
        task = task_name(name)
        if task == IMAGENET or self._sources.get(task) in ("bundle", "package"):
            raise ConfigError(f"task {task} comes with the bundle or a package: choose another name")
        return task

    def _served(self, files: Sequence[HeadFiles]) -> list[Head]:
        """The heads of `files` on backbones that are served; at least one must be."""
        known = self._tags()
        wanted = [read_head_entry(one.toml).backbone for one in files]
        chosen = [one for one, backbone in zip(files, wanted, strict=True) if known.get(backbone) in self._lanes]
        if not chosen:
            raise BundleError(f"the head is for backbone {', '.join(wanted)}, served are {', '.join(self._lanes)}")
        return [self._read(one) for one in chosen]

    def _read(self, files: HeadFiles) -> Head:
        widths = {tag: lane.engine.feature_width for tag, lane in self._lanes.items()}
        return read_head(files.toml, files.arrays, tag_of=self._tags(), widths=widths)

    def _tags(self) -> dict[str, str]:
        return {name: one.tag for one in self._bundle.backbones for name in (one.tag, one.alias) if name}

    def _try_out(self, head: Head) -> None:
        """Run it once on its own: what fails here never gets near a frame. Raises BundleError."""
        width = self._lanes[head.backbone].engine.feature_width
        alone = HeadStack([head], backbone=head.backbone, feature_width=width)
        shape, rng = self._bundle.backbone(head.backbone), np.random.default_rng(0)
        maps = rng.random((2, shape.feature_channels, shape.feature_height, shape.feature_width), np.float32)
        alone.logits(rng.random((2, width), np.float32), feature_BFhw=maps)
        if alone.failed:
            raise BundleError(alone.failed[head.name].replace(": taken out, train it again", ": train it again"))

    def _stored(self, name: str, engine: Engine) -> Head | None:
        assert self._store is not None
        for files in self._store.load(name):
            entry = read_head_entry(files.toml)
            if self._tags().get(entry.backbone) == engine.backbone:
                check_made_for(entry, self._bundle)
                widths = {engine.backbone: engine.feature_width}
                return read_head(files.toml, files.arrays, tag_of=self._tags(), widths=widths)
        return None

    def _try(self, heads: list[Head], engine: Engine, name: str, source: str, make: Callable[[], Head | None]) -> None:
        try:
            if name in {head.name for head in heads}:
                raise ConfigError(f"task {name} is there already: give yours another name")
            head = make()
            if head is None:
                return
            HeadStack([head], backbone=engine.backbone, feature_width=engine.feature_width)
        except Exception as error:  # a package may raise anything, and must not keep the server from starting
            line = str(error) if isinstance(error, FrankenError) else f"{type(error).__name__}: {error}"
            self.refused[f"{name}@{engine.backbone}"] = line
            log.warning("head refused", task=name, backbone=engine.backbone, source=source, reason=line)
            return
        heads.append(head)
        self._sources[name] = source


def own_task(store: HeadStore, name: str) -> dict[str, Any]:
    """A task of the home folder in figures, for those who choose between its versions."""
    current, versions = store.current(name), store.versions(name)
    row: dict[str, Any] = {"name": name, "current": current, "versions": versions, "heads": [], "error": ""}
    try:
        entries = store.entries(name, current or versions[-1])
    except FrankenError as error:
        return {**row, "error": str(error)}
    heads = [
        {
            "backbone": entry.backbone, "classes": entry.classes, "kind": entry.kind, "accuracy": entry.accuracy_codec,
            "interval": entry.accuracy_interval, "trained_on": entry.trained_on, "created": entry.created,
        }
        for entry in entries
    ]  # fmt: skip
    return {**row, "heads": heads, "title": entries[0].title if entries else name}


def _made(make: Callable[[str, int], Head | None], engine: Engine) -> Head | None:
    return make(engine.backbone, engine.feature_width)
