"""Rate control: from what was sent and acknowledged to what is encoded next, and when it is sent. Pure, no timers.

The control law
---------------
Every frame is a burst of a few kB, so each answer is a measurement of the bottleneck, whether the link is full or not:

    left     when the frame had passed the bottleneck: its receipt minus the least one-way delay (of the last 10 s)
    service  left − max(sent, left of the frame before): the time that the bottleneck spent on it; for a frame that met
             an idle link less the mean jitter, as the pings show it
    rate     bytes / service; the *estimate* is the median of the last few

This is packet-pair measuring (Keshav, "A control-theoretic approach to flow control", SIGCOMM 1991) with BBR's two
filters (Cardwell et al., ACM Queue 14(5), 2016: least delay, delivery rate); one-way delays are taken relative to their
least, so clocks need no agreement (LEDBAT, RFC 6817). Where several edges share a queue, the time that the bottleneck
spends on the others counts as service, so each one's estimate is its share.

*When*: the newest flight's predicted `left` is when the link is free; the next frame leaves a little before. Each
answer corrects the prediction, so at most one frame waits in the link. An answer that is overdue (as a TCP timer would
say, RFC 6298) means that the link stands still: nothing more is sent into it but a probe now and then, twice as rarely
each time.

*What*: frames first, then quality. The ladder's rungs rise in bytes and fall in loss; the highest rung is taken that
uses at most FILL of the estimate at the full frame rate and does not age a frame too much. Down at once, up only after
it held for a while, and after an up that had to be taken back twice as long (the multiplicative part). Random loss
alone changes nothing: it says nothing about the rate (as in SCReAM, RFC 8298, and unlike AIMD on losses). Only where
frames go in parts does it count: a frame of more parts is lost more often.

Times are monotonic seconds, sizes bytes, rates bytes a second unless a name says kbit/s.
"""

from __future__ import annotations

import math
import statistics
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

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
BASE_WINDOW_S: Final = 10.0
"""How long a least one-way delay counts: the way may change."""
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


@dataclass(frozen=True, slots=True)
class EncodeChoice:
    """How a frame is to be encoded. `layers` None: all; `theta` None: the operating point's own."""

    operating_point: int
    layers: int | None = None
    theta: float | None = None


@dataclass(frozen=True, slots=True)
class Rung:
    """One setting with its measured price and loss, as the bundle says. `bytes_mean`: a frame that stands alone."""

    encode: EncodeChoice
    name: str
    bytes_mean: float
    loss_points: float | None = None
    """Points of top-1 below the unmodified backbone; None: not measured."""
    layer_loss_points: tuple[float, ...] = ()
    """The same where only the first 1, 2, … layers arrived; empty: not measured."""

    def loss_with(self, decoded_layers: int, sent_layers: int) -> float | None:
        """Expected loss of an answer from so many layers; None: not measured."""
        if decoded_layers >= sent_layers:
            return self.loss_points
        return self.layer_loss_points[decoded_layers - 1] if decoded_layers <= len(self.layer_loss_points) else None


@dataclass(frozen=True, slots=True)
class RateChoice:
    """What the controller wants now. `fps` is the frame rate that the link takes of it, `kbps` the estimated rate."""

    rung: int
    encode: EncodeChoice
    name: str
    expected_loss_points: float | None
    fps: float
    kbps: float | None
    """None: not known yet."""


@dataclass(slots=True)
class _Flight:
    size: int
    first_bytes: int
    sent_at: float
    left_at: float
    due_at: float


class LeastDelay:
    """The least of the samples of the last BASE_WINDOW_S (between one and two windows of half that length)."""

    def __init__(self) -> None:
        self._halves: deque[tuple[float, float]] = deque(maxlen=3)

    def add(self, delay_s: float, now: float) -> None:
        half = BASE_WINDOW_S / 2
        if not self._halves or now - self._halves[-1][0] >= half:
            self._halves.append((now, delay_s))
        elif delay_s < self._halves[-1][1]:
            self._halves[-1] = (self._halves[-1][0], delay_s)

    @property
    def value(self) -> float | None:
        return min((delay for _, delay in self._halves), default=None)


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


def pinned(
    ladder: Sequence[Rung], *, operating_point: int | None = None, layers: int | None = None, theta: float | None = None
) -> tuple[Rung, ...]:
    """The rungs that the user's choices leave. A pinned `layers` or `theta` that was not measured has no known loss."""
    kept = [rung for rung in ladder if operating_point in (None, rung.encode.operating_point)]
    changed = []
    for rung in kept:
        encode = replace(
            rung.encode,
            layers=rung.encode.layers if layers is None else layers,
            theta=rung.encode.theta if theta is None else theta,
        )
        loss = rung.loss_points
        if layers is not None:
            loss = rung.loss_with(layers, layers + 1)
        if theta is not None:
            loss = None
        changed.append(replace(rung, encode=encode, loss_points=loss))
    return tuple(dict.fromkeys(changed))


UNCHANGED_SHARE: Final = 0.001
"""A frame is not sent if at most this share of its symbols differs from its reference's: some 60 bytes of news."""


def hardly_changed(changed_share: float) -> bool:
    """Whether a frame says nothing worth sending: `changed_share` of its symbols differ from the answered frame's."""
    return changed_share <= UNCHANGED_SHARE
