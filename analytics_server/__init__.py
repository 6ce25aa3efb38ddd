"""The analytics server: decodes each frame once and answers for every task (DESIGN chapter 8).

server = Server(Bundle.open(), ["tcp://127.0.0.1:5555"], "127.0.0.1:8080")
run_until_stopped(server)
"""

from __future__ import annotations

from analytics_server.running import configure_logging, run_until_stopped
from analytics_server.server import Server

__all__ = ["Server", "configure_logging", "run_until_stopped"]
