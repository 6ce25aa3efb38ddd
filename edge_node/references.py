"""Frames that both ends hold, so that a new one can be coded against them (DESIGN chapter 6).

A frame becomes a reference when the server's answer says how many of its layers decoded there. The newest one is used:
it is most like the next frame, and the server surely has it still. If the server does not know it after all, the frame
is `undecodable`, everything is forgotten here, and the next frame stands alone. So nothing that is lost spoils more
than itself, and no key frames are needed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from pipeline import limits
from pipeline.codec import Reference
from pipeline.codec.quantisation import Symbols

_SENT_KEPT = limits.FRAMES_IN_FLIGHT_MAX // 8
"""Symbols of frames under way that are kept until their answer comes (38 kB each)."""


class ReferenceShelf:
    """The references of one session, on the edge. Thread-safe. Empty until `open` names a window."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window = 0
        self._epoch = 0
        self._sent: OrderedDict[int, Symbols] = OrderedDict()
        self._newest: Reference | None = None

    def open(self, *, window: int, epoch: int) -> None:
        """A session was welcomed: the server keeps `window` references (0: none) of `epoch`. Others are forgotten."""
        with self._lock:
            if epoch != self._epoch or window == 0:
                self._forget()
            self._window, self._epoch = window, epoch

    def sent(self, frame: int, symbols: Symbols) -> None:
        """`frame` goes out with these symbols, int16 (C, H, W), which must not change any more."""
        with self._lock:
            if self._window:
                self._sent[frame] = symbols
                if len(self._sent) > _SENT_KEPT:
                    self._sent.popitem(last=False)

    def acknowledged(self, frame: int, layers: int) -> None:
        """The server decoded `layers` layers of `frame`."""
        with self._lock:
            symbols = self._sent.pop(frame, None)
            if symbols is None or layers < 1 or (self._newest is not None and self._newest.frame > frame):
                return
            self._newest = Reference(epoch=self._epoch, frame=frame, layers=layers, symbols=symbols)

    def dropped(self, frame: int, cause: str) -> None:
        """`frame` got no answer. If it was undecodable, perhaps because of its reference, nothing here is trusted."""
        with self._lock:
            self._sent.pop(frame, None)
            if cause == "undecodable":
                self._forget()

    def forget(self) -> None:
        """Nothing is coded against an earlier frame until a later one is acknowledged."""
        with self._lock:
            self._forget()

    def newest(self) -> Reference | None:
        """What the next frame is coded against; None: it stands alone."""
        with self._lock:
            return self._newest

    def _forget(self) -> None:
        self._sent.clear()
        self._newest = None
