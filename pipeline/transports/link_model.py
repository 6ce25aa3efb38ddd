"""A link as numbers: rate, delay, jitter, loss, reordering and a bounded queue; seeded, so a run can be repeated.

Pure. `LinkModel` is the description, `Link` one direction of it at work. Reliable messages (channel `control`) are
never lost: a loss costs them the time of a retransmission; they stay in order.

Profiles. Rates are those of the FrankenSplit evaluation (BLE 0.27, 4G 12, Wi-Fi 54 Mbit/s) where it has them; LTE's
uplink and round trip are the medians of Huang et al., "A Close Examination of Performance and Power Characteristics
of 4G LTE Networks", MobiSys 2012 (13 Mbit/s down, 6 up, 70 ms); BLE's delay is a connection interval of 15 ms, within
the 7.5 ms to 4 s of the Bluetooth Core Specification. Jitter and loss are ours, chosen to be seen.

| profile | up kbit/s | down kbit/s | delay ms | jitter ms | loss | reorder | queue ms |
|---|---|---|---|---|---|---|---|
| lte | 6,000 | 13,000 | 35 | 10 | 0.1 % | 0 | 100 |
| wifi | 54,000 | 54,000 | 2 | 4 | 0.2 % | 0 | 50 |
| ble | 270 | 270 | 15 | 8 | 0.5 % | 0 | 50 |
| lossy | 2,000 | 2,000 | 20 | 15 | 5 % | 2 % | 100 |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LinkModel:
    """Both directions of a link. Rates in kbit/s (0: unlimited); delay is one way; probabilities are per message.

    `queue_ms` bounds what waits for the rate: while more is waiting, the link takes nothing. `duplicate` doubles
    messages (no profile does; tests do). `down_rate_kbps` None: as up.
    """

    rate_kbps: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    queue_ms: float = 100.0
    seed: int = 0
    down_rate_kbps: float | None = None
    duplicate: float = 0.0
    steps: tuple[tuple[float, float], ...] = ()
    """(seconds since the link's first message, kbit/s), in order: a trace. Both directions then have this rate; 0 is an
    outage, in which messages are lost and reliable ones wait for its end. Before the first step: as above."""

    packet_bytes: int = 0
    """`loss` is for each packet of so many bytes, and a message is lost with any of its packets; 0: per message."""

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "duplicate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"link {name} is {getattr(self, name)}, expected a probability from 0 to 1")
        for name in ("rate_kbps", "delay_ms", "jitter_ms", "queue_ms"):
            if getattr(self, name) < 0:
                raise ConfigError(f"link {name} is {getattr(self, name)}, expected 0 or more")
        if self.steps and (sorted(self.steps) != list(self.steps) or min(rate for _, rate in self.steps) < 0):
            raise ConfigError(f"link steps are {self.steps}: expected rising times and rates of 0 or more")
        if self.steps and self.steps[-1][1] == 0:
            raise ConfigError("the last step of a link is an outage: end it with a rate above 0")

    @classmethod
    def profile(cls, name: str, *, seed: int = 0) -> LinkModel:
        """One of PROFILES by name. Raises ConfigError."""
        if name not in PROFILES:
            raise ConfigError(f"link profile {name!r} is unknown, expected one of {', '.join(PROFILES)}")
        return replace(PROFILES[name], seed=seed)

    def up(self) -> Link:
        """The direction edge → server, fresh."""
        return Link(self, self.rate_kbps, Random(self.seed * 2))

    def down(self) -> Link:
        """The direction server → edge, fresh."""
        rate_kbps = self.rate_kbps if self.down_rate_kbps is None else self.down_rate_kbps
        return Link(self, rate_kbps, Random(self.seed * 2 + 1))


class SharedLink:
    """One link that several edges share: give the same object to each. What one sends, the others wait for."""

    def __init__(self, model: LinkModel) -> None:
        self.seed = model.seed
        self._up, self._down = model.up(), model.down()

    def up(self) -> Link:
        """The direction edge → server, the same one each time."""
        return self._up

    def down(self) -> Link:
        """The direction server → edge, the same one each time."""
        return self._down


class Link:
    """One direction at work. Times are monotonic seconds."""

    def __init__(self, model: LinkModel, rate_kbps: float, random: Random) -> None:
        self._model = model
        self._rate_kbps = rate_kbps
        self._random = random
        self._began: float | None = None
        self._free_at = float("-inf")
        self._last_arrival = float("-inf")
        self.lost = 0
        """Messages lost so far."""

    def ready_at(self, now: float) -> float:
        """When the link takes another message: now, or when its queue has room again."""
        return max(now, self._free_at - self._model.queue_ms / 1000.0)

    def carry(self, size: int, now: float, *, reliable: bool) -> list[float]:
        """When `size` bytes handed over now arrive: usually once, never if lost, twice if doubled."""
        model, random = self._model, self._random
        begins_at = max(now, self._free_at)
        if model.steps and not reliable and self._rate_at(begins_at)[0] == 0:
            self.lost += 1
            return []  # An outage: gone without a trace.
        self._free_at = self._served(size, begins_at)
        arrival = self._free_at + (model.delay_ms + random.uniform(0, model.jitter_ms)) / 1000.0
        packets = -(-size // model.packet_bytes) if model.packet_bytes else 1
        lost = random.random() < 1 - (1 - model.loss) ** packets
        if reliable:
            # A lost packet is noticed and sent again: about one round trip later.
            arrival += 2 * model.delay_ms / 1000.0 * lost
            return [self._in_order(arrival)]
        if lost:
            self.lost += 1
            return []
        if random.random() < model.reorder:
            # Falls behind by up to a delay and two jitters; those after it do not wait.
            arrivals = [arrival + random.uniform(0, model.delay_ms + 2 * model.jitter_ms) / 1000.0]
        else:
            arrivals = [self._in_order(arrival)]
        if random.random() < model.duplicate:
            arrivals.append(arrivals[0] + random.uniform(0, model.delay_ms + model.jitter_ms) / 1000.0)
        return arrivals

    def waiting_s(self, now: float) -> float:
        """How long what is in the queue will take."""
        return max(0.0, self._free_at - now)

    def _served(self, size: int, begins_at: float) -> float:
        """When the rate has taken `size` bytes that it begins with at `begins_at`."""
        bits, at = size * 8.0, begins_at
        while True:
            rate_kbps, until = self._rate_at(at)
            if rate_kbps > 0:
                done = at + bits / (rate_kbps * 1000)
                if done <= until:
                    return done
                bits -= (until - at) * rate_kbps * 1000
            elif not self._model.steps:
                return at  # Unlimited.
            at = until

    def _rate_at(self, at: float) -> tuple[float, float]:
        """(kbit/s, until when) at a time."""
        if self._began is None:
            self._began = at
        rate_kbps = self._rate_kbps
        for since, step_kbps in self._model.steps:
            if self._began + since > at:
                return rate_kbps, self._began + since
            rate_kbps = step_kbps
        return rate_kbps, float("inf")

    def _in_order(self, arrival: float) -> float:
        self._last_arrival = max(self._last_arrival, arrival)
        return self._last_arrival


PROFILES: Final[dict[str, LinkModel]] = {
    "lte": LinkModel(rate_kbps=6_000, down_rate_kbps=13_000, delay_ms=35, jitter_ms=10, loss=0.001, queue_ms=100),
    "wifi": LinkModel(rate_kbps=54_000, delay_ms=2, jitter_ms=4, loss=0.002, queue_ms=50),
    "ble": LinkModel(rate_kbps=270, delay_ms=15, jitter_ms=8, loss=0.005, queue_ms=50),
    "lossy": LinkModel(rate_kbps=2_000, delay_ms=20, jitter_ms=15, loss=0.05, reorder=0.02, queue_ms=100),
}
