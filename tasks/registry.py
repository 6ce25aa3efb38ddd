"""The tasks that this installation knows: those of the catalogue, and what plugins bring by entry point.

A plugin's package declares

    [project.entry-points."frankenstream.tasks"]
    birds = "my_package:birds"

where `birds` is a `Task` or a function without arguments that returns one. A plugin that does not load is named in a
warning and left out; it never stops the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from pipeline.errors import ConfigError
from tasks.catalogue import Catalogue, catalogue_names, load_catalogue
from tasks.head import Head

log = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "frankenstream.tasks"


@dataclass(frozen=True)
class Task:
    """A task: its label set and, for plugins, how to make its head.

    `make_head(backbone tag, feature width)` gives the head on a backbone, or None where it has none; without it, heads
    come from the bundle or from files.
    """

    name: str
    catalogue: Catalogue
    make_head: Callable[[str, int], Head | None] | None = None

    @property
    def title(self) -> str:
        return self.catalogue.title


@cache
def known_tasks() -> dict[str, Task]:
    """All tasks by name: the catalogue's first, then plugins'. Loaded once."""
    return load_tasks(entry_points(group=ENTRY_POINT_GROUP))


def load_tasks(plugins: Iterable[EntryPoint]) -> dict[str, Task]:
    """The catalogue's tasks and those of `plugins`."""
    tasks = {name: Task(name, load_catalogue(name)) for name in catalogue_names()}
    for plugin in plugins:
        task = _load_plugin(plugin)
        if task is None:
            continue
        if task.name in tasks:
            log.warning("plugin %s brings task %s, which is there already: left out", plugin.value, task.name)
            continue
        tasks[task.name] = task
    return tasks


def find_task(name: str) -> Task:
    """The task called `name`. Raises ConfigError, which names those there are."""
    tasks = known_tasks()
    if name not in tasks:
        raise ConfigError(f"there is no task {name!r}: known are {', '.join(tasks)}")
    return tasks[name]


def list_tasks(pattern: str = "*") -> list[str]:
    """Names of the tasks that fit a wildcard, e.g. `*101`."""
    return [name for name in known_tasks() if fnmatchcase(name, pattern)]


def _load_plugin(plugin: EntryPoint) -> Task | None:
    try:
        loaded = plugin.load()
        task = loaded if isinstance(loaded, Task) else loaded()
    except Exception as error:  # whatever a plugin raises, the other tasks stay
        log.warning("task plugin %s = %s does not load: %s: %s", plugin.name, plugin.value, type(error).__name__, error)
        return None
    if not isinstance(task, Task):
        log.warning("task plugin %s = %s gives a %s, expected a Task", plugin.name, plugin.value, type(task).__name__)
        return None
    return task
