"""Fetches the edge half of a server's bundle over an ordinary session; goes on where an earlier fetch stopped."""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path

from edge_node.node import no_welcome
from pipeline.bundle import EdgeBundle, EdgeCache, EdgeFetch
from pipeline.clock import monotonic
from pipeline.errors import BundleError, TransportError
from pipeline.transports import ClientKeys, EdgeTransport, connect
from pipeline.transports.access import ClientAccess
from pipeline.wire import EdgeSession
from pipeline.wire.events import BundlePartReceived, Closed, Connected, Disconnected, EdgeEvent

SILENCE_S = 15.0
"""How long a fetch may get nowhere before it is given up, in seconds."""


def fetch_edge_bundle(
    url: str,
    *,
    keys: ClientKeys | None = None,
    access: ClientAccess | None = None,
    pinned: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[EdgeBundle, Path]:
    """The edge half of the bundle that the server at `url` uses, and where it is kept now.

    `pinned`: the only codec id to accept (empty: any; the server then hands it out over authenticated transports only).
    `progress` hears (bytes here, bytes in all). Raises TransportError, BundleError.
    """
    cache = EdgeCache()
    news = _News()
    session = EdgeSession(codec_id=pinned, client="frankenstream bundle fetch")
    transport = connect(url, session, news.put, keys=keys, access=access)
    try:
        codec_id = _offered(news)
        if pinned and codec_id != pinned:
            raise BundleError(f"the server at {url} has codec {codec_id[:12]}…, pinned is {pinned[:12]}…: refused")
        bundle = cache.get(codec_id) or _fetch(cache.fetch(codec_id), transport, news, progress)
    finally:
        transport.close()
    return bundle, cache.put(bundle)


class _News:
    """What the session tells, until nothing has come of it for SILENCE_S: connections that fail are no progress."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[EdgeEvent] = queue.SimpleQueue()
        self.put = self._events.put
        self.why_not = ""
        """Why there is no connection, as the transport said last."""
        self.progressed()

    def progressed(self) -> None:
        """The time begins anew."""
        self._until = monotonic() + SILENCE_S

    def next(self) -> EdgeEvent | None:
        """The next event; None: time is up. Raises TransportError if the server ended the session."""
        left = self._until - monotonic()
        try:
            event = self._events.get(timeout=left) if left > 0 else None
        except queue.Empty:
            return None
        if isinstance(event, Disconnected):
            self.why_not = event.reason
        if isinstance(event, Closed):
            raise TransportError(f"the server ended the session ({event.reason}): {event.detail}")
        return event


def _offered(news: _News) -> str:
    """The codec id of the server's bundle."""
    while True:
        match news.next():
            case Connected(welcome) if welcome.codec_id:
                news.progressed()
                return welcome.codec_id
            case None:
                raise no_welcome(SILENCE_S, news.why_not)


def _fetch(fetch: EdgeFetch, transport: EdgeTransport, news: _News, progress: Callable[[int, int], None]) -> EdgeBundle:
    _ask(transport, fetch)
    while True:
        match news.next():
            case BundlePartReceived(part):
                before = fetch.offset
                bundle = fetch.add(part.offset, part.total, part.part)
                progress(fetch.offset, part.total)
                if bundle is not None:
                    return bundle
                if fetch.offset > before:
                    news.progressed()
                _ask(transport, fetch)
            case Connected():  # once more: what was asked for before will not come any more
                _ask(transport, fetch)
            case None:
                known = f" ({news.why_not})" if news.why_not else ""
                raise TransportError(
                    f"nothing more of the bundle came for {SILENCE_S:g} s{known}: fetch it again when the server is "
                    f"back, {fetch.offset:,} bytes are here already"
                )


def _ask(transport: EdgeTransport, fetch: EdgeFetch) -> None:
    codec_id, offset = fetch.codec_id, fetch.offset
    transport.call(lambda session, now: session.request_bundle(codec_id, offset, now))
