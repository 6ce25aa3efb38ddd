"""A server's admin interface, for the command line: HTTP with a token and TLS, one line for whatever goes wrong."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import BundleError, ConfigError, FrankenError, TransportError
from pipeline.transports.access import ClientAccess, untrusted

TIMEOUT_S = 60.0
"""How long an answer may take, in seconds."""
_LINE_CHARS_MAX = 300


class AdminClient:
    """Talks to the server at `url`, http(s)://HOST:PORT or HOST:PORT.

    `token`: bearer token, required beyond loopback. `ca`: certificate of a local authority (the server's ca.pem).

    Raises ConfigError for an address or a file that is none. Every call raises TransportError if nobody answers,
    ConfigError without the right token, BundleError with the server's own line where it refuses.
    """

    def __init__(self, url: str, *, token: str = "", ca: Path | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"server is {url!r}, expected its admin interface, for example http://127.0.0.1:8080 (see "
                "`frankenstream serve --http`), which is not where frames go"
            )
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._token = token
        self._tls = ClientAccess(ca_file=ca).tls() if parts.scheme == "https" else None

    def call(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json",
        timeout_s: float = TIMEOUT_S,
    ) -> bytes:  # fmt: skip
        """The answer's body."""
        with self.opened(method, path, body, kind, timeout_s=timeout_s) as answer:
            return answer.read()

    @contextmanager
    def opened(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json", *, timeout_s: float
    ) -> Iterator[HTTPResponse]:
        """The answer, to be read while it comes; `timeout_s` is how long it may pause."""
        request = urllib.request.Request(self.url + path, data=body, method=method)
        if body is not None:
            request.add_header("Content-Type", kind)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s, context=self._tls) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            raise _refusal(self.url, error) from None
        except (OSError, HTTPException) as error:
            raise _no_answer(self.url, error) from None


def _refusal(url: str, error: urllib.error.HTTPError) -> FrankenError:
    text = error.read().decode(errors="replace")
    try:
        line = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        line = text.strip() or error.reason
    if error.code == 401:
        return ConfigError(f"{url} wants its admin token: give --token, or set FRANKENSTREAM_ADMIN_TOKEN")
    if error.code in (404, 422) and text.startswith("{"):
        return BundleError(f"the server refused: {line}")
    hint = ": is it a FrankenStream server of this version?" if error.code == 404 else ""
    return TransportError(f"{url} answered {error.code}: {' '.join(line.split())[:_LINE_CHARS_MAX]}{hint}")


def _no_answer(url: str, error: Exception) -> TransportError:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return TransportError(untrusted(url, reason))
    hint = "is `frankenstream serve` running there?"
    if url.startswith("http://") and isinstance(reason, ConnectionResetError):  # http to a server with --tls
        hint = f"if it was started with --tls, it is at https{url.removeprefix('http')}"
    return TransportError(f"no server answers at {url} ({reason}): {hint}")
