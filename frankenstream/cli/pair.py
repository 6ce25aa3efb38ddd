"""`frankenstream pair`: a link that lets one more device stream to a running server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from frankenstream.admin_client import AdminClient
from frankenstream.config import DEFAULT_HTTP, AdminToken
from frankenstream.pairing import link_url, show_link


def command(
    *,
    server: str = DEFAULT_HTTP,
    token: Annotated[AdminToken, Parameter(name=["--token", "--admin-token"])] = "",
    ca: Path | None = None,
    link: str = "",
) -> None:
    """Show a link and its QR code for one more device: it works once, within 10 minutes.

    Parameters
    ----------
    server:
        The server's HTTP address: http(s)://HOST:PORT.
    token:
        Bearer token of the admin interface, if the server has one.
    ca:
        Certificate of a local authority (the server's ca.pem); the system's authorities if not given.
    link:
        What the link begins with, if devices reach the server by another address, e.g. https://cameras.example.
    """
    client = AdminClient(server, token=token, ca=ca)
    answer = json.loads(client.call("POST", "/api/v1/pairings", b""))
    scheme, _, place = client.url.partition("://")
    begin = link.rstrip("/") or link_url(place, tls=scheme == "https")
    show_link(f"{begin}/#pair={answer['code']}", Console(), ca_file=ca)
