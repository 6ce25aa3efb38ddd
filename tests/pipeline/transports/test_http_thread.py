"""The HTTP port's thread."""

from __future__ import annotations

import threading

import pytest
from aiohttp import web

from pipeline.errors import TransportError
from pipeline.transports.http_thread import HttpThread


def test_a_port_that_does_not_open_is_told() -> None:
    """One line with what to do, and the thread ends when it can."""
    gate = threading.Event()

    def application() -> web.Application:
        gate.wait()
        return web.Application()

    async def ending() -> None: ...

    thread = HttpThread("slow", application, ending, host="127.0.0.1", port=0, tls=None, shutdown_s=0.0, start_s=0.01)
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:0 did not open within 0\.01 s: the machine is too busy"):
        thread.start()
    gate.set()
    thread.stop()
    assert not thread.alive
