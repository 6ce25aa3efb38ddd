"""`frankenstream bundle`: what is in a bundle, whether it is whole, and the edge half for a camera."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from frankenstream.bundle_fetch import fetch_edge_bundle
from frankenstream.config import DEFAULT_URL, AccessSettings
from pipeline.bundle import Bundle, describe_bundle, verify_bundle
from pipeline.errors import ConfigError
from pipeline.transports import ClientKeys

app = App(name="bundle", help="Look at bundles and verify them.")


@app.command
def info(
    bundle: Path | None = None, *, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
) -> None:
    """Show ids, rates, backbones, heads and measured figures.

    Parameters
    ----------
    bundle:
        Folder or .zip; the default bundle if not given.
    as_json:
        Print JSON.
    """
    facts = describe_bundle(Bundle.open(bundle))
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    console = Console()
    sizes = f"{facts['bytes'] / 1e6:.1f} MB, of which the edge needs {facts['edge_bytes'] / 1e6:.2f}"
    console.print(f"[bold]{facts['name']}[/]  {sizes}")
    console.print(f"codec id   {facts['codec_id']}\nbundle id  {facts['bundle_id']}")
    analysis, latent = facts["analysis"], facts["latent"]
    int8 = "int8 allowed" if analysis["int8_allowed"] else "fp32 only"
    console.print(
        f"analysis   {analysis['name']} ({int8}), latent {latent['channels']} channels at 1/{latent['stride']}, "
        f"{len(latent['layers'])} layers\n"
    )
    console.print(_points(facts))
    console.print(_heads(facts))
    console.print(f"[dim]{facts['licence']}[/]")


@app.command
def verify(bundle: Path | None = None) -> None:
    """Check every file, the tables, the encoder and the heads.

    Parameters
    ----------
    bundle:
        Folder or .zip; the default bundle if not given.
    """
    for line in verify_bundle(bundle):
        print(f"good  {line}")


@app.command
def pack_edge(destination: Path, *, bundle: Path | None = None) -> None:
    """Write the half that an edge needs as a .zip.

    Parameters
    ----------
    destination:
        File to write.
    bundle:
        Folder or .zip; the default bundle if not given.
    """
    if destination.exists():
        raise ConfigError(f"{destination} exists: name a new file")
    packed = Bundle.open(bundle).pack_edge()
    destination.write_bytes(packed)
    print(f"{destination}: {len(packed)} bytes")


def _points(facts: dict[str, Any]) -> Table:
    table = Table("quality", "bytes a frame", "points lost", box=None, pad_edge=False)
    for point in facts["operating_points"]:
        default = " (default)" if point["name"] == facts["default_operating_point"] else ""
        loss = "not measured" if point["loss_points"] is None else f"{point['loss_points']:.1f}"
        table.add_row(point["name"] + default, f"{point['bytes_mean']:.0f}", loss)
    return table


def _heads(facts: dict[str, Any]) -> Table:
    table = Table("task", "backbone", "classes", "direct %", "through the codec %", box=None, pad_edge=False)
    for head in facts["heads"]:
        accuracies = (head.get("accuracy_direct"), head.get("accuracy_codec"))
        table.add_row(
            head["task"],
            head["backbone"],
            str(head["classes"]),
            *("-" if value is None else f"{value:.1f}" for value in accuracies),
        )
    return table


@app.command
def fetch(
    *, server: str = DEFAULT_URL, keys: Path | None = None, codec_id: str = "", access: AccessSettings | None = None
) -> None:
    """Fetch the edge half of a server's bundle; start the edge with `--bundle` and the path that is printed.

    Parameters
    ----------
    server:
        URL of the server: tcp://HOST:PORT, ipc://PATH, ws(s)://HOST:PORT or webrtc+http(s)://HOST:PORT.
    keys:
        Folder with edge.key, edge.secret and server.key.
    codec_id:
        The only codec id to accept.
    """
    with Progress(transient=True) as bars:
        bar = bars.add_task("fetching", total=None)
        bundle, path = fetch_edge_bundle(
            server,
            keys=ClientKeys.from_folder(keys) if keys else None,
            access=(access or AccessSettings()).client(),
            pinned=codec_id,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    print(f"codec id {bundle.codec_id}\n{path}")
