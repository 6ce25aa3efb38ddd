"""`frankenstream pair`: a link that lets one more device stream to a running server."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Console

from frankenstream.config import DEFAULT_HTTP
from frankenstream.pairing import link_url, show_link
from pipeline.errors import ConfigError, TransportError
from pipeline.transports.access import ClientAccess


def command(
    *, server: str = f"http://{DEFAULT_HTTP}", admin_token: str = "", ca: Path | None = None, link: str = ""
) -> None:
    """Show a link and its QR code for one more device: it works once, within 10 minutes.

    Parameters
    ----------
    server:
        The server's HTTP address: http(s)://HOST:PORT.
    admin_token:
        Bearer token of the admin interface, if the server has one.
    ca:
        Certificate of a local authority (the server's ca.pem).
    link:
        What the link begins with, if devices reach the server by another address, e.g. https://cameras.example.
    """
    answer = _invite(server, admin_token, ca)
    begin = link.rstrip("/") or link_url(server.partition("://")[2].rstrip("/"), tls=server.startswith("https"))
    show_link(f"{begin}/#pair={answer['code']}", Console(), ca_file=ca)


def _invite(server: str, admin_token: str, ca: Path | None) -> dict[str, str]:
    if not server.startswith(("http://", "https://")):
        raise ConfigError(f"server is {server!r}, expected http://HOST:PORT or https://HOST:PORT")
    request = urllib.request.Request(server.rstrip("/") + "/api/v1/pairings", method="POST", data=b"")
    if admin_token:
        request.add_header("Authorization", f"Bearer {admin_token}")
    context = ClientAccess(ca_file=ca).tls() if server.startswith("https") else None
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            answer: dict[str, str] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        hint = "give the right --admin-token" if error.code == 401 else "is it a FrankenStream server of this version?"
        raise TransportError(f"{server} answers HTTP {error.code}: {hint}") from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise TransportError(
                f"{server} has a certificate that is not trusted here ({reason.verify_message}): "
                "name its ca.pem with --ca"
            ) from None
        raise TransportError(f"{server} does not answer: {reason}") from None
