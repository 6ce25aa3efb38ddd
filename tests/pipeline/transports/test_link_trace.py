"""Links whose rate changes, outages, packets, and a link that several edges share."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.transports import LinkModel
from pipeline.transports.link_model import SharedLink


def test_the_rate_follows_its_steps() -> None:
    """1,000 bytes take 10 ms at 800 kbit/s and 20 ms at 400; what is begun before a step goes on at the new rate."""
    link = LinkModel(rate_kbps=800, steps=((1.0, 400.0),)).up()
    assert link.carry(1_000, 0.0, reliable=False) == [pytest.approx(0.01)]
    assert link.carry(1_000, 0.995, reliable=False) == [pytest.approx(1.005 + 0.005)]
    assert link.carry(1_000, 2.0, reliable=False) == [pytest.approx(2.02)]


def test_an_outage_takes_messages_and_delays_reliable_ones() -> None:
    """Frames are gone; control waits for the end."""
    link = LinkModel(rate_kbps=800, steps=((1.0, 0.0), (2.0, 800.0))).up()
    link.carry(1, 0.0, reliable=False)
    assert link.carry(1_000, 1.5, reliable=False) == []
    assert link.carry(1_000, 1.5, reliable=True) == [pytest.approx(2.01)]
    assert link.lost == 1


def test_a_message_is_lost_with_any_of_its_packets() -> None:
    """10 % of packets: a message of five is lost four times in ten."""
    link = LinkModel(loss=0.1, packet_bytes=1_000).up()
    lost = sum(not link.carry(5_000, float(number), reliable=False) for number in range(2_000))
    assert 730 < lost < 910


def test_edges_of_a_shared_link_wait_for_each_other() -> None:
    """The same object both ways, and one queue."""
    shared = SharedLink(LinkModel(rate_kbps=800))
    assert shared.up() is shared.up()
    shared.up().carry(1_000, 0.0, reliable=False)
    assert shared.up().waiting_s(0.0) == pytest.approx(0.01)
    assert shared.down().waiting_s(0.0) == 0.0


def test_wrong_steps_are_told() -> None:
    """Order, sign, and an end that never comes."""
    with pytest.raises(ConfigError, match="rising times"):
        LinkModel(steps=((2.0, 1.0), (1.0, 1.0)))
    with pytest.raises(ConfigError, match="last step of a link is an outage"):
        LinkModel(steps=((2.0, 0.0),))
