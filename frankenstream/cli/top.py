"""`frankenstream top`: a server, live, in the terminal."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.table import Table

from frankenstream import top_view
from frankenstream.admin_client import AdminClient
from frankenstream.config import DEFAULT_HTTP, AdminToken
from frankenstream.server_events import listen
from pipeline.errors import ConfigError, TransportError


def command(
    *,
    server: str = DEFAULT_HTTP,
    token: AdminToken = "",
    ca: Path | None = None,
    every: float = 1.0,
    once: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Watch a server: sessions, rates, stages, drops, tasks and their cost, engines.

    Needs the extra `top` (textual), except with --once or --json. Keys: q ends, s sorts the sessions, p stands still.

    Parameters
    ----------
    server:
        HTTP address of the server's admin interface (`frankenstream serve --http`).
    token:
        Bearer token of the admin interface, beyond loopback.
    ca:
        Certificate of a local authority (the server's ca.pem); the system's authorities if not given.
    every:
        Seconds between two looks, 0.2 to 60.
    once:
        Print one look and end.
    as_json:
        Print one look as JSON and end: for scripts.
    """
    if not 0.2 <= every <= 60:
        raise ConfigError(f"--every is {every:g} s, expected 0.2 to 60")
    client = AdminClient(server, token=token, ca=ca)
    if once or as_json:
        _print_once(client, as_json=as_json)
        return
    if not sys.stdout.isatty():
        raise ConfigError("top draws on a terminal, this is none: use --once or --json")
    try:
        app_module = importlib.import_module("frankenstream.top_app")
    except ModuleNotFoundError as error:
        raise ConfigError(f"top needs {error.name}: pip install 'frankenstream[top]', or use --once") from None
    reason = app_module.TopApp(lambda after: listen(client, every_s=every, after=after)).run()
    if reason:
        raise TransportError(reason)


def _print_once(client: AdminClient, *, as_json: bool) -> None:
    for told in listen(client):
        if told.kind != "figures":
            continue
        if as_json:
            sys.stdout.write(json.dumps(told.data, indent=2) + "\n")
            return
        console = Console(highlight=False)
        width, figures = console.width, told.data
        sessions = Table(*top_view.SESSION_COLUMNS, box=None, pad_edge=False, header_style="dim")
        for row in figures["sessions"]:
            sessions.add_row(*top_view.session_cells(row))
        narrow = min(width, 80)
        parts: list[RenderableType] = [top_view.head(figures, width), "", top_view.stages(figures, narrow), ""]
        parts += [top_view.engines(figures, narrow), top_view.drops(figures), "", top_view.tasks(figures, narrow)]
        console.print(Group(*parts, "", sessions))
        return
