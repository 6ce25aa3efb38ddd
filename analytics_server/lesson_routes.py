"""Teaching a task from pictures over HTTP (lessons.py): what the operator's page does, and curl can.

    GET    /api/v1/lessons               {"lesson": the one that goes on, or the last; null, "limits": {…}}
    POST   /api/v1/lessons               {"task": "birds", "pictures": 120, "bytes": 9000000, "title", "kind",
                                          "unknown", "backbones", "source"} → the lesson
    PUT    /api/v1/lessons/ID/pictures/[SPLIT/]CLASS/NAME    the picture's bytes
    POST   /api/v1/lessons/ID/start      learn; how it goes is told in the figures of /api/v1/events
    DELETE /api/v1/lessons/ID            give it up

A picture is in memory only while it comes, a few at a time; more wait. Refusals are one line, {"error": …}.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from aiohttp import web

from analytics_server.http_tasks import bad_request, read_json, refused
from analytics_server.lessons import Lessons
from pipeline import limits
from pipeline.errors import FrankenError
from tasks.learning import Wish

PICTURES_AT_A_TIME = 6
_SWEEP_S = 30.0
_FIELDS = {
    "task": str, "pictures": int, "bytes": int, "title": str, "kind": str, "unknown": bool, "backbones": list[str],
    "source": str,
}  # fmt: skip


class Teaching(Protocol):
    """What these routes need of the server. All of it may be called from any thread."""

    @property
    def lessons(self) -> Lessons: ...
    def lesson_task(self, name: str) -> str: ...
    def lesson_backbones(self, wanted: list[str]) -> list[str]: ...


class LessonRoutes:
    """`add_to(app)` registers the routes, and looks after lessons that were left alone."""

    def __init__(self, server: Teaching) -> None:
        self._server = server
        self._at_a_time = asyncio.Semaphore(PICTURES_AT_A_TIME)

    def add_to(self, app: web.Application) -> None:
        app.add_routes(
            [
                web.get("/api/v1/lessons", self._show),
                web.post("/api/v1/lessons", self._begin),
                web.put("/api/v1/lessons/{id}/pictures/{path:.+}", self._picture),
                web.post("/api/v1/lessons/{id}/start", self._start),
                web.delete("/api/v1/lessons/{id}", self._cancel),
            ]
        )
        app.cleanup_ctx.append(self._look_after)

    async def _look_after(self, app: web.Application) -> AsyncIterator[None]:
        async def sweep() -> None:
            await asyncio.to_thread(self._server.lessons.sweep_leftovers)
            while True:
                await asyncio.sleep(_SWEEP_S)
                await asyncio.to_thread(self._server.lessons.sweep)

        sweeping = asyncio.create_task(sweep())
        yield
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping

    async def _show(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                "lesson": self._server.lessons.row(),
                "limits": {
                    "pictures": limits.LESSON_PICTURES_MAX, "bytes": limits.LESSON_BYTES_MAX,
                    "picture_bytes": limits.PICTURE_BYTES_MAX,
                },
            }
        )  # fmt: skip

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        wish = await read_json(request, _FIELDS)
        missing = [field for field in ("task", "pictures", "bytes") if field not in wish]
        if missing:
            raise bad_request(f"the body lacks {', '.join(missing)}")

        def begin() -> dict[str, Any]:
            task = self._server.lesson_task(wish["task"])
            return self._server.lessons.begin(
                task, self._server.lesson_backbones(wish.get("backbones", [])),
                pictures=wish["pictures"], size=wish["bytes"], source=wish.get("source", "")[:100],
                wish=Wish(
                    kind=wish.get("kind", "linear"), unknown=wish.get("unknown", True),
                    title=wish.get("title", "")[: limits.NAME_CHARS_MAX],
                ),
            )  # fmt: skip

        return await _told(begin, status=201)

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        lesson, path = request.match_info["id"], request.match_info["path"]
        most = limits.PICTURE_BYTES_MAX
        async with self._at_a_time:
            if (request.content_length or 0) > most:
                return _refusal(f"{path[:80]} takes {request.content_length:,} bytes, limit {most:,}: shrink it", 413)
            data = bytearray()
            async for chunk in request.content.iter_any():
                data += chunk
                if len(data) > most:
                    return _refusal(f"{path[:80]} takes more than {most:,} bytes: shrink it", 413)
            return await _told(lambda: self._server.lessons.add_picture(lesson, path, bytes(data)))

    async def _start(self, request: web.Request) -> web.StreamResponse:
        return await _told(lambda: self._server.lessons.start(request.match_info["id"]), status=202)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        return await _told(lambda: self._server.lessons.cancel(request.match_info["id"]))


async def _told(do: Callable[[], dict[str, Any]], *, status: int = 200) -> web.StreamResponse:
    try:
        return web.json_response(await asyncio.to_thread(do), status=status)
    except FrankenError as error:
        return refused(error)


def _refusal(line: str, status: int) -> web.Response:
    return web.json_response({"error": line}, status=status)
