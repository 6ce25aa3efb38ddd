"""The other side of a benchmark in a process of its own, so that it takes no time from the side that is measured."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from pipeline.errors import EngineError


class PeerProcess:
    """`target(pipe, *arguments)` in another process, for as long as the `with` block lasts. It sends its URL first."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        self._process = context.Process(target=target, args=(there, *arguments), daemon=True)
        self._process.start()
        there.close()  # so that the end of the process is the end of the pipe
        try:
            self.url: str = here.recv()
        except EOFError:
            raise EngineError(f"{target.__name__} ended before it was there: see its own lines above") from None
        self._pipe = here

    def ask(self) -> Any:
        """What the process answers to a word."""
        self._pipe.send(None)
        return self._pipe.recv()

    def __enter__(self) -> str:
        return self.url

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
