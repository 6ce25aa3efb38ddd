"""Fetches the edge half of a server's bundle over an ordinary session; goes on where an earlier fetch stopped."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path

from pipeline.bundle import EdgeBundle, EdgeCache, EdgeFetch
from pipeline.errors import BundleError, TransportError
from pipeline.transports import ClientKeys, EdgeTransport, connect
from pipeline.wire import EdgeSession
from pipeline.wire.events import BundleOffered, BundlePartReceived, Closed, Connected, EdgeEvent

SILENCE_S = 15.0
"""How long the server may say nothing before a fetch is given up, in seconds."""


def fetch_edge_bundle(
    url: str,
    *,
    keys: ClientKeys | None = None,
    pinned: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[EdgeBundle, Path]:
    """The edge half of the bundle that the server at `url` uses, and where it is kept now.

    `pinned`: the only codec id to accept (empty: any; the server then hands it out over authenticated transports only).
    `progress` hears (bytes here, bytes in all). Raises TransportError, BundleError.
    """
    cache = EdgeCache()
    events: queue.SimpleQueue[EdgeEvent] = queue.SimpleQueue()
    session = EdgeSession(codec_id=pinned, client="frankenstream bundle fetch")
    transport = connect(url, session, events.put, keys=keys)
    try:
        codec_id = _offered(events)
        if pinned and codec_id != pinned:
            raise BundleError(f"the server at {url} has codec {codec_id[:12]}…, pinned is {pinned[:12]}…: refused")
        bundle = cache.get(codec_id) or _fetch(cache.fetch(codec_id), transport, events, progress)
    finally:
        transport.close()
    return bundle, cache.put(bundle)


def _offered(events: queue.SimpleQueue[EdgeEvent]) -> str:
    while True:
        match _next(events):
            case BundleOffered(codec_id, _):
                return codec_id
            case Connected(welcome) if welcome.codec_id:
                return welcome.codec_id


def _fetch(
    fetch: EdgeFetch,
    transport: EdgeTransport,
    events: queue.SimpleQueue[EdgeEvent],
    progress: Callable[[int, int], None],
) -> EdgeBundle:
    while True:
        _ask(transport, fetch.codec_id, fetch.offset)
        event = _next(events)
        while not isinstance(event, BundlePartReceived):
            event = _next(events)
        part = event.part
        bundle = fetch.add(part.offset, part.total, part.part)
        progress(fetch.offset, part.total)
        if bundle is not None:
            return bundle


def _ask(transport: EdgeTransport, codec_id: str, offset: int) -> None:
    transport.call(lambda session, now: session.request_bundle(codec_id, offset, now))


def _next(events: queue.SimpleQueue[EdgeEvent]) -> EdgeEvent:
    try:
        event = events.get(timeout=SILENCE_S)
    except queue.Empty:
        raise TransportError(
            f"the server said nothing for {SILENCE_S:.0f} s: is `frankenstream serve` running there?"
        ) from None
    if isinstance(event, Closed):
        raise TransportError(f"the server ended the session ({event.reason}): {event.detail}")
    return event
