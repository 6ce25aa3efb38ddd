"""Teaching from a live stream over HTTP (few_shot.py): what the camera's page does while a button is held.

    POST   /api/v1/captures              features of a session's next frames, see http_tasks.py
    GET    /api/v1/examples              {"tasks": [{"task", "labels": {label: views}, "error"}]}
    POST   /api/v1/tasks/NAME/examples   form: label, and capture (what /captures answered), repeated
    DELETE /api/v1/tasks/NAME/examples   forget all that was captured; ?label=LABEL: only that
    POST   /api/v1/tasks/NAME/teach      {"title": ""}: learn from the examples and swap it in

Refusals are {"error": "one line"}: 422, or 503 while the server loads. Learning runs on one thread at the
lowest priority, one task at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from aiohttp import BodyPartReader, web

from analytics_server.few_shot import FewShot
from analytics_server.http_tasks import bad_request, read_json, refused
from pipeline import limits
from pipeline.errors import FrankenError

_CAPTURE_BYTES_MAX = 4_194_304
_CAPTURES_MAX = limits.CAPTURE_FRAMES_MAX
_LOWEST_PRIORITY = 19


class Taught(Protocol):
    """What these routes need of the server."""

    @property
    def few_shot(self) -> FewShot: ...


class FewShotRoutes:
    """The routes."""

    def __init__(self, server: Taught) -> None:
        self._server = server
        self._learner = ThreadPoolExecutor(1, thread_name_prefix="few-shot", initializer=_step_back)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/examples", self._show),
            web.post("/api/v1/tasks/{name}/examples", self._add),
            web.delete("/api/v1/tasks/{name}/examples", self._forget),
            web.post("/api/v1/tasks/{name}/teach", self._teach),
        ]

    async def _show(self, request: web.Request) -> web.StreamResponse:
        return await self._told(lambda: {"tasks": self._server.few_shot.known()})

    async def _add(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        label, captures = await _read_form(request)
        return await self._told(lambda: self._server.few_shot.add(name, label, captures), status=201)

    async def _forget(self, request: web.Request) -> web.StreamResponse:
        name, label = request.match_info["name"], request.query.get("label", "")
        return await self._told(lambda: self._server.few_shot.forget(name, label))

    async def _teach(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        wish = await read_json(request, {"title": str})
        return await self._told(lambda: self._server.few_shot.teach(name, wish.get("title", "")))

    async def _told(self, do: Callable[[], dict[str, Any]], *, status: int = 200) -> web.StreamResponse:
        try:
            row = await asyncio.get_running_loop().run_in_executor(self._learner, do)
        except FrankenError as error:
            return refused(error)
        return web.json_response(row, status=status)


async def _read_form(request: web.Request) -> tuple[str, list[bytes]]:
    """Label and captures. Raises 400 for what is no such form or was cut off."""
    label, captures, size = "", [], 0
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name not in ("label", "capture"):
                continue
            data = bytearray()
            while chunk := await part.read_chunk():
                data += chunk
                size += len(chunk)
                if size > _CAPTURE_BYTES_MAX:
                    raise bad_request(f"the form is larger than {_CAPTURE_BYTES_MAX} bytes: capture less", status=413)
            if part.name == "label":
                label = data.decode()
            else:
                captures.append(bytes(data))
    except (ValueError, AssertionError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise bad_request(f"the body is no form, or was cut off: {reason}") from None
    if not captures or len(captures) > _CAPTURES_MAX:
        raise bad_request(f"the form has {len(captures)} captures, expected 1 to {_CAPTURES_MAX}")
    return label, captures


def _step_back() -> None:
    """Frames come first: on Linux a thread has a priority of its own."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
