"""The admin interface: HTTP only, on an asyncio thread of its own, far from the frames.

    GET  /healthz            200 while the process lives and its threads do
    GET  /readyz             200 when frames are answered; 503 while it warms up or drains
    GET  /metrics            Prometheus
    GET  /api/v1/load        {"streams": {"active": n}, "queue_age_ms_p95": x}: what autoscalers read
    GET  /api/v1/tasks       what is served
    POST /api/v1/tasks       one more head, as multipart form: head (TOML) and arrays (safetensors), see heads.py
    DELETE /api/v1/tasks/N   head N goes; ?backbone=NAME where it is not on the default one
    GET  /api/v1/sessions    who is connected, and the counts of their frames
    POST /api/v1/drain       say Goodbye to every edge and end ({"peer": URL} sends them there)

Beyond loopback a bearer token is required, for everything but /healthz and /readyz.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, Protocol

from aiohttp import web

from analytics_server.metrics import CONTENT_TYPE
from pipeline import limits
from pipeline.errors import ConfigError, FrankenError, TransportError
from pipeline.transports.base import is_loopback

_OPEN_PATHS = ("/healthz", "/readyz")
_START_S_MAX = 10.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin(Protocol):
    """What the admin interface needs of the server. All of it may be called from any thread."""

    def health(self) -> dict[str, Any]: ...
    def readiness(self) -> dict[str, Any]: ...
    def load(self) -> dict[str, Any]: ...
    def task_table(self) -> list[dict[str, Any]]: ...
    def session_table(self) -> list[dict[str, Any]]: ...
    def metrics_text(self) -> bytes: ...
    def request_drain(self, peer: str = "") -> None: ...
    def add_head(self, toml: bytes, arrays: bytes) -> dict[str, Any]: ...
    def remove_head(self, name: str, backbone: str = "") -> None: ...


class HttpAdmin:
    """Serves `admin` at `address` (HOST:PORT; port 0: any free one, see `.url`).

    Raises ConfigError for a bad address or one beyond loopback without `token`, TransportError if it is in use.
    """

    def __init__(self, admin: Admin, address: str, *, token: str = "") -> None:
        self._host, self._port = parse_address(address)
        if not is_loopback(self._host) and not token:
            raise ConfigError(f"http address {address} is beyond loopback: set an admin token, or use 127.0.0.1")
        self._admin = admin
        self._token = token
        self._loop = asyncio.new_event_loop()
        self._started: Future[int] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Listen; returns when requests are answered."""
        self._thread.start()
        try:
            self._port = self._started.result(_START_S_MAX)
        except OSError as error:
            raise TransportError(
                f"http address {self._host}:{self._port} cannot be used: {error.strerror or error}: choose another port"
            ) from None

    @property
    def url(self) -> str:
        """Where it listens, with the real port."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def stop(self) -> None:
        """Close the door and end the thread."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself meanwhile
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def application(self) -> web.Application:
        """The routes, also for tests without a socket."""
        app = web.Application(
            middlewares=[self._refuse_browsers, self._authorise], client_max_size=limits.BUNDLE_FILE_BYTES_MAX
        )
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/v1/load", self._load),
                web.get("/api/v1/tasks", self._tasks),
                web.post("/api/v1/tasks", self._add_head),
                web.delete("/api/v1/tasks/{name}", self._remove_head),
                web.get("/api/v1/sessions", self._sessions),
                web.post("/api/v1/drain", self._drain),
            ]
        )
        return app

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        runner = web.AppRunner(self.application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        try:
            await runner.setup()
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            self._started.set_exception(error)
        else:
            self._started.set_result(int(runner.addresses[0][1]))
            await self._stop.wait()
        finally:
            await runner.cleanup()

    @web.middleware
    async def _authorise(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._token and request.path not in _OPEN_PATHS:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return web.json_response({"error": "missing or wrong bearer token"}, status=401)
        return await handler(request)

    @web.middleware
    async def _refuse_browsers(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A page of another site, open in a browser on this machine, must not be able to stop the server."""
        origin = request.headers.get("Origin", "")
        if request.method != "GET" and origin and origin.partition("://")[2] != request.host:
            return web.json_response({"error": f"requests from {origin} are refused"}, status=403)
        return await handler(request)

    async def _healthz(self, request: web.Request) -> web.StreamResponse:
        health = self._admin.health()
        return web.json_response(health, status=200 if health["healthy"] else 503)

    async def _readyz(self, request: web.Request) -> web.StreamResponse:
        readiness = self._admin.readiness()
        return web.json_response(readiness, status=200 if readiness["ready"] else 503)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._admin.metrics_text(), headers={"Content-Type": CONTENT_TYPE})

    async def _load(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._admin.load())

    async def _tasks(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"tasks": self._admin.task_table()})

    async def _add_head(self, request: web.Request) -> web.StreamResponse:
        parts: dict[str, bytes] = {}
        try:
            form = await request.post()
        except ValueError as error:
            return web.json_response({"error": f"the body is no form: {error}"}, status=400)
        for name in ("head", "arrays"):
            field = form.get(name)
            if field is None:
                return web.json_response({"error": f"the form has no {name}: send head and arrays"}, status=400)
            parts[name] = field.file.read() if isinstance(field, web.FileField) else bytes(str(field), "utf-8")
        try:
            row = await asyncio.to_thread(self._admin.add_head, parts["head"], parts["arrays"])
        except FrankenError as error:
            return web.json_response({"error": str(error)}, status=422)
        return web.json_response(row, status=201)

    async def _remove_head(self, request: web.Request) -> web.StreamResponse:
        try:
            self._admin.remove_head(request.match_info["name"], request.query.get("backbone", ""))
        except FrankenError as error:
            return web.json_response({"error": str(error)}, status=404)
        return web.Response(status=204)

    async def _sessions(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"sessions": self._admin.session_table()})

    async def _drain(self, request: web.Request) -> web.StreamResponse:
        try:
            wish = await request.json() if request.can_read_body else {}
            peer = str(wish.get("peer", ""))
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
            return web.json_response({"error": 'the body is no JSON object: send {"peer": URL} or none'}, status=400)
        self._admin.request_drain(peer)
        return web.json_response({"draining": True}, status=202)


def parse_address(address: str) -> tuple[str, int]:
    """HOST:PORT or [IPV6]:PORT. Raises ConfigError."""
    host, separator, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"http address is {address!r}, expected HOST:PORT, for example 127.0.0.1:8080")
    return host, int(port)
