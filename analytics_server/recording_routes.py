"""The recordings of `serve --record DIR` over HTTP, to be looked through: a piece at a time, found by the index.

    GET /api/v1/recordings?before=NAME&limit=50     those there are, newest first
    GET /api/v1/recordings/NAME                     what it is
    GET /api/v1/recordings/NAME/course?from=S&to=S&points=300    answers, drops, payload and times over time
    GET /api/v1/recordings/NAME/frames?from=S&to=S&limit=200     frames of some seconds; `next_s`: the next page
    GET /api/v1/recordings/NAME/picture?at=S        the thumbnail of a moment (JPEG); 404: none was recorded

Seconds count from a recording's first message. A name is a file that lies in DIR itself: no folders, no links. As all
of /api/, beyond loopback for the administrator alone.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from pipeline.errors import InputError
from recordings.browsing import course, frame_page, overview, picture_at
from recordings.indexed import IndexedRecording, read_facts
from recordings.writer import SUFFIX

LISTED_MAX: Final = 200
OPEN_MAX: Final = 4
"""Recordings that are kept open between requests."""
_READERS = 2
_json = msgspec.json.Encoder()


class RecordingRoutes:
    """Looks into `folder`; None: this server records nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._shelf = Shelf(folder) if folder else None
        # Of their own, so that somebody who scrubs keeps nobody else waiting.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="recordings")

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.add_routes(
            [
                web.get("/api/v1/recordings", self._list),
                web.get("/api/v1/recordings/{name}", self._overview),
                web.get("/api/v1/recordings/{name}/course", self._course),
                web.get("/api/v1/recordings/{name}/frames", self._frames),
                web.get("/api/v1/recordings/{name}/picture", self._picture),
            ]
        )
        app.on_cleanup.append(self._close)

    async def _close(self, app: web.Application) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)
        if self._shelf:
            self._shelf.close()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if self._shelf is None:
            return web.json_response({"recording": False, "recordings": [], "more": False})
        limit = int(_number(request, "limit", 50, 1, LISTED_MAX))
        shelf, before = self._shelf, request.query.get("before", "")
        return await self._run(lambda: {"recording": True, **shelf.table(before, limit)})

    async def _overview(self, request: web.Request) -> web.StreamResponse:
        return await self._of(request, overview)

    async def _course(self, request: web.Request) -> web.StreamResponse:
        start = _number(request, "from", 0.0)
        end = _number(request, "to", -1.0)
        points = int(_number(request, "points", 300))
        return await self._of(request, lambda one: course(one, start, None if end < 0 else end, points))

    async def _frames(self, request: web.Request) -> web.StreamResponse:
        start = _number(request, "from", 0.0)
        end = _number(request, "to", start + 10.0)
        limit = int(_number(request, "limit", 200))
        return await self._of(request, lambda one: frame_page(one, start, end, limit))

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        at = _number(request, "at", 0.0)
        return await self._of(request, lambda one: picture_at(one, at))

    async def _of(self, request: web.Request, read: Callable[[IndexedRecording], Any]) -> web.StreamResponse:
        if self._shelf is None:
            return _refusal("this server records nothing: start it with --record DIR", 404)
        shelf, name = self._shelf, request.match_info["name"]

        def work() -> Any:
            with shelf.opened(name) as recording:
                return read(recording)

        return await self._run(work)

    async def _run(self, work: Callable[[], Any]) -> web.StreamResponse:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._readers, work)
        except FileNotFoundError as missing:
            return _refusal(str(missing), 404)
        except InputError as error:
            return _refusal(str(error), 422)
        except OSError as error:
            return _refusal(f"the recording cannot be read: {error.strerror or error}", 422)
        if found is None:
            return _refusal("no picture was recorded then", 404)
        if isinstance(found, bytes):
            headers = {"Cache-Control": "private, max-age=600", "X-Content-Type-Options": "nosniff"}
            return web.Response(body=found, content_type="image/jpeg", headers=headers)
        return web.Response(body=_json.encode(found), content_type="application/json")


class Shelf:
    """The recordings of a folder; a few stay open. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, int], tuple[IndexedRecording, threading.Lock]] = OrderedDict()

    def table(self, before: str, limit: int) -> dict[str, Any]:
        """At most `limit` files, newest first; `before`: those that come after this one in that order."""
        files = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _is_name(entry.name) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    files.append((status.st_mtime, entry.name, status.st_size))
        files.sort(reverse=True)
        names = [name for _, name, _ in files]
        first = names.index(before) + 1 if before in names else 0
        shown = files[first : first + limit]
        rows = [{"name": name, "bytes": size, "changed": round(at, 3), **self._about(name)} for at, name, size in shown]
        return {"recordings": rows, "more": first + limit < len(files)}

    def _about(self, name: str) -> dict[str, str]:
        try:
            return {"source": read_facts(self._folder / name).source}
        except InputError as error:
            return {"error": str(error)}

    @contextmanager
    def opened(self, name: str) -> Iterator[IndexedRecording]:
        """The recording called `name`, for this thread alone. Raises FileNotFoundError, InputError."""
        path = self._folder / name
        if not _is_name(name) or not os.path.lexists(path):
            raise FileNotFoundError(f"there is no recording {name[:80]!r} here")
        status = os.lstat(path)
        key = (name, status.st_ino)
        with self._lock:
            found = self._open.get(key)
            if found is None or (found[0].indexed and found[0].size_bytes != status.st_size):
                if found is not None:  # written anew under its name
                    self._open.pop(key)
                    with found[1]:
                        found[0].close()
                found = self._open[key] = (IndexedRecording(path), threading.Lock())
            self._open.move_to_end(key)
            while len(self._open) > OPEN_MAX:
                _, (old, busy) = self._open.popitem(last=False)
                with busy:
                    old.close()
        recording, busy = found
        with busy:
            if recording.closed:  # it was put away while we waited
                recording = IndexedRecording(path)
                try:
                    yield recording
                finally:
                    recording.close()
                return
            recording.refresh()
            yield recording

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            while self._open:
                _, (recording, busy) = self._open.popitem()
                with busy:
                    recording.close()


def _is_name(name: str) -> bool:
    """Whether `name` is that of a file in the folder itself."""
    return name.endswith(SUFFIX) and not name.startswith(".") and not {"/", "\\", "\0"} & set(name)


def _number(request: web.Request, name: str, default: float, least: float = -1.0, most: float = 1e9) -> float:
    """A number of the query. Raises 400."""
    text = request.query.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        line = f"{name} is {text[:40] if text else text!r}, expected a number from {least:g} to {most:g}"
        raise web.HTTPBadRequest(text=msgspec.json.encode({"error": line}).decode(), content_type="application/json")
    return value


def _refusal(line: str, status: int) -> web.Response:
    return web.json_response({"error": line}, status=status)
