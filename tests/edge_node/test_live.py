"""A live source that vanishes and comes back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edge_node.live import RETRY_S, LiveSource
from pipeline.clock import VirtualClock
from pipeline.errors import InputError
from pipeline.frame import Picture

PIXEL = np.zeros((1, 1, 3), np.uint8)


class Device:
    """Connections as scripted: a number of pictures, then gone; an InputError: cannot be opened."""

    def __init__(self, *script: int | InputError) -> None:
        self.script = list(script)
        self.clock = VirtualClock()
        self.pauses: list[float] = []
        self.lines: list[str] = []
        self.closed = 0

    def connect(self) -> Iterator[Picture]:
        step = self.script.pop(0)
        if isinstance(step, InputError):
            raise step
        return self._pictures(step)

    def _pictures(self, count: int) -> Iterator[Picture]:
        try:
            for _ in range(count):
                yield PIXEL, None
        finally:
            self.closed += 1

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.clock.advance(seconds)
        return False

    def source(self) -> LiveSource:
        return LiveSource("camera 0", 30.0, self.connect, self.lines.append, wait=self.wait, clock=self.clock)


def take(source: LiveSource, count: int) -> int:
    """Read `count` pictures, then close."""
    taken = 0
    for _ in source:
        taken += 1
        if taken == count:
            source.close()
    return taken


def test_a_source_that_is_not_there_is_an_error_at_start() -> None:
    """Not an endless wait."""
    with pytest.raises(InputError, match="no camera"):
        Device(InputError("no camera")).source()


def test_a_lost_source_is_waited_for_and_goes_on() -> None:
    """What happened is said once each: lost, and back with the time it took."""
    device = Device(2, InputError("gone"), InputError("gone"), 3)
    assert take(device.source(), 5) == 5
    assert device.lines == [
        "camera 0 is lost (no more frames): waiting for it to come back",
        "camera 0 is back after 3.5 s",
    ]
    assert device.pauses == [0.5, 1.0, 2.0]


def test_pauses_grow_to_the_last_one() -> None:
    """And stay there."""
    device = Device(1, *[InputError("gone")] * 6, 1)
    take(device.source(), 2)
    assert device.pauses == [*RETRY_S, RETRY_S[-1], RETRY_S[-1], RETRY_S[-1]]


def test_a_connection_is_closed_before_the_next_one() -> None:
    """A camera can be opened once only."""
    device = Device(1, 1, 1)
    take(device.source(), 3)
    assert device.closed == 3


def test_closing_while_waiting_ends_it() -> None:
    """The wait is woken and nothing is opened any more."""
    device = Device(1)
    source = device.source()
    pictures = iter(source)
    next(pictures)

    def closing_wait(seconds: float) -> bool:
        source.close()
        return True

    source._wait = closing_wait
    assert list(pictures) == []
