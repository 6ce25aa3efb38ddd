"""`frankenstream serve`: the server role."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from frankenstream.config import DoorSettings, ServerSettings, names
from pipeline.bundle import Bundle, home_folder
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from analytics_server import Server


def command(
    *,
    server: ServerSettings | None = None,
    door: DoorSettings | None = None,
    announce: Path | None = None,
    log_json: bool = False,
) -> None:
    """Answer edges: decode latents, run backbones and task heads.

    The first start of a backbone exports it once (some seconds); later starts take it from the cache. SIGTERM and
    Ctrl-C answer what is under way and say goodbye to every edge.

    Parameters
    ----------
    announce:
        Write the addresses to this file once frames are answered (for scripts).
    log_json:
        Log lines of JSON.
    """
    door = door or DoorSettings()
    role = build_server(server or ServerSettings(), door)
    from analytics_server import configure_logging, run_until_stopped

    configure_logging(as_json=log_json)

    def on_ready() -> None:
        if announce:
            _announce(role, announce)
        if door.pair:
            from frankenstream.door import show_server_link

            show_server_link(role, door)

    run_until_stopped(role, on_ready=on_ready)


def build_server(settings: ServerSettings, door: DoorSettings) -> Server:
    """The server that `settings` and `door` describe, not started. Raises FrankenError."""
    try:
        from analytics_server import Server
        from frankenstream.door import front_settings, with_admin_token
    except ModuleNotFoundError as error:
        raise ConfigError(f"the server needs {error.name}: pip install 'frankenstream[server]'") from None
    from pipeline.transports import ServerKeys

    settings = with_admin_token(settings)
    return Server(
        Bundle.open(settings.bundle),
        names(settings.listen),
        settings.http,
        backbones=names(settings.backbones),
        backend=settings.backend,
        device=settings.device,
        threads=settings.threads,
        batch_size_max=settings.batch_size_max,
        batch_delay_ms=settings.batch_delay_ms,
        keys=ServerKeys.load(settings.keys) if settings.keys else None,
        admin_token=settings.admin_token,
        front=front_settings(settings, door) if settings.http else None,
        heads_dir=home_folder() / "heads",
        record_dir=settings.record,
    )


def _announce(server: Server, file: Path) -> None:
    """Whoever waits for the file must never see half of it."""
    draft = file.with_suffix(".part")
    draft.write_text("".join(f"{url}\n" for url in (*server.urls, server.http_url) if url))
    os.replace(draft, file)
