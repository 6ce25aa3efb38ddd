"""Which tasks a server offers, and what a session's wishes come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.errors import ConfigError
from pipeline.wire.messages import TaskInfo


class TaskOffer:
    """The tasks of every backbone that is served, in order. Thread-safe: `replace` swaps the whole table at once."""

    def __init__(self, bundle: Bundle, tasks: Mapping[str, Sequence[TaskInfo]], default_backbone: str) -> None:
        self._aliases = {backbone.alias: backbone.tag for backbone in bundle.backbones if backbone.alias}
        self.default_backbone = default_backbone
        self._tasks: dict[str, tuple[TaskInfo, ...]] = {tag: tuple(infos) for tag, infos in tasks.items()}

    @property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """Every task on every backbone."""
        return tuple(info for infos in self._tasks.values() for info in infos)

    def replace(self, backbone: str, tasks: Sequence[TaskInfo]) -> None:
        """Heads of `backbone` came or went."""
        self._tasks = {**self._tasks, backbone: tuple(tasks)}

    def resolve(self, wanted: Sequence[str], backbone: str = "") -> tuple[str, tuple[TaskInfo, ...]]:
        """(backbone of the session, its tasks) for wishes `task` or `task@backbone`; none: all of the backbone.

        A task that is wanted on two backbones is called `task@backbone` in results of the other one. Raises ConfigError
        that names what there is.
        """
        own = self._tag(backbone)
        if not wanted:
            return own, self._tasks[own]
        if len(wanted) > limits.TASKS_PER_SESSION_MAX:
            raise ConfigError(f"{len(wanted)} tasks are wanted, limit {limits.TASKS_PER_SESSION_MAX}: ask for fewer")
        found: dict[tuple[str, str], TaskInfo] = {}
        for wish in wanted:
            name, _, on = wish.partition("@")
            info = self._find(name, self._tag(on) if on else own)
            found[info.name, info.backbone] = info
        names = [name for name, _ in found]
        return own, tuple(
            info if tag == own or names.count(name) == 1 else _renamed(info, self._short(tag))
            for (name, tag), info in found.items()
        )

    def follow(
        self, wanted: Sequence[str], backbone: str, before: Sequence[TaskInfo]
    ) -> tuple[tuple[TaskInfo, ...], str]:
        """(tasks, error) of a session after heads came or went: `wanted` is what it asked for, `before` what it had.

        A task that it named and that is gone stays in its results, as an error, until it asks for something else.
        """
        own = self._tag(backbone)
        if not wanted:
            return self._tasks[own], ""
        now: list[TaskInfo] = []
        gone: list[str] = []
        for old in before:
            name = old.name.partition("@")[0]
            found = next((info for info in self._tasks.get(old.backbone, ()) if info.name == name), None)
            if found is None:
                gone.append(old.name)
            now.append(old if found is None else _named(found, old.name))
        return tuple(now), f"no longer served: {', '.join(gone)}" if gone else ""

    def _tag(self, name: str) -> str:
        if not name:
            return self.default_backbone
        tag = self._aliases.get(name, name)
        if tag not in self._tasks:
            known = ", ".join(self._short(known) for known in self._tasks)
            raise ConfigError(f"backbone {name!r} is not served here: choose one of {known}")
        return tag

    def _short(self, tag: str) -> str:
        return next((alias for alias, known in self._aliases.items() if known == tag), tag)

    def _find(self, name: str, tag: str) -> TaskInfo:
        for info in self._tasks[tag]:
            if info.name == name:
                return info
        known = ", ".join(info.name for info in self._tasks[tag])
        raise ConfigError(f"task {name!r} is not served on {self._short(tag)}: choose of {known}")


def _renamed(info: TaskInfo, backbone: str) -> TaskInfo:
    return _named(info, f"{info.name}@{backbone}")


def _named(info: TaskInfo, name: str) -> TaskInfo:
    return TaskInfo(name, info.backbone, info.classes, info.version, info.title)
