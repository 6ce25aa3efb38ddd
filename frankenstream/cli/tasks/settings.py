"""What several of the commands share: where the server is, and how a lesson is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from frankenstream.config import DEFAULT_HTTP, AdminToken
from frankenstream.task_client import TaskClient
from pipeline.errors import FrankenError
from tasks.head_file import HeadFiles
from tasks.teaching import Lesson, OnStep

DEFAULT_ADMIN = f"http://{DEFAULT_HTTP}"


@Parameter(name="*")
@dataclass(frozen=True)
class ServerAddress:
    """Which running server hears of it.

    Parameters
    ----------
    server:
        Admin interface of a running server, http(s)://HOST:PORT. If not given none is told, and this machine's is asked
        for captures.
    token:
        Its admin token, required beyond loopback.
    ca:
        Certificate of a local authority (the server's ca.pem); the system's authorities if not given.
    """

    server: str = ""
    token: AdminToken = ""
    ca: Path | None = None

    def client(self, default: str = "") -> TaskClient | None:
        """A client, or None where no server is named."""
        url = self.server or default
        return TaskClient(url, token=self.token, ca=self.ca) if url else None


def hand_over(console: Console, name: str, files: list[HeadFiles], address: ServerAddress) -> None:
    """Send a version that was just written to the server, if one is named; at home it stays in any case."""
    client = address.client()
    if client is None:
        console.print(
            f"`frankenstream serve` offers it from its next start; a running one: frankenstream tasks send {name} "
            f"--server {DEFAULT_ADMIN}",
            style="dim", markup=False, soft_wrap=True,
        )  # fmt: skip
        return
    try:
        answer = client.put(name, files)
    except FrankenError as error:
        raise type(error)(
            f"{error} (the task is written here; hand it over with `frankenstream tasks send {name} --server "
            f"{client.url}`)"
        ) from None
    console.print(told(answer, client.url), markup=False, soft_wrap=True)


def told(answer: dict[str, Any], url: str) -> str:
    """What a server said to a new version, as a line."""
    kept = "kept across restarts" if answer["kept"] else "until it stops"
    return f"{url} serves {answer['name']} version {answer['version']} on {', '.join(answer['backbones'])}, {kept}"


@contextmanager
def progress(console: Console) -> Iterator[OnStep]:
    """A bar for each thing that is being done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True) as bars:
        known: dict[str, Any] = {}

        def say(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total)

        yield say


def show_lesson(console: Console, lesson: Lesson, *, backbone: str) -> None:
    """What a head is worth, for people."""
    classes = len(lesson.counts)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    if lesson.accuracy is None:
        why = "there is one class" if classes == 1 else "nothing could be held out"
        table.add_row("accuracy", f"not measured: {why}")
    else:
        table.add_row("accuracy", f"{lesson.accuracy} %  of {lesson.held_out} held-out examples, 95 % interval")
    if lesson.unknown is not None:
        table.add_row("unknown", f"{lesson.unknown} %  of them would be called unknown")
    smallest = min(lesson.counts.items(), key=lambda item: item[1])
    examples = f"{sum(lesson.counts.values())} examples; fewest: {escape(smallest[0])} ({smallest[1]})"
    table.add_row("classes", f"{classes}, {examples}")
    table.add_row("regularisation", lesson.regularisation)
    cost = f"{lesson.cost_us / 1e3:.2f} ms a frame beside the backbone's; {lesson.size_bytes / 1e6:.2f} MB"
    table.add_row("cost", f"{cost}, on {backbone}")
    console.print(table)
    for pair in lesson.confusions:
        console.print(
            f"often mixed up  {pair.first} ↔ {pair.second}: {pair.count} of {pair.examples} "
            f"({pair.first} taken for {pair.second} {pair.first_as_second}, the other way {pair.second_as_first})",
            markup=False, highlight=False,
        )  # fmt: skip
    for note in lesson.notes:
        console.print(f"note: {note}", style="yellow", markup=False, highlight=False)
