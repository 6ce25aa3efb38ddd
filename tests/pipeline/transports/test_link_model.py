"""LinkModel: seeded, in order unless told otherwise, and with the rate that it says."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.transports import PROFILES, LinkModel


def arrivals(model: LinkModel, count: int = 2000, gap: float = 0.01, *, reliable: bool = False) -> list[list[float]]:
    link = model.up()
    return [link.carry(1000, number * gap, reliable=reliable) for number in range(count)]


def test_rate_and_delay() -> None:
    """1000 bytes at 800 kbit/s take 10 ms, plus the delay."""
    (first,), (second,) = arrivals(LinkModel(rate_kbps=800, delay_ms=5), 2, gap=0.0)
    assert (round(first, 6), round(second, 6)) == (0.015, 0.025)


def test_full_queue_takes_nothing() -> None:
    """What waits is bounded in time."""
    link = LinkModel(rate_kbps=800, queue_ms=20).up()
    for _ in range(3):
        link.carry(1000, 0.0, reliable=False)
    assert round(link.ready_at(0.0), 6) == 0.01


def test_loss_has_its_probability() -> None:
    """About as many as said; reliable messages are late instead."""
    lost = sum(not arrival for arrival in arrivals(LinkModel(loss=0.1, delay_ms=10)))
    assert 150 < lost < 250
    assert all(arrivals(LinkModel(loss=0.1, delay_ms=10), reliable=True))


def test_order_holds_without_reordering() -> None:
    """Jitter alone overtakes nothing."""
    times = [arrival[0] for arrival in arrivals(LinkModel(jitter_ms=50))]
    assert times == sorted(times)
    times = [arrival[0] for arrival in arrivals(LinkModel(jitter_ms=50, reorder=0.2))]
    assert times != sorted(times)


@pytest.mark.parametrize("name", list(PROFILES))
def test_profiles_can_be_repeated(name: str) -> None:
    """Same seed, same link; another seed, another."""
    assert arrivals(LinkModel.profile(name, seed=1), 100) == arrivals(LinkModel.profile(name, seed=1), 100)
    assert arrivals(LinkModel.profile(name, seed=1), 100) != arrivals(LinkModel.profile(name, seed=2), 100)


def test_wrong_settings_are_told() -> None:
    """One line, with the value and what is expected."""
    with pytest.raises(ConfigError, match="'5g' is unknown, expected one of lte, wifi, ble, lossy"):
        LinkModel.profile("5g")
    with pytest.raises(ConfigError, match="link loss is 2, expected a probability"):
        LinkModel(loss=2)
