"""The admin interface: HTTP only, on an asyncio thread of its own, far from the frames.

    GET  /healthz            200 while the process lives and its threads do
    GET  /readyz             200 when frames are answered; 503 while it warms up or drains
    GET  /metrics            Prometheus
    GET  /api/v1/load        {"streams": {"active": n}, "queue_age_ms_p95": x}: what autoscalers read
    …    /api/v1/tasks, /api/v1/captures, /api/v1/sessions/ID/tasks: see http_tasks.py
    …    /api/v1/examples, /api/v1/tasks/NAME/examples and …/teach: see few_shot_routes.py
    GET  /api/v1/sessions    who is connected, the counts of their frames and their rates, see watch_routes.py
    …    /api/v1/lessons, /api/v1/recordings: see lesson_routes.py, recording_routes.py
    GET  /api/v1/events      figures and events as they happen, see watch_routes.py
    POST /api/v1/drain       say Goodbye to every edge and end ({"peer": URL} sends them there)
    …    streams, pairing and the web page: see front.py

Beyond loopback a bearer token is required, for everything but /healthz and /readyz.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from analytics_server.event_log import EventLog
from analytics_server.few_shot_routes import FewShotRoutes, Taught
from analytics_server.front import Front, FrontSettings
from analytics_server.http_tasks import TaskRoutes, TasksAdmin
from analytics_server.lesson_routes import LessonRoutes, Teaching
from analytics_server.metrics import CONTENT_TYPE
from analytics_server.recording_routes import RecordingRoutes
from analytics_server.watch_routes import WatchRoutes
from pipeline import limits
from pipeline.clock import Clock
from pipeline.errors import ConfigError, TransportError
from pipeline.transports.base import OnServerEvent, ServerTransport, is_loopback
from pipeline.transports.http_thread import HttpThread
from pipeline.wire.directory import SessionDirectory

_OPEN_PATHS = ("/healthz", "/readyz")
_SHUTDOWN_S = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin(TasksAdmin, Teaching, Taught, Protocol):
    """What the admin interface needs of the server. All of it may be called from any thread."""

    def health(self) -> dict[str, Any]: ...
    def readiness(self) -> dict[str, Any]: ...
    def load(self) -> dict[str, Any]: ...
    def session_table(self) -> list[dict[str, Any]]: ...
    def figures(self) -> dict[str, Any]: ...
    @property
    def events(self) -> EventLog: ...
    def metrics_text(self) -> bytes: ...
    def request_drain(self, peer: str = "") -> None: ...
    @property
    def record_dir(self) -> Path | None: ...


class HttpAdmin:
    """Serves `admin` at `address` (HOST:PORT; port 0: any free one, see `.url`).

    Raises ConfigError for a bad address or one beyond loopback without `token`, TransportError if it is in use.
    """

    def __init__(self, admin: Admin, address: str, *, token: str = "", front: FrontSettings | None = None) -> None:
        self._host, self._port = parse_address(address)
        if not is_loopback(self._host) and not token:
            raise ConfigError(f"http address {address} is beyond loopback: set an admin token, or use 127.0.0.1")
        self._admin = admin
        self._token = token
        self.front = Front(
            front or FrontSettings(), url=lambda: self.url, loopback=is_loopback(self._host), admin_token=token
        )
        self._thread = HttpThread(
            "http", self.application, self.front.close,
            host=self._host, port=self._port, tls=self.front.tls, shutdown_s=_SHUTDOWN_S,
        )  # fmt: skip

    def start(self) -> None:
        """Listen; returns when requests are answered."""
        try:
            self._port = self._thread.start()
        except OSError as error:
            raise TransportError(
                f"http address {self._host}:{self._port} cannot be used: {error.strerror or error}: choose another port"
            ) from None

    @property
    def url(self) -> str:
        """Where it listens, with the real port."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self.front.tls else 'http'}://{host}:{self._port}"

    def open_streams(self, directory: SessionDirectory, on_event: OnServerEvent, clock: Clock) -> ServerTransport:
        """Let edges in on this port."""
        return self.front.open_door(self._thread.loop, directory, on_event, clock)

    def stop(self) -> None:
        """Close the door and end the thread."""
        self._thread.stop()

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
                *TaskRoutes(self._admin).routes(),
                *FewShotRoutes(self._admin).routes(),
                web.post("/api/v1/drain", self._drain),
            ]
        )
        WatchRoutes(self._admin).add_to(app)
        LessonRoutes(self._admin).add_to(app)
        RecordingRoutes(self._admin.record_dir).add_to(app)
        app.add_routes(self.front.table())  # Last: the page takes every other path.
        return app

    @web.middleware
    async def _authorise(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._token and request.path not in _OPEN_PATHS and not self.front.is_open(request):
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return web.json_response({"error": "missing or wrong bearer token"}, status=401)
        return await handler(request)

    @web.middleware
    async def _refuse_browsers(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A page of another site, open in a browser on this machine, must not be able to stop the server."""
        origin = request.headers.get("Origin", "")
        foreign = bool(origin) and origin.partition("://")[2] != request.host
        if request.method != "GET" and foreign and not self.front.judges_origin(request):
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
