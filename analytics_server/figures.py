"""A server in figures, as `GET /api/v1/sessions` and `GET /api/v1/events` tell them and `frankenstream top` draws them.

Everything here is read from other threads while frames flow: single values that are each right, not one instant.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from analytics_server.lane import EngineLane
from analytics_server.metrics import ServerMetrics
from analytics_server.watch import WINDOW_S
from pipeline.transports.base import SessionHandle
from pipeline.wire.messages import TaskInfo
from pipeline.wire.states import OPEN

SESSION_ROWS_MAX = 64
"""Sessions in one set of figures, the busiest first; `GET /api/v1/sessions` has them all."""


def session_row(handle: SessionHandle, metrics: ServerMetrics) -> dict[str, Any]:
    """One session: who it is, its counts since Welcome, its rates of the last seconds."""
    session, account = handle.session, handle.session.account
    error_s = session.clock.error_s
    return {
        "session": handle.id, "client": session.client, "transport": handle.peer.transport,
        "address": handle.peer.address, "state": session.state, "backbone": session.backbone,
        "tasks": [task.name for task in session.tasks],
        "received": account.entered, "answered": account.answered, "dropped": dict(account.dropped),
        "in_flight": len(account.in_flight), "duplicates": account.duplicates, "lossless": session.lossless,
        "credit_window": session.credit.window,
        "one_way_ms": None if error_s is None else round(session.clock.one_way_s * 1e3, 3),
        "clock_error_ms": None if error_s is None else round(error_s * 1e3, 3),
        **metrics.watch.session(handle.id),
        "recognised": metrics.watch.recognised(handle.id, [task.name for task in session.tasks]),
    }  # fmt: skip


def server_figures(
    metrics: ServerMetrics,
    handles: Iterable[SessionHandle],
    lanes: Mapping[str, EngineLane],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole server. `facts`: what the server says of itself (state, urls, bundle, …)."""
    rows = [session_row(handle, metrics) for handle in handles]
    rows.sort(key=lambda row: (row["state"] != OPEN, -row["fps"], row["session"]))
    asked = Counter((task.name.partition("@")[0], task.backbone) for handle in handles for task in handle.session.tasks)
    return {
        **facts,
        "at": round(time.time(), 3),
        "window_s": WINDOW_S,
        "frames": metrics.watch.frames(),
        "sessions": rows[:SESSION_ROWS_MAX],
        "sessions_open": sum(row["state"] == OPEN for row in rows),
        "sessions_known": len(rows),
        "engines": [_engine_row(lane, metrics) for lane in lanes.values()],
        "tasks": [row for lane in lanes.values() for row in _task_rows(lane, metrics, asked)],
        "drift": metrics.drift(),
        "process": metrics.watch.process(),
    }


def _engine_row(lane: EngineLane, metrics: ServerMetrics) -> dict[str, Any]:
    return {
        "backbone": lane.backbone, "backend": lane.engine.backend, "device": lane.engine.device,
        "waiting": len(lane), "failures": lane.failures, **metrics.watch.engine(lane.backbone),
    }  # fmt: skip


def _task_rows(lane: EngineLane, metrics: ServerMetrics, asked: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """A task's cost is its share of the time of all heads, by classes: the linear ones are one matrix product."""
    infos: list[TaskInfo] = lane.heads.infos()
    classes = sum(info.classes for info in infos) or 1
    heads_ms = metrics.watch.engine(lane.backbone)["heads_ms"]
    failed = dict(lane.heads.failed)
    return [
        {
            "name": info.name, "backbone": info.backbone, "classes": info.classes, "version": info.version,
            "sessions": asked.get((info.name, info.backbone), 0),
            "answers_per_s": metrics.watch.task_fps(info.name, info.backbone),
            "ms_a_frame": heads_ms * info.classes / classes, "error": failed.get(info.name, ""),
        }
        for info in infos
    ]  # fmt: skip
