"""`frankenstream tasks`: what can be asked of a frame."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App
from rich.console import Console
from rich.table import Table

from pipeline.bundle import Bundle
from tasks import find_task, known_tasks

app = App(name="tasks", help="List tasks and heads.")


@app.command(name="list")
def list_(*, bundle: Path | None = None) -> None:
    """List the tasks with their heads, the backbones that carry them and their measured accuracy.

    Parameters
    ----------
    bundle:
        Bundle folder or .zip; the default one if not given.
    """
    opened = Bundle.open(bundle)
    table = Table("task", "title", "classes", "heads", "direct %", "through the codec %", box=None, pad_edge=False)
    for name, task in known_tasks().items():
        heads = [head for backbone in opened.backbones for head in opened.heads(backbone.tag) if head.task == name]
        names = {backbone.tag: backbone.alias or backbone.tag for backbone in opened.backbones}
        carried = ", ".join(names[head.backbone] for head in heads) or "the backbone's own classifier"
        direct = ", ".join(f"{head.accuracy_direct:.1f}" for head in heads if head.accuracy_direct is not None)
        codec = ", ".join(f"{head.accuracy_codec:.1f}" for head in heads if head.accuracy_codec is not None)
        table.add_row(name, task.title, str(len(task.catalogue)), carried, direct or "-", codec or "-")
    Console().print(table)


@app.command
def info(name: str) -> None:
    """Show where a task's labels come from, and the labels.

    Parameters
    ----------
    name:
        The task, e.g. food101.
    """
    catalogue = find_task(name).catalogue
    console = Console(highlight=False)
    console.print(f"[bold]{catalogue.title}[/], {len(catalogue)} classes")
    console.print(f"source   {catalogue.source}\nlicence  {catalogue.licence}\ncite     {catalogue.citation}\n")
    console.print(", ".join(catalogue.labels), markup=False)
