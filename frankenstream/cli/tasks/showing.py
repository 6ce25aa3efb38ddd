"""`frankenstream tasks list` and `info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from frankenstream.cli.tasks.settings import ServerAddress
from frankenstream.task_client import TaskClient
from pipeline.bundle import Bundle
from pipeline.errors import ConfigError, FrankenError
from tasks import find_task, known_tasks
from tasks.example_store import examples_of
from tasks.head_file import HeadFile, check_made_for, read_head_entry
from tasks.store import HeadStore

LABELS_SHOWN = 400


def list_tasks(*, bundle: Path | None = None, address: ServerAddress | None = None) -> None:
    """List the tasks with their heads, the backbones that carry them and their measured accuracy.

    Parameters
    ----------
    bundle:
        Bundle folder or .zip; the default one if not given.
    """
    console = Console(highlight=False)
    client = (address or ServerAddress()).client()
    if client is not None:
        _list_served(console, client)
        return
    opened = Bundle.open(bundle)
    console.print(_shipped(opened))
    store = HeadStore()
    if store.names():
        console.print()
        console.print(_own(store, opened))


def info(name: str, *, bundle: Path | None = None) -> None:
    """Show a task's labels and where they come from; of one of yours also how good it is, and its versions.

    Parameters
    ----------
    name:
        The task, e.g. food101.
    bundle:
        Bundle that it should fit; the default one if not given.
    """
    console, store = Console(highlight=False), HeadStore()
    if name not in known_tasks() and store.versions(name):
        _own_info(console, store, name, Bundle.open(bundle))
        return
    try:
        catalogue = find_task(name).catalogue
    except ConfigError as error:
        own = f"; yours: {', '.join(store.names())}" if store.names() else ""
        raise ConfigError(f"{error}{own}") from None
    console.print(f"[bold]{catalogue.title}[/], {len(catalogue)} classes")
    console.print(f"source   {catalogue.source}\nlicence  {catalogue.licence}\ncite     {catalogue.citation}\n")
    console.print(", ".join(catalogue.labels), markup=False)


def _shipped(opened: Bundle) -> Table:
    table = Table("task", "title", "classes", "heads", "direct %", "through the codec %", box=None, pad_edge=False)
    aliases = {backbone.tag: backbone.alias or backbone.tag for backbone in opened.backbones}
    for name, task in known_tasks().items():
        heads = [head for backbone in opened.backbones for head in opened.heads(backbone.tag) if head.task == name]
        carried = ", ".join(aliases[head.backbone] for head in heads)
        if not heads:
            carried = "a package" if task.make_head else "the backbone's own classifier"
        direct = ", ".join(f"{head.accuracy_direct:.1f}" for head in heads if head.accuracy_direct is not None)
        codec = ", ".join(f"{head.accuracy_codec:.1f}" for head in heads if head.accuracy_codec is not None)
        table.add_row(name, task.title, str(len(task.catalogue)), carried, direct or "-", codec or "-")
    return table


def _own(store: HeadStore, opened: Bundle) -> Table:
    table = Table("yours", "version", "classes", "heads", "through the codec %", "", box=None, pad_edge=False)
    for name in store.names():
        try:
            entries = store.entries(name)
        except FrankenError as error:
            table.add_row(Text(name), str(store.current(name)), "-", "-", "-", Text(str(error), style="red"))
            continue
        reasons = [reason for entry in entries if (reason := _misfit(entry, opened))]
        table.add_row(
            Text(name), str(store.current(name)), str(entries[0].classes) if entries else "-",
            ", ".join(_carrier(entry, opened) for entry in entries),
            ", ".join(_accuracy(entry) for entry in entries), Text("; ".join(reasons), style="red"),
        )  # fmt: skip
    return table


def _carrier(entry: HeadFile, opened: Bundle) -> str:
    names = {one.tag: one.alias or one.tag for one in opened.backbones}
    kind = "" if entry.kind == "linear" else f" ({entry.kind})"
    return names.get(entry.backbone, entry.backbone) + kind


def _misfit(entry: HeadFile, opened: Bundle) -> str:
    try:
        check_made_for(entry, opened)
    except FrankenError as error:
        return str(error)
    return ""


def _accuracy(entry: HeadFile) -> str:
    if entry.accuracy_codec is None:
        return "-"
    interval = " [{:.1f}, {:.1f}]".format(*entry.accuracy_interval) if len(entry.accuracy_interval) == 2 else ""
    return f"{entry.accuracy_codec:.1f}{interval}"


def _own_info(console: Console, store: HeadStore, name: str, opened: Bundle) -> None:
    current, versions = store.current(name), store.versions(name)
    state = f"version {current}" if current else "removed"
    console.print(f"{name}, {state}; versions {', '.join(map(str, versions))} in {store.place(name)}", markup=False)
    for head in store.load(name, current or versions[-1]):
        entry = read_head_entry(head.toml)
        facts: list[tuple[str, Any]] = [
            ("backbone", f"{entry.backbone} ({entry.kind}, {len(head.arrays) / 1e6:.2f} MB)"),
            ("trained on", f"{entry.trained_on}, {entry.created}"),
            ("accuracy", f"{_accuracy(entry)} % through the codec at {entry.operating_point}"),
            ("unknown", "answered beyond a distance of "
             f"{entry.unknown_threshold:.3f}" if entry.unknown_threshold is not None else "never answered"),
            ("bundle", _misfit(entry, opened) or f"fits (codec {entry.codec_id[:12]})"),
        ]  # fmt: skip
        for first, second, there, back in entry.figures.get("confusions", []):
            facts.append(("mixed up", f"{first} ↔ {second}: {there + back}"))
        for what, text in facts:
            console.print(f"  {what:11}{text}", markup=False, soft_wrap=True)
    examples = sorted(path.name for path in examples_of(store.place(name)).folder.glob("*.safetensors"))
    console.print(
        f"  {'examples':11}{len(examples)} of features: {', '.join(examples[:4])}{' …' if len(examples) > 4 else ''}",
        markup=False,
    )
    shown = entry.names[:LABELS_SHOWN]
    more = f" … and {len(entry.names) - len(shown)} more" if len(entry.names) > len(shown) else ""
    console.print(f"\n{', '.join(shown)}{more}", markup=False)


def _list_served(console: Console, client: TaskClient) -> None:
    served = client.tasks()
    table = Table("task", "backbone", "classes", "version", "kind", "from", "", box=None, pad_edge=False)
    for row in served["tasks"]:
        table.add_row(
            Text(row["name"]), row["backbone"], str(row["classes"]), str(row["version"]), row.get("kind", ""),
            row.get("source", ""), Text(row["error"], style="red"),
        )  # fmt: skip
    console.print(table)
    for name, reason in served.get("refused", {}).items():
        console.print(f"refused: {name}: {reason}", style="red", markup=False, soft_wrap=True)
