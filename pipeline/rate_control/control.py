"""The controller of one stream: measures the link, predicts when it is free, chooses a rung. See the package."""

from __future__ import annotations

import math
import statistics
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.rate_control.least_delay import LeastDelay
from pipeline.rate_control.rungs import RateChoice, Rung

FILL: Final = 0.8
"""Share of the estimated rate that a higher rung may use: frame sizes vary, and queues grow beyond it."""
OVERFULL: Final = 0.98
"""Share of the estimated rate beyond which the rung is too high."""
AGE_SHARE_MAX: Final = 0.4
"""Share of the budget that the link may spend on one frame."""
SAMPLES: Final = 7
"""Frames that the estimate is the median of."""
SAMPLE_S_MAX: Final = 2.0
"""Samples older than this say nothing about now."""
START_SAMPLES: Final = 4
"""Answers before the first choice, and after a rise before the next: until then the lowest rung, and the new one."""
HOLD_S: Final = 0.35
"""How long a higher rung must fit before it is taken."""
HOLD_S_MAX: Final = 8.0
REGRET_S: Final = 3.0
"""A rung that is given up within this after it was taken was a mistake: the hold doubles."""
SLACK_S: Final = 0.03
"""An answer may be this late besides what was seen of its scatter."""
PROBE_S: Final = 0.2
PROBE_S_MAX: Final = 0.4
"""First and largest gap between probes of a link that stands still."""
GONE_S: Final = 2.0
"""A flight without answer for this long is forgotten."""
LEAD_S_MAX: Final = 0.02
"""How long before the link is free the next frame may leave, at most; less where frames are short."""
SERVICE_S_MIN: Final = 0.0005
"""Shorter services cannot be told from scatter."""
SERIAL_SHARE_MAX: Final = 0.1
"""Share of the frame rate that a rung may cost where the server's credit makes frames wait for each other."""
LOSS_SMOOTHING: Final = 0.03
FAILURE_MAX: Final = 0.08
"""Where frames go in parts, each of which may be lost: share of frames that a rung may fail beyond the lowest one."""


@dataclass(slots=True)
class _Flight:
    size: int
    first_bytes: int
    sent_at: float
    left_at: float
    due_at: float


class RateControl:
    """Chooses for one stream. Belongs to the session's thread; `choice`, `choice_at` and `turn_at` are for any.

    `ladder` in any order, at least one rung; `fps_max` what the source gives or the user wants; `budget_s` the age at
    which an answer is no longer wanted.
    """

    def __init__(self, ladder: Sequence[Rung], *, fps_max: float = 30.0, budget_s: float = 0.5) -> None:
        if not ladder:
            raise ValueError("a ladder needs at least one rung")
        self.ladder = tuple(sorted(ladder, key=lambda rung: rung.bytes_mean))
        self.fps_max = fps_max
        self.budget_s = budget_s
        self.switches = 0
        """How often the rung changed."""
        self.loss = 0.0
        """Smoothed share of frames that got lost, or of which too little arrived."""
        self.part_bytes = 0
        """Frames go in parts of so many bytes; 0: whole."""
        self._rung = 0
        self._starved = 0.0  # share of frames that used the last credit there was
        self._probe_s = PROBE_S
        self._credit = 1
        self._slot_at = -math.inf  # when `fps_max` allows the next frame; late ones do not slow the rhythm
        self._growth = 1.0  # bytes on the wire over the rung's `bytes_mean`: references make it small
        self._flights: OrderedDict[int, _Flight] = OrderedDict()
        self._forget_path()
        self._schedule = (-math.inf, math.inf, math.inf, -math.inf)
        self.choice = self._lowest = self._chosen()

    # --- From the session -------------------------------------------------------------------------------------

    def opened(self, now: float) -> None:
        """Another connection: another way, and nothing is known of it."""
        self._flights.clear()
        self._forget_path()
        self._take(0)
        self._plan()

    def pinged(self, sent_at: float, received_at: float, now: float) -> None:
        """A small message took this long one way; `received_at` is on the server's clock."""
        delay_s = received_at - sent_at
        self._least.add(delay_s, now)
        least = self._least.value
        assert least is not None
        self._jitter_s += 0.1 * (delay_s - least - self._jitter_s)

    def sent(self, frame: int, size: int, now: float, *, first_bytes: int = 0) -> None:
        """`frame` left with `size` bytes on the wire, the first message of it with `first_bytes` (0: all)."""
        self._note_rhythm(now)
        self._starved += 0.1 * ((self._credit <= 1) - self._starved)
        self._growth += 0.2 * (size / max(1.0, self.ladder[self._rung].bytes_mean) - self._growth)
        self._last_sent_at = now
        interval = 1.0 / self.fps_max
        self._slot_at = max(self._slot_at, now - 0.5 * interval) + interval
        self._flights[frame] = _Flight(size, first_bytes or size, now, now, math.inf)
        self._predict()
        if self._schedule[1] < now:
            self._probe_s = min(self._probe_s * 2, PROBE_S_MAX)
            self._plan()

    def acknowledged(self, frame: int, received_at: float, now: float) -> None:
        """An answer to `frame` came; the server had the frame at `received_at` on its own clock."""
        flight = self._flights.get(frame)
        if flight is None:
            return
        stood_still = now > flight.due_at
        passed = self._pass_over(frame, flight)
        self._note_fate(failed=False)
        self._least.add(received_at - flight.sent_at, now)
        least = self._least.value
        assert least is not None
        self._probe_s = PROBE_S
        self._measure(flight, received_at - least, passed, now, afresh=stood_still)
        self._predict()
        self._decide(now)

    def credited(self, frames: int) -> None:
        """So many frames may be sent before the server must say more."""
        if frames != self._credit:
            self._credit = frames
            self._plan()

    def refused(self, frame: int, now: float, *, undecodable: bool) -> None:
        """The server dropped `frame`: the link is alive, but how fast it is, this does not say."""
        if self._flights.pop(frame, None) is None:
            return
        for earlier in [one for one, flight in self._flights.items() if one < frame and flight.due_at < now]:
            del self._flights[earlier]  # lost; a refusal may overtake answers that are still computed
            self._note_fate(failed=True)
        self._note_fate(failed=undecodable)
        self._probe_s = PROBE_S
        self._predict()

    # --- To the session and the node --------------------------------------------------------------------------

    def send_at(self, now: float) -> float:
        """When the next frame may leave: now or earlier, it may."""
        while self._flights and now - next(iter(self._flights.values())).sent_at > GONE_S:
            self._flights.popitem(last=False)
        if self._schedule[2] < now and self._rung:
            self._forget_path(keep_delay=True)
            self._take(0)
        self._plan()
        return self.turn_at(now)

    def turn_at(self, now: float) -> float:
        """As `send_at`, for other threads: when the frame that is encoded next could leave."""
        open_at, due_at, _, probe_at = self._schedule
        return probe_at if due_at < now else open_at

    def choice_at(self, now: float) -> RateChoice:
        """`choice`, or the lowest rung if the link stands still: what to encode now. From any thread."""
        return self._lowest if self._schedule[2] < now else self.choice

    def room(self, size: float) -> float:
        """How many bursts of `size` bytes the link takes in the time of one frame; inf as long as nobody knows."""
        if self._rate is None:
            return math.inf
        return self._rate * max(1.0 / self.fps_max, self._rhythm_s) / max(1.0, size)

    @property
    def rate_kbps(self) -> float | None:
        """The estimated rate of the link, in kbit/s."""
        return None if self._rate is None else self._rate * 8 / 1000.0

    # --- Measuring --------------------------------------------------------------------------------------------

    def _forget_path(self, *, keep_delay: bool = False) -> None:
        if not keep_delay:
            self._least = LeastDelay()
            self._jitter_s = 0.0
            self._rest_s, self._rest_scatter_s = 0.2, 0.05  # what a flight takes besides the bottleneck
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)
        self._rate: float | None = None
        self._needed = START_SAMPLES  # before the rung may fall
        self._free_at = -math.inf
        self._last_left = -math.inf
        self._last_sent_at = -math.inf if not keep_delay else self._last_sent_at
        self._rhythm_s = 0.0
        self._probe_s = PROBE_S
        self._fits_since: float | None = None
        self._hold_s = HOLD_S
        self._risen_at = -math.inf
        self._fallen_at = -math.inf

    def _pass_over(self, frame: int, flight: _Flight) -> int:
        """Forget `frame` and the flights before it (lost, or their answers are); the bytes that were ahead of it."""
        ahead, lost = 0, 0
        while (first := next(iter(self._flights))) != frame:
            gone = self._flights.pop(first)
            lost += 1
            if gone.left_at > flight.sent_at:
                ahead += gone.size
        del self._flights[frame]
        for _ in range(lost):
            self._note_fate(failed=True)
        return ahead

    def _measure(self, flight: _Flight, left: float, ahead: int, now: float, *, afresh: bool) -> None:
        service = left - max(flight.sent_at, self._last_left)
        if flight.sent_at >= self._last_left:
            service -= min(self._jitter_s, 0.5 * service)
        service = max(service, SERVICE_S_MIN)
        if afresh:
            self._samples.clear()  # the link stood still since: it is another one now
            self._needed = 2  # one may have been held up by a repeated packet
        while self._samples and now - self._samples[0][0] > SAMPLE_S_MAX:
            self._samples.popleft()
        self._samples.append((now, (flight.first_bytes + ahead) / service))
        self._rate = statistics.median(rate for _, rate in self._samples)
        self._last_left = left + (flight.size - flight.first_bytes) / self._rate
        rest = max(0.0, now - self._last_left)
        self._rest_scatter_s += 0.25 * (abs(rest - self._rest_s) - self._rest_scatter_s)
        self._rest_s += 0.125 * (rest - self._rest_s)

    def _note_fate(self, *, failed: bool) -> None:
        self.loss += LOSS_SMOOTHING * (failed - self.loss)

    def _failures(self, rung: int) -> float:
        """Share of frames that this rung would lose beyond what the lowest one loses, by its parts."""
        if not self.part_bytes:
            return 0.0
        parts = [math.ceil(self._bytes(one) / self.part_bytes) for one in (0, self._rung, rung)]
        return self.loss * (parts[2] - parts[0]) / parts[1]

    def _note_rhythm(self, now: float) -> None:
        """How far apart frames would be if the link took no time: the pace of source, encoder and server."""
        interval = 1.0 / self.fps_max
        idle = now - max(self._free_at, self._last_sent_at)
        observed = idle if interval < idle < 1.0 else interval
        self._rhythm_s += 0.2 * (observed - self._rhythm_s)

    def _service_s(self) -> float:
        """What the bottleneck will spend on the next frame."""
        return 0.0 if self._rate is None else self._bytes(self._rung) / self._rate

    # --- Predicting -------------------------------------------------------------------------------------------

    def _predict(self) -> None:
        """When each flight has left, when its answer is due, and when the link is free."""
        free = self._last_left
        patience = self._rest_s + 4 * self._rest_scatter_s + SLACK_S
        for flight in self._flights.values():
            service = flight.size / self._rate if self._rate else 0.0
            free = flight.left_at = max(free, flight.sent_at) + service
            flight.due_at = free + patience + service
        self._free_at = free
        self._plan()

    def _plan(self) -> None:
        """(when the link takes a frame, when one answer is overdue, when two are, when the link is probed then)."""
        lead = min(LEAD_S_MAX, 0.5 * self._service_s())
        due = [flight.due_at for flight, _ in zip(self._flights.values(), range(2), strict=False)]
        due_at, second_at = [*due, math.inf, math.inf][:2]
        probe_at = self._last_sent_at + self._probe_s
        open_at = max(self._free_at - lead, self._slot_at)
        first = next(iter(self._flights.values()), None)
        if self._credit == 0 and first is not None:
            open_at = max(open_at, first.left_at + self._rest_s)  # the next answer brings credit
        self._schedule = (open_at, due_at, second_at, probe_at)

    # --- Choosing ---------------------------------------------------------------------------------------------

    def _bytes(self, rung: int) -> float:
        return self.ladder[rung].bytes_mean * self._growth

    def _fits(self, rung: int, share: float) -> bool:
        assert self._rate is not None
        interval = max(1.0 / self.fps_max, self._rhythm_s)
        service = self._bytes(rung) / self._rate
        if self._failures(rung) > FAILURE_MAX * share:
            return False
        if self._starved > 0.5 and interval > 1.3 / self.fps_max:
            # Each frame waits for the answer to the one before, so the time on the link comes on top.
            least = self._bytes(0) / self._rate
            if service - least > SERIAL_SHARE_MAX * (interval + least):
                return False
        return service <= share * interval and service <= AGE_SHARE_MAX * self.budget_s

    def _decide(self, now: float) -> None:
        if self._rate is not None and len(self._samples) >= self._needed:
            rungs = range(len(self.ladder))
            best = max((rung for rung in rungs if self._fits(rung, FILL)), default=0)
            if best > self._rung:
                self._rise(best, now)
            else:
                self._fits_since = None
                if best < self._rung and not self._fits(self._rung, OVERFULL):
                    self._fall(best, now)
        self.choice = self._chosen()

    def _rise(self, best: int, now: float) -> None:
        if self._fits_since is None or len(self._samples) < START_SAMPLES:
            self._fits_since = now
        if now - self._fallen_at > 2 * REGRET_S:
            self._hold_s = HOLD_S
        if now - self._fits_since >= self._hold_s:
            self._risen_at = now
            self._samples.clear()  # those of smaller frames would judge the larger ones too harshly
            self._needed = START_SAMPLES
            self._take(best)

    def _fall(self, best: int, now: float) -> None:
        if now - self._risen_at < REGRET_S:
            self._hold_s = min(2 * self._hold_s, HOLD_S_MAX)
        self._fallen_at = now
        self._take(best)

    def _take(self, rung: int) -> None:
        if rung != self._rung:
            self.switches += 1
            self._rung = rung
        self._fits_since = None
        self.choice = self._chosen()

    def _chosen(self) -> RateChoice:
        rung = self.ladder[self._rung]
        fps = self.fps_max
        if self._rate is not None:
            fps = min(fps, 1.0 / max(self._rhythm_s, 1e-3), self._rate / self._bytes(self._rung))
        return RateChoice(self._rung, rung.encode, rung.name, rung.loss_points, fps, self.rate_kbps)
