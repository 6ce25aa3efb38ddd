"""Frame-paced replay: when each picture of a file is shown.

The decisions are pure (`Pacer`: media time and `now` in, the due time out); `replay` applies them to an iterable.

    realtime   at the file's own pace, by its time stamps (so a variable frame rate stays variable)
    fast       one after another, as fast as the reader takes them
    loop       starts over at the end; media time goes on
    lossless   is the reader's business (it waits instead of superseding): a replay that is late slides, never rushes
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.clock import Clock, monotonic
from pipeline.errors import InputError
from pipeline.frame import Picture

LATE_S_MAX = 0.25
"""Behind by more than this, a realtime replay slides its time axis instead of rushing to catch up, in seconds."""
GAP_S_MAX = 5.0
"""A jump of the time stamps beyond this counts as a break and costs one frame's time, in seconds."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How to replay. `realtime` False is fast; `loop` starts over at the end."""

    realtime: bool = True
    loop: bool = False


class Pacer:
    """Decides when a picture is due. Pure. The time axis slides where the reader or the decoder is too slow."""

    def __init__(self, pace: Pace, fps: float) -> None:
        assert fps > 0, fps
        self._pace = pace
        self._interval = 1.0 / fps
        self._previous: float | None = None
        self._due = 0.0

    def due(self, media_time: float | None, now: float) -> float:
        """The time at which a picture with `media_time` is to be shown; at or before `now`: at once.

        Pictures without a time follow each other at the nominal rate. Call once a picture, in order.
        """
        if not self._pace.realtime:
            return now
        if self._previous is None:
            self._due = now
        else:
            self._due += self._step(media_time)
            if now - self._due > LATE_S_MAX:
                self._due = now
        self._previous = media_time if media_time is not None else (self._previous or 0.0) + self._interval
        return self._due

    def _step(self, media_time: float | None) -> float:
        assert self._previous is not None
        if media_time is None:
            return self._interval
        step = media_time - self._previous
        return step if 0.0 <= step <= GAP_S_MAX else self._interval


def replay(
    pictures: Iterable[Picture],
    pace: Pace,
    *,
    fps: float,
    clock: Clock = monotonic,
    wait: Callable[[float], bool],
) -> Iterator[Picture]:
    """`pictures` at their pace, media time growing across loops.

    `pictures` is iterated again for every loop. `wait(seconds)` sleeps and is True when the replay is to end. Raises
    InputError as `pictures` does, and where a loop has nothing to show.
    """
    pacer = Pacer(pace, fps)
    offset = 0.0
    while True:
        last = None
        for pixels, media_time in pictures:
            last = offset + media_time if media_time is not None else (0.0 if last is None else last + 1.0 / fps)
            pause = pacer.due(last, now := clock()) - now
            if pause > 0 and wait(pause):
                return
            yield pixels, last
        if not pace.loop:
            return
        if last is None:
            raise InputError("nothing to replay: the source has no frames")
        offset = last + 1.0 / fps
