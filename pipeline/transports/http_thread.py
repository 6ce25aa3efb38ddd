"""An HTTP port on a thread with a loop of its own, from the first request to the last."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Final

from aiohttp import web

from pipeline.errors import TransportError

_START_S: Final = 10.0


class HttpThread:
    """`application` and `ending` run on the thread's loop: what is served, and what ends before the connections do.

    `port` 0: any free one. `shutdown_s`: how long requests under way may take when it stops; `start_s`: how long it may
    take to open.
    """

    def __init__(
        self,
        name: str,
        application: Callable[[], web.Application],
        ending: Callable[[], Awaitable[None]],
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        shutdown_s: float,
        start_s: float = _START_S,
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self._host, self._port, self._tls = host, port, tls
        self._application = application
        self._ending = ending
        self._shutdown_s, self._start_s = shutdown_s, start_s
        self._stop = asyncio.Event()
        self._started: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it has started and not ended."""
        return self._thread.is_alive()

    def start(self) -> int:
        """Listen, once; returns the real port when requests are answered. Raises OSError, TransportError if it takes
        too long.
        """
        self._thread.start()
        try:
            return self._started.result(self._start_s)
        except TimeoutError:
            if self._started.done():
                return self._started.result()  # just now, or the network's own word
            self.stop(0.0)
            raise TransportError(
                f"http address {self._host}:{self._port} did not open within {self._start_s:g} s: "
                "the machine is too busy, try again"
            ) from None

    def stop(self, timeout: float | None = None) -> None:
        """Close the port and end the thread, as often as one likes; waits for it, unless it is the caller's own."""
        if not self._thread.is_alive():
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself meanwhile
            self.loop.call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self._serve())
        finally:
            self.loop.close()

    async def _serve(self) -> None:
        runner = web.AppRunner(
            self._application(), access_log=None, handle_signals=False, shutdown_timeout=self._shutdown_s
        )
        try:
            await runner.setup()
            await web.TCPSite(runner, self._host, self._port, ssl_context=self._tls).start()
        except OSError as error:
            self._started.set_exception(error)
        else:
            self._started.set_result(int(runner.addresses[0][1]))
            await self._stop.wait()
        finally:
            await self._ending()
            await runner.cleanup()
