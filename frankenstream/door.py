"""From settings to the server's front: tokens, certificate, pairing links."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from analytics_server.front import FrontSettings
from analytics_server.http import parse_address
from frankenstream.config import DoorSettings, ServerSettings, ice_servers, names
from frankenstream.pairing import device_secret, link_url, show_link
from frankenstream.tls import server_context
from pipeline.bundle import home_folder
from pipeline.transports.base import is_loopback

if TYPE_CHECKING:
    from analytics_server import Server


def tls_folder() -> Path:
    """Where the local authority of `--tls local` is kept."""
    return home_folder() / "tls"


def with_admin_token(settings: ServerSettings) -> ServerSettings:
    """With a token made for this run, which is printed, where the admin interface needs one: beyond loopback.

    Raises ConfigError for an address that is none.
    """
    if settings.admin_token or not settings.http or is_loopback(parse_address(settings.http)[0]):
        return settings
    token = secrets.token_urlsafe(16)
    print(f"admin token of this run (FRANKENSTREAM_ADMIN_TOKEN chooses one): {token}", flush=True)
    return replace(settings, admin_token=token)


def front_settings(settings: ServerSettings, door: DoorSettings) -> FrontSettings:
    """How the HTTP port lets edges and phones in. Raises ConfigError."""
    return FrontSettings(
        token=door.stream_token,
        secret=device_secret(home_folder() / "keys"),
        origins=names(door.origins),
        ice_servers=ice_servers(door.ice),
        tls=server_context(door.tls, door.tls_key, tls_folder()) if door.tls else None,
        link_url=link_url(settings.http, tls=bool(door.tls)),
    )


def show_server_link(server: Server, door: DoorSettings) -> None:
    """Print the link that pairs one device; nothing without an HTTP port."""
    link = server.pairing_link()
    if link:
        show_link(link, Console(), ca_file=tls_folder() / "ca.pem" if door.tls == "local" else None)
