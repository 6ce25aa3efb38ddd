"""The aims for lossy links, in virtual time: frames like those of the default bundle, answered by real sessions."""

from __future__ import annotations

import pytest

pytest.importorskip("aiortc")

from benchmarks.datagrams import row
from pipeline.codec.bitstream import Header, pack_header

SECONDS = 10.0
WORDS = (1_040, 240, 180, 130, 100, 80, 60, 50)
"""3.8 kB, more than half of it layer 0."""
FRAME = pack_header(Header(0, 28, 28, WORDS)) + bytes(2 * sum(WORDS))


def test_parity_meets_the_aim_at_three_percent() -> None:
    """98 % answered in time, and missing layers in so few of them that they cost less than a point."""
    figures = row("parts + parity", 0.03, [FRAME], SECONDS)
    assert len(FRAME) == pytest.approx(3_800, abs=50)
    assert figures["answered"] >= 0.98
    assert figures["whole"] >= 0.99
    assert figures["kbps"] <= 1.3 * row("parts", 0.03, [FRAME], SECONDS)["kbps"]


def test_a_frame_arrives_within_sixty_milliseconds() -> None:
    """At 1 % loss and 50 ms one way, at the median."""
    assert row("parts + parity", 0.01, [FRAME], SECONDS)["up_p50_ms"] <= 60


def test_heavy_loss_stalls_nothing() -> None:
    """At 10 % no gap between answers above 300 ms."""
    figures = row("parts + parity", 0.1, [FRAME], SECONDS)
    assert figures["stall_ms"] <= 300
    assert figures["answered"] >= 0.97


def test_a_clean_link_pays_nothing() -> None:
    """After the first seconds there is no parity any more."""
    protected, bare = (row(way, 0.0, [FRAME], SECONDS)["kbps"] for way in ("parts + parity", "parts"))
    assert protected <= 1.08 * bare
