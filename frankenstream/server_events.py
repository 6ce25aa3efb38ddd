"""Reads `GET /api/v1/events` of a server: figures and events, one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from frankenstream.admin_client import AdminClient

SILENCE_S = 10.0
"""A server that says nothing for this long, figures included, is gone."""


@dataclass(frozen=True)
class Told:
    """`kind` is figures, session, task or server; `number` of an event, 0 for figures."""

    kind: str
    data: dict[str, Any]
    number: int = 0


def listen(client: AdminClient, *, every_s: float = 1.0, after: int | None = None) -> Iterator[Told]:
    """What the server tells, until it ends the stream. Raises what AdminClient raises."""
    query = f"?every={every_s:g}" + ("" if after is None else f"&after={after}")
    with client.opened("GET", f"/api/v1/events{query}", timeout_s=SILENCE_S) as response:
        yield from _parsed(response)


def _parsed(lines: Iterable[bytes]) -> Iterator[Told]:
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
