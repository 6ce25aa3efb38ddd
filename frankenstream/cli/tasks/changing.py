"""`frankenstream tasks send`, `rollback`, `remove`, `export` and `choose`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from frankenstream.cli.tasks.settings import DEFAULT_ADMIN, ServerAddress, hand_over, told
from frankenstream.config import names
from pipeline.bundle.files import write_zip
from pipeline.errors import ConfigError
from tasks.head_file import read_head_entry
from tasks.store import HeadStore, task_name


def send(name: str, *, address: ServerAddress | None = None, version: int = 0) -> None:
    """Hand a task of yours to a running server.

    Parameters
    ----------
    name:
        The task.
    version:
        Which; the current one if not given.
    """
    client = (address or ServerAddress()).client(DEFAULT_ADMIN)
    assert client is not None
    task = task_name(name)
    print(told(client.put(task, HeadStore().load(task, version)), client.url))


def rollback(name: str, *, to: int = 0, address: ServerAddress | None = None) -> None:
    """Take an earlier version back, or a removed task; edges go on without losing a frame.

    Parameters
    ----------
    name:
        The task.
    to:
        Version; the one before if not given.
    """
    console, store, task = Console(highlight=False), HeadStore(), task_name(name)
    client = (address or ServerAddress()).client()
    if client is not None and not store.versions(task):
        console.print(told(client.roll_back(task, to), client.url), markup=False)
        return
    with store.lock(task):
        before = store.current(task)
        version = store.roll_back(task, to)
        console.print(f"{task} is version {version} again (before: {before or 'removed'})", markup=False)
        if client is not None:
            hand_over(console, task, store.load(task, version), address or ServerAddress())


def remove(name: str, *, purge: bool = False, address: ServerAddress | None = None) -> None:
    """Stop offering a task. `tasks rollback` takes it back.

    Parameters
    ----------
    name:
        The task.
    purge:
        Delete its versions and examples too; that is for ever.
    """
    console, store, task = Console(highlight=False), HeadStore(), task_name(name)
    client = (address or ServerAddress()).client()
    if client is not None:
        client.remove(task)
        console.print(f"{client.url} no longer serves {task}", markup=False)
        if not store.current(task) and not purge:
            return
    with store.lock(task):
        if purge:
            store.purge(task)
            console.print(f"{task} is deleted with its versions and examples", markup=False)
            return
        store.remove(task)
    console.print(f"{task} is removed; `frankenstream tasks rollback {task}` takes it back", markup=False)


def export(name: str, file: Path, *, version: int = 0) -> None:
    """Write a task to a .zip that `tasks add` reads on another machine.

    Parameters
    ----------
    name:
        The task.
    file:
        The .zip to write.
    version:
        Which; the current one if not given.
    """
    if file.exists():
        raise ConfigError(f"{file} exists: name a new file")
    members: dict[str, bytes] = {}
    for head in HeadStore().load(name, version):
        backbone = read_head_entry(head.toml).backbone
        members |= {f"{backbone}.toml": head.toml, f"{backbone}.safetensors": head.arrays}
    packed = write_zip(members)
    try:
        file.write_bytes(packed)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}: choose another path") from None
    print(f"{file}: {len(packed)} bytes")


def choose(session: str, tasks: str, *, top_k: int = 1, address: ServerAddress | None = None) -> None:
    """Give a live edge other tasks from now on, as if it had asked for them itself.

    Parameters
    ----------
    session:
        Id or client of the edge, or its beginning.
    tasks:
        Comma separated: NAME or NAME@BACKBONE; "" for all of its backbone's.
    top_k:
        Labels per task.
    """
    client = (address or ServerAddress()).client(DEFAULT_ADMIN)
    assert client is not None
    client.choose(session, names(tasks), top_k)
    print(f"{session}: {', '.join(names(tasks)) or 'all tasks'}")
