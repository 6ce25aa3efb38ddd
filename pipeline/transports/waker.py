"""Waking a thread that waits in a poll, from any other thread."""

from __future__ import annotations

import contextlib
import socket


class Waker:
    """A socket pair: `wake` makes the readable end readable; many wakes before `clear` cost one system call.

    Not a ZeroMQ inproc socket, since those belong to one thread each.
    """

    def __init__(self) -> None:
        self._readable, self._writable = socket.socketpair()
        self._readable.setblocking(False)
        self._writable.setblocking(False)
        self._signalled = False

    def fileno(self) -> int:
        """What to poll."""
        return self._readable.fileno()

    def wake(self) -> None:
        """Thread-safe."""
        if self._signalled:
            return
        self._signalled = True
        # Full: it is readable then anyway. Closed: nobody waits any more.
        with contextlib.suppress(OSError):
            self._writable.send(b"\0")

    def clear(self) -> None:
        """Called by the woken thread *before* it looks at what it was woken for.

        Drained first, then marked: the other way round, a wake in between would lose its byte and keep its mark, and
        no later one would ever send again. A wake between the two sends nothing, but what it is for is there already.
        """
        with contextlib.suppress(OSError):
            while self._readable.recv(64):
                pass
        self._signalled = False

    def close(self) -> None:
        """No more waking."""
        self._readable.close()
        self._writable.close()
