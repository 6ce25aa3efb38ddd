"""A server as a child process: whatever ends this process in order ends that one too."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from frankenstream.server_process import ServerProcess


class Child:
    """A process that ends when it is told to; `deaf`: only when it is killed."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.signals: list[int] = []
        self._deaf = deaf

    def poll(self) -> int | None:
        return 0 if self.signals and (not self._deaf or signal.SIGKILL in self.signals) else None

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def kill(self) -> None:
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            raise subprocess.TimeoutExpired("serve", timeout or 0.0)
        return 0


@pytest.fixture
def handlers() -> Iterator[None]:
    """pytest's own handlers stay out of it."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, handlers: None) -> Child:
    made = Child()
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: made)
    return made


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_server_starts_ends_it(
    child: Child, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The first start exports for minutes, before the run has handlers of its own."""
    monkeypatch.setattr(ServerProcess, "_await", lambda self, announce, log: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt), ServerProcess(console=Console(quiet=True)):
        raise AssertionError("it has not started")
    assert child.signals == [signal.SIGTERM]
    assert signal.getsignal(number) == signal.SIG_DFL


def test_signals_that_are_somebody_elses_stay_theirs(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """nohup ignores SIGHUP."""
    monkeypatch.setattr(ServerProcess, "_await", lambda self, announce, log: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ServerProcess(console=Console(quiet=True)):
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_server_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, handlers: None) -> None:
    deaf = Child(deaf=True)
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: deaf)
    monkeypatch.setattr(ServerProcess, "_await", lambda self, announce, log: None)
    with ServerProcess(console=Console(quiet=True)):
        pass
    assert deaf.signals == [signal.SIGTERM, signal.SIGKILL]
