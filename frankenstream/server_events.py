"""Reads `GET /api/v1/events` of a server: figures and events, one after the other, over plain HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import ConfigError, TransportError

SILENCE_S = 10.0
"""A server that says nothing for this long, figures included, is gone."""


@dataclass(frozen=True)
class Told:
    """`kind` is figures, session, task or server; `number` of an event, 0 for figures."""

    kind: str
    data: dict[str, Any]
    number: int = 0


def admin_url(text: str) -> str:
    """The admin interface's address as a user names it: http://HOST:PORT, or HOST:PORT. Raises ConfigError."""
    url = text if "://" in text else f"http://{text}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ConfigError(
            f"{text!r} is where frames go: give the server's HTTP address instead (`serve --http`), "
            "for example http://127.0.0.1:8080"
        )
    if not parts.hostname:
        raise ConfigError(f"{text!r} names no host, expected for example http://127.0.0.1:8080")
    return f"{parts.scheme}://{parts.netloc}"


def listen(url: str, *, token: str = "", every_s: float = 1.0, after: int | None = None) -> Iterator[Told]:
    """What the server tells, until it ends the stream. Raises TransportError, ConfigError (not let in)."""
    query = f"?every={every_s:g}" + ("" if after is None else f"&after={after}")
    request = urllib.request.Request(f"{url}/api/v1/events{query}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=SILENCE_S) as response:
            yield from _parsed(response)
    except urllib.error.HTTPError as error:
        raise _refusal(url, error) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise TransportError(f"{url} does not answer ({reason}): is `frankenstream serve` running there?") from None


def _parsed(lines: Iterator[bytes]) -> Iterator[Told]:
    kind, number, data = "", 0, ""
    for raw in lines:
        line = raw.decode(errors="replace").rstrip("\r\n")
        if not line:
            if data:
                yield Told(kind, json.loads(data), number)
            kind, number, data = "", 0, ""
            continue
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "id":
            number = int(value)
        elif name == "data":
            data += value


def _refusal(url: str, error: urllib.error.HTTPError) -> ConfigError | TransportError:
    if error.code == 401:
        return ConfigError(f"{url} wants a bearer token: give --token, or set FRANKENSTREAM_TOP_TOKEN")
    if error.code == 404:
        return TransportError(f"{url} has no /api/v1/events: is it a FrankenStream server of this version?")
    return TransportError(f"{url} refuses: {error.code} {error.read(300).decode(errors='replace')}")
