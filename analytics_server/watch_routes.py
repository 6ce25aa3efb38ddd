"""Routes for those who watch.

    GET /api/v1/sessions     every session: who it is, its frame counts, its rates of the last seconds
    GET /api/v1/events       server-sent events, for as long as the client listens:
                               event: figures   the whole server, every `every` seconds (default 1; 0: never)
                               event: session, task, lesson, server   what happened, as it happens
                             `after=N` begins after event number N (0: all that are kept; default: only new ones)

One JSON object an event, in the form of the HTML standard (chapter "Server-sent events"): `curl -N` and EventSource
read it, and a reader that comes back with Last-Event-ID goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Protocol

from aiohttp import web

from analytics_server.event_log import Event, EventLog

STREAMS_MAX = 16
"""Clients that may listen to /api/v1/events at a time."""
EVERY_S_MIN, EVERY_S_MAX = 0.2, 60.0
LOOK_S = 0.2
"""How soon after it happened an event is told."""
SHARED_S = 0.45
"""Figures that are younger serve another listener too, so that many who look cost little more than one."""


class Watched(Protocol):
    """What these routes need of the server. All of it may be called from any thread."""

    def session_table(self) -> list[dict[str, Any]]: ...
    def figures(self) -> dict[str, Any]: ...
    @property
    def events(self) -> EventLog: ...


class WatchRoutes:
    """`add_to(app)` registers the routes; streams end when the application shuts down."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._streams = 0
        self._ending = asyncio.Event()
        self._figures: tuple[float, asyncio.Future[bytes]] | None = None

    def add_to(self, app: web.Application) -> None:
        app.add_routes([web.get("/api/v1/sessions", self._sessions), web.get("/api/v1/events", self._events)])
        app.on_shutdown.append(self._end)

    async def _end(self, app: web.Application) -> None:
        self._ending.set()

    async def _sessions(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"sessions": self._watched.session_table()})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        try:
            every_s = float(request.query.get("every", "1"))
            given = request.headers.get("Last-Event-ID") or request.query.get("after")
            after = self._watched.events.last if given is None else int(given)
        except ValueError:
            return web.json_response({"error": "every is a number of seconds, after an event's number"}, status=400)
        if every_s and not EVERY_S_MIN <= every_s <= EVERY_S_MAX:  # also what is no number
            return web.json_response(
                {"error": f"every is {every_s:g} s, expected 0 or {EVERY_S_MIN:g} to {EVERY_S_MAX:g}"}, status=400
            )
        if self._streams >= STREAMS_MAX:
            return web.json_response({"error": f"{STREAMS_MAX} clients listen already: close one"}, status=503)
        self._streams += 1
        try:
            return await self._stream(request, every_s, after)
        finally:
            self._streams -= 1

    async def _stream(self, request: web.Request, every_s: float, after: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        loop = asyncio.get_running_loop()
        figures_at = loop.time() if every_s else float("inf")
        with contextlib.suppress(ConnectionResetError):  # the client has gone, which is its right
            while not self._ending.is_set():
                for event in self._watched.events.after(after):
                    after = event.number
                    await response.write(_as_text(event))
                now = loop.time()
                if now >= figures_at:
                    figures_at = max(figures_at + every_s, now)
                    await response.write(await self._figures_text(now, min(SHARED_S, every_s / 2)))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), max(0.01, min(LOOK_S, figures_at - loop.time())))
        return response

    async def _figures_text(self, now: float, age_s_max: float) -> bytes:
        if self._figures is None or now - self._figures[0] > age_s_max:
            self._figures = now, asyncio.ensure_future(asyncio.to_thread(figures_text, self._watched))
        return await asyncio.shield(self._figures[1])  # a listener that leaves must not take it from the others


def figures_text(watched: Watched) -> bytes:
    """Figures as a server-sent event."""
    return f"event: figures\ndata: {json.dumps(watched.figures())}\n\n".encode()


def _as_text(event: Event) -> bytes:
    return f"id: {event.number}\nevent: {event.kind}\ndata: {json.dumps(event.as_dict())}\n\n".encode()
