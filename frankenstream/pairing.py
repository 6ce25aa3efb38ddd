"""Links that pair a phone with a server: what they begin with, how they are shown, what to do on the phone."""

from __future__ import annotations

import ipaddress
import os
import secrets
from io import StringIO
from pathlib import Path

from rich.console import Console

from frankenstream.tls import lan_address
from pipeline.errors import ConfigError

_SECRET_BYTES = 32


def link_url(http: str, *, tls: bool) -> str:
    """What a link to the server at HOST:PORT begins with, for other machines; empty if the port is not known yet."""
    host, _, port = http.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if port == "0" or not bare:
        return ""
    try:
        everywhere = ipaddress.ip_address(bare).is_unspecified
    except ValueError:
        everywhere = False
    return f"{'https' if tls else 'http'}://{lan_address() if everywhere else host}:{port}"


def device_secret(folder: Path) -> bytes:
    """What the tokens of paired devices are made with: kept in `folder`, so that they survive a restart; remove the
    file to unpair all. Raises ConfigError.
    """
    place = folder / "devices.secret"
    try:
        if not place.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(_SECRET_BYTES))
        secret = bytes.fromhex(place.read_text().strip())
    except FileExistsError:
        return device_secret(folder)  # Another server made it in this moment.
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place} cannot be used ({error}): remove it, devices then pair again") from None
    if len(secret) < _SECRET_BYTES:
        raise ConfigError(
            f"{place} has {len(secret)} bytes, expected {_SECRET_BYTES}: remove it, devices then pair again"
        )
    return secret


def qr_code(text: str) -> str:
    """The QR code of `text`, for a terminal; empty without the library."""
    try:
        import segno
    except ModuleNotFoundError:
        return ""
    drawn = StringIO()
    segno.make(text, error="l", micro=False).terminal(drawn, compact=True, border=2)
    return drawn.getvalue()


def show_link(link: str, console: Console, *, ca_file: Path | None = None) -> None:
    """Print a pairing link, its QR code, and what to do with it."""
    code = qr_code(link)
    if code:
        console.file.write(code)
        console.file.flush()
    console.print(f"Open on the phone, within 10 minutes, once:  {link}", highlight=False, soft_wrap=True)
    if link.startswith("http://") and "://127.0.0.1" not in link and "://localhost" not in link:
        console.print(
            "Its camera stays off: browsers give it to HTTPS pages only. Start the server with --tls local "
            "(the page shows a sample clip meanwhile).",
            style="yellow",
            soft_wrap=True,
        )
    elif ca_file is not None:
        console.print(
            f"The phone warns of the certificate: go on past the warning, or install {ca_file} on it as a certificate "
            "authority first.",
            style="dim",
            soft_wrap=True,
        )
    if "://127.0.0.1" in link or "://localhost" in link:
        console.print(
            "Only this machine reaches this address: for a phone start the server with --http 0.0.0.0:8080 --tls local "
            "--admin-token WORD.",
            style="yellow",
            soft_wrap=True,
        )
