"""A server as a child process, for commands that need one for a while: the demo, replays without `--server`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console

from pipeline.errors import EngineError, TransportError

START_TIMEOUT_S = 600.0
"""The first start exports the backbones, which takes a while on a small machine."""
STOP_TIMEOUT_S = 10.0
_ENDS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that end this process at once, where nothing else is said: the server would stay behind."""


class ServerProcess:
    """`frankenstream serve` on a free loopback port. Use as a context manager; `url` is valid inside.

    `arguments` are further flags of `serve`. Its log goes to a file, shown only if it fails. While it runs, SIGTERM
    and SIGHUP are a KeyboardInterrupt here (in the main thread, and where nobody else listens to them).
    """

    def __init__(self, arguments: Sequence[str] = (), *, console: Console) -> None:
        self.url = ""
        self._arguments = list(arguments)
        self._console = console
        self._process: subprocess.Popen[bytes] | None = None
        self._listening: list[int] = []
        self._folder = tempfile.TemporaryDirectory(prefix="frankenstream-")

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        announce = folder / "addresses"
        # -P: a tasks.py in the user's folder must not stand in for ours.
        command = [sys.executable, "-P", "-m", "frankenstream", "serve", "--listen", "tcp://127.0.0.1:0", "--http", ""]
        self._listen()
        try:
            with (folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [*command, "--announce", str(announce), *self._arguments],
                    stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    # Ctrl-C is the parent's: it ends the stream first and this process after it.
                    start_new_session=True,
                )  # fmt: skip
            self._await(announce, folder / "log")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """SIGTERM, then SIGKILL if it does not end in time. Idempotent."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                pass
            finally:  # also where the user does not want to wait
                process.kill()
                process.wait()
        while self._listening:
            signal.signal(self._listening.pop(), signal.SIG_DFL)
        self._folder.cleanup()

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _ENDS:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _interrupt)
                self._listening.append(number)

    def _await(self, announce: Path, log: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        with self._console.status("starting the server (the first start exports the backbones) …") as status:
            while not announce.exists():
                if self._process.poll() is not None:
                    raise EngineError(_last_words(log))
                if time.monotonic() > deadline:
                    raise TransportError(
                        f"the server was not ready within {START_TIMEOUT_S:.0f} s: see `frankenstream serve`"
                    )
                if line := _last_line(log):
                    status.update(f"starting the server: {line}")
                time.sleep(0.05)
        self.url = announce.read_text().splitlines()[0]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1][:120] if lines else ""


def _last_words(log: Path) -> str:
    """What a server that ended said last; its errors are one line after its name."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line.partition("frankenstream:")[2].strip() for line in lines if line.startswith("frankenstream:")]
    return told[-1] if told else "the server ended at once: " + (os.linesep.join(lines[-3:]) or "without a word")
