"""What people and programs ask of a running server: how it does, and other tasks. Any thread may.

The admin interface (http.py) is its only door. Whatever changes tasks waits until every engine is built: RequestRefused
(503) before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analytics_server.event_log import EventLog
from analytics_server.few_shot import FewShot
from analytics_server.figures import server_figures, session_row
from analytics_server.lessons import Lessons
from analytics_server.task_capture import capture_frames, find_session
from pipeline import limits
from tasks.head_file import HeadFiles

if TYPE_CHECKING:
    from analytics_server.server import Server


class ServerAdmin:
    """See `http.Admin`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    # --- How it does ------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Whether every thread that a frame passes is alive."""
        dead = self._server.dead()
        return {"healthy": not dead, "state": self._server.state, **({"dead": dead} if dead else {})}

    def readiness(self) -> dict[str, Any]:
        """Whether new sessions are welcome."""
        return {"ready": self._server.state == "ready", "state": self._server.state}

    def load(self) -> dict[str, Any]:
        """What autoscalers read."""
        server = self._server
        return {
            "streams": {
                "active": server.sessions_active, "known": server.sessions_known, "max": limits.SESSIONS_MAX,
            },
            "queue_age_ms_p95": round(server.metrics.queue_age_ms_p95(), 3),
            "frames_under_way": server.frames_under_way,
            "draining": server.state == "draining",
        }  # fmt: skip

    def session_table(self) -> list[dict[str, Any]]:
        """Every session with its frame counts and rates."""
        return [session_row(handle, self._server.metrics) for handle in self._server.handles()]

    def figures(self) -> dict[str, Any]:
        """Everything that is worth watching, now."""
        server, bundle = self._server, self._server.bundle
        facts = {"state": server.state, "urls": server.urls, "name": bundle.manifest.name,
                 "bundle_id": bundle.bundle_id, "codec_id": bundle.codec_id,
                 "frames_under_way": server.frames_under_way, "lesson": self.lessons.row()}  # fmt: skip
        return server_figures(server.metrics, server.handles(), server.lanes, facts)

    @property
    def events(self) -> EventLog:
        """What happened."""
        return self._server.metrics.events

    def metrics_text(self) -> bytes:
        """For Prometheus."""
        return self._server.metrics.text()

    @property
    def record_dir(self) -> Path | None:
        """Where sessions are recorded."""
        return self._server.record_dir

    def request_drain(self, peer: str = "") -> None:
        """Ask whoever runs the server to stop it."""
        self._server.request_drain(peer)

    # --- Tasks ------------------------------------------------------------------------------------------------

    def task_table(self) -> list[dict[str, Any]]:
        """Every task that is served, with what became of its head."""
        return self._server.tasks.table()

    def refused_heads(self) -> dict[str, str]:
        """User heads that lie in the home folder and are not served, with the reason."""
        return dict(self._server.tasks.refused)

    def own_tasks(self) -> list[dict[str, Any]]:
        """Users' tasks in the home folder with their versions."""
        return self._server.tasks.own()

    def add_head(self, toml: bytes, arrays: bytes) -> dict[str, Any]:
        """Serve one more head for as long as the server runs; see task_admin.py. Raises BundleError."""
        self._server.loaded()
        return self._server.tasks.add(toml, arrays)

    def put_task(self, name: str, files: Sequence[HeadFiles]) -> dict[str, Any]:
        """A new version of a user's task. Raises FrankenError."""
        self._server.loaded()
        return self._server.tasks.put(name, files)

    def roll_back_task(self, name: str, version: int = 0) -> dict[str, Any]:
        """An earlier version of a user's task. Raises FrankenError."""
        self._server.loaded()
        return self._server.tasks.roll_back(name, version)

    def remove_head(self, name: str, backbone: str = "") -> None:
        """Stop serving a head. Raises FrankenError."""
        self._server.tasks.remove(name, backbone, self._server.loaded().default_backbone)

    def choose_tasks(self, session: str, tasks: Sequence[str], top_k: int) -> None:
        """Other tasks for a session from now on. Raises ConfigError."""
        self._server.loaded()
        self._server.choose_tasks(find_session(self._server.handles(), session), tasks, top_k)

    # --- Teaching ---------------------------------------------------------------------------------------------

    @property
    def lessons(self) -> Lessons:
        """From pictures."""
        return self._server.lessons

    @property
    def few_shot(self) -> FewShot:
        """From a live stream."""
        return self._server.few_shot

    def lesson_task(self, name: str) -> str:
        """`name` as that of a task that may be taught here. Raises ConfigError."""
        return self._server.tasks.free_name(name)

    def lesson_backbones(self, wanted: Sequence[str]) -> list[str]:
        """Tags of served backbones, the default one if none is wanted. Raises ConfigError."""
        offer = self._server.loaded()
        return list(dict.fromkeys(offer.resolve((), name)[0] for name in wanted or ("",)))

    def capture(self, **wish: Any) -> bytes:
        """Features of a session's next frames, see task_capture.py; blocks. Raises FrankenError."""
        server = self._server
        default = server.loaded().default_backbone
        return capture_frames(server.bundle, server.captures, server.lanes, server.handles(), default, **wish)
