"""Tasks over HTTP: heads come, change and go, features are captured, sessions get other tasks.

    GET    /api/v1/tasks               what is served, which user heads were refused and why, and what users' tasks have
                                       in the home folder: versions, accuracy
    POST   /api/v1/tasks               one head for as long as the server runs: form fields head (TOML), arrays
    PUT    /api/v1/tasks/NAME          a new version of a user's task: head and arrays, repeated for each backbone
    POST   /api/v1/tasks/NAME/rollback {"version": n}, or the one before
    DELETE /api/v1/tasks/NAME          it goes; ?backbone=TAG: only there
    POST   /api/v1/captures            {"frames": 20, "session": "", "backbone": "", "every_s": 0.2, "wait_s": 30}
    POST   /api/v1/sessions/ID/tasks   {"tasks": ["birds"], "top_k": 1}

Nothing is changed before a request has arrived whole, so one that is cut off half way leaves no trace.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import msgspec
from aiohttp import BodyPartReader, web

from analytics_server.refusal import RequestRefused
from pipeline import limits
from pipeline.errors import FrankenError
from tasks.head_file import HeadFiles

_TOML_BYTES_MAX = 4_194_304
_JSON_BYTES_MAX = 65_536
_CAPTURE_FIELDS = {
    "frames": int, "session": str, "backbone": str, "every_s": float, "wait_s": float, "task": str, "label": str,
}  # fmt: skip


class TasksAdmin(Protocol):
    """What these routes need of the server. All of it may be called from any thread."""

    def task_table(self) -> list[dict[str, Any]]: ...
    def refused_heads(self) -> dict[str, str]: ...
    def add_head(self, toml: bytes, arrays: bytes) -> dict[str, Any]: ...
    def put_task(self, name: str, files: Sequence[HeadFiles]) -> dict[str, Any]: ...
    def roll_back_task(self, name: str, version: int = 0) -> dict[str, Any]: ...
    def remove_head(self, name: str, backbone: str = "") -> None: ...
    def own_tasks(self) -> list[dict[str, Any]]: ...
    def capture(self, **wish: Any) -> bytes: ...
    def choose_tasks(self, session: str, tasks: Sequence[str], top_k: int) -> None: ...


class TaskRoutes:
    """The routes; `admin` is asked on threads of its own, since a new head takes a while to read."""

    def __init__(self, admin: TasksAdmin) -> None:
        self._admin = admin
        # Of their own, so that captures which wait keep nothing else waiting.
        self._captures = ThreadPoolExecutor(limits.CAPTURES_MAX, thread_name_prefix="capture")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/tasks", self._list),
            web.post("/api/v1/tasks", self._add),
            web.put("/api/v1/tasks/{name}", self._put),
            web.post("/api/v1/tasks/{name}/rollback", self._roll_back),
            web.delete("/api/v1/tasks/{name}", self._remove),
            web.post("/api/v1/captures", self._capture),
            web.post("/api/v1/sessions/{session}/tasks", self._choose),
        ]

    async def _list(self, request: web.Request) -> web.StreamResponse:
        own = await asyncio.to_thread(self._admin.own_tasks)
        served = self._admin.task_table()
        return web.json_response({"tasks": served, "refused": self._admin.refused_heads(), "own": own})

    async def _add(self, request: web.Request) -> web.StreamResponse:
        files = await _read_form(request)
        if len(files) != 1:
            raise bad_request(f"{len(files)} heads were sent, expected one: use PUT for several backbones")
        return await _answer(lambda: self._admin.add_head(*files[0]), status=201)

    async def _put(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        files = await _read_form(request)
        return await _answer(lambda: self._admin.put_task(name, files))

    async def _roll_back(self, request: web.Request) -> web.StreamResponse:
        wish = await read_json(request, {"version": int})
        return await _answer(lambda: self._admin.roll_back_task(request.match_info["name"], wish.get("version", 0)))

    async def _remove(self, request: web.Request) -> web.StreamResponse:
        name, backbone = request.match_info["name"], request.query.get("backbone", "")
        try:
            await asyncio.to_thread(self._admin.remove_head, name, backbone)
        except FrankenError as error:
            return refused(error, status=404)
        return web.Response(status=204)

    async def _capture(self, request: web.Request) -> web.StreamResponse:
        wish = await read_json(request, _CAPTURE_FIELDS)
        if "frames" not in wish:
            raise bad_request('the body names no "frames": say how many')
        try:
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(self._captures, lambda: self._admin.capture(**wish))
        except FrankenError as error:
            return refused(error)
        return web.Response(body=data, content_type="application/octet-stream")

    async def _choose(self, request: web.Request) -> web.StreamResponse:
        wish = await read_json(request, {"tasks": list[str], "top_k": int})
        tasks, top_k = wish.get("tasks", []), wish.get("top_k", 1)
        if not 1 <= top_k <= limits.TOP_K_MAX:
            raise bad_request(f"top_k is {top_k}, expected 1 to {limits.TOP_K_MAX}")
        session = request.match_info["session"]

        def choose() -> dict[str, Any]:
            self._admin.choose_tasks(session, tasks, top_k)
            return {"session": session, "tasks": tasks}

        return await _answer(choose)


async def _answer(do: Callable[[], dict[str, Any]], *, status: int = 200) -> web.StreamResponse:
    try:
        row = await asyncio.to_thread(do)
    except FrankenError as error:
        return refused(error)
    return web.json_response(row, status=status)


async def _read_form(request: web.Request) -> list[HeadFiles]:
    """The heads of a form: fields head and arrays, in pairs. Raises 400 for what is no such form or was cut off."""
    fields: dict[str, list[bytes]] = {"head": [], "arrays": []}
    try:
        reader = await request.multipart()
        async for part in reader:
            if isinstance(part, BodyPartReader) and part.name in fields:
                most = _TOML_BYTES_MAX if part.name == "head" else limits.HEAD_BYTES_MAX
                if len(fields[part.name]) >= limits.HEADS_PER_TASK_MAX:
                    raise bad_request(f"more than {limits.HEADS_PER_TASK_MAX} heads in one form: send fewer")
                fields[part.name].append(await _read_part(part, most))
    except (ValueError, AssertionError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise bad_request(f"the body is no form, or was cut off: {reason}") from None
    for name, values in fields.items():
        if not values:
            raise bad_request(f"the form has no {name}: send head and arrays")
    if len(fields["head"]) != len(fields["arrays"]):
        counts = f"{len(fields['head'])} heads and {len(fields['arrays'])} arrays"
        raise bad_request(f"the form has {counts}: send them in pairs")
    return [HeadFiles(*pair) for pair in zip(fields["head"], fields["arrays"], strict=True)]


async def _read_part(part: BodyPartReader, bytes_max: int) -> bytes:
    data = bytearray()
    while chunk := await part.read_chunk(1 << 18):
        data += chunk
        if len(data) > bytes_max:
            raise bad_request(f"{part.name} is larger than {bytes_max} bytes: that is no head", status=413)
    return bytes(data)


async def read_json(request: web.Request, fields: dict[str, Any]) -> dict[str, Any]:
    """A JSON object of the known `fields`, name → type; a value of another type is refused, not bent. Raises 400."""
    if not request.can_read_body:
        return {}
    if (request.content_length or 0) > _JSON_BYTES_MAX:
        raise bad_request(f"the body is {request.content_length} bytes, limit {_JSON_BYTES_MAX}", status=413)
    shown = ", ".join(fields)
    try:
        wish = await request.json()
        unknown = sorted(set(wish) - set(fields))
        if unknown:
            raise bad_request(f"the body has {unknown[0]!r}, expected {shown}")
        return {name: _typed(name, value, fields[name]) for name, value in wish.items()}
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError, AttributeError):
        raise bad_request(f"the body is no JSON object of {shown}") from None


def _typed(name: str, value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise bad_request(f"the body's {name} is {repr(value)[:80]}: {error}") from None


def refused(error: FrankenError, *, status: int = 422) -> web.Response:
    """The answer that says why; `status` unless the error has one."""
    return web.json_response(
        {"error": str(error)}, status=error.status if isinstance(error, RequestRefused) else status
    )


def bad_request(line: str, *, status: int = 400) -> web.HTTPException:
    """To be raised: 400 or 413 with a line."""
    kind = web.HTTPBadRequest if status == 400 else web.HTTPRequestEntityTooLarge
    text = json.dumps({"error": line})
    if kind is web.HTTPBadRequest:
        return web.HTTPBadRequest(text=text, content_type="application/json")
    return web.HTTPRequestEntityTooLarge(max_size=0, actual_size=0, text=text, content_type="application/json")
