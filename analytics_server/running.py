"""Run a server until a signal ends it: SIGTERM and SIGINT drain it, a second one ends it at once."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog

from analytics_server.server import DRAIN_S, Server

_LOOK_S = 0.5
"""How often the main thread looks whether a drain was asked for over HTTP."""


def run_until_stopped(server: Server, *, drain_s: float = DRAIN_S, on_ready: Callable[[], None] = lambda: None) -> None:
    """Start `server`, wait for SIGTERM, SIGINT or POST /api/v1/drain, drain it. Main thread only.

    `on_ready` is called once frames are answered. A signal that comes while engines are still being built ends that
    too. Raises what `Server.start` raises.
    """
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set() or server.state == "warming up":
            raise SystemExit(128 + number)
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.start()
        on_ready()
        while not stop.wait(_LOOK_S) and not server.drain_requested.is_set():
            pass
        server.stop(drain_s, peer=server.drain_peer)
    finally:
        server.stop(0.0)
        for number, handler in before.items():
            signal.signal(number, handler)


def configure_logging(*, as_json: bool = False, level: int = logging.INFO) -> None:
    """Structured logs of the server and of the libraries below it, on stderr: for people, or a JSON object a line."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    tail = [structlog.processors.format_exc_info] if as_json else []
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
