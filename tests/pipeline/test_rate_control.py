"""Rate control on its own and over simulated links in virtual time: quick, steady, fair, never far from the best."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.simulated_stream import Run, SimulatedEdge, SimulatedServer, stream
from pipeline.rate_control import (
    UNCHANGED_SHARE,
    EncodeChoice,
    LeastDelay,
    RateControl,
    Rung,
    hardly_changed,
    pinned,
)
from pipeline.transports.link_model import LinkModel, SharedLink
from pipeline.transports.memory import MemoryNetwork
from pipeline.wire.messages import Welcome

LADDER = (
    Rung(EncodeChoice(0), "low", 1_692.0, 10.9),
    Rung(EncodeChoice(1), "standard", 4_067.0, 8.3),
    Rung(EncodeChoice(2), "high", 5_295.0, 7.9),
)
"""The default bundle's table."""
LTE = LinkModel(rate_kbps=6_000, delay_ms=35, jitter_ms=10, seed=1)
SECONDS = 8.0


class NullCoder:
    """Payloads of realistic sizes, scattered around the rung's mean; frames in `still` repeat the answer before."""

    kind = "bitstream"
    encode_s, decode_s = 0.006, 0.001

    def __init__(self, *, seed: int = 0, share: float = 1.0, server_s: float = 0.012, still: range = range(0)) -> None:
        self.server_s = server_s
        self._random = random.Random(seed)
        self._share = share
        self._still = still
        self._answered = -1

    def encode(self, frame: int, choice: EncodeChoice) -> bytes | int:
        if frame in self._still and self._answered >= 0:
            return self._answered
        mean = LADDER[choice.operating_point].bytes_mean * self._share
        return bytes(max(40, round(mean * (1 + 0.15 * self._random.gauss(0, 1)))))

    def decode(self, frame: int, payload: bytes) -> tuple[int, int]:
        return 8, 8

    def opened(self, welcome: Welcome) -> None: ...

    def answered(self, frame: int, decoded_layers: int) -> None:
        self._answered = frame

    def dropped(self, frame: int, cause: str) -> None: ...


class WholeCoder(NullCoder):
    """Decodes nothing of a frame that is not whole."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}

    def encode(self, frame: int, choice: EncodeChoice) -> bytes | int:
        payload = super().encode(frame, choice)
        assert isinstance(payload, bytes)
        self._sizes[frame] = len(payload)
        return payload

    def decode(self, frame: int, payload: bytes) -> tuple[int, int] | None:  # type: ignore[override]
        return (8, 8) if len(payload) == self._sizes[frame] else None


def controlled(link: LinkModel, *, seconds: float = SECONDS, ladder: tuple[Rung, ...] = LADDER, **options: Any) -> Run:
    control = RateControl(ladder, fps_max=options.pop("fps_max", 30.0))
    return stream(options.pop("coder", NullCoder()), link, control=control, seconds=seconds, **options)


def rung_at(run: Run, at: float) -> int:
    """The rung in use at a time of the stream."""
    return [choice.rung for when, choice in run.choices if when <= at][-1]


def switches(run: Run) -> int:
    rungs = [choice.rung for _, choice in run.choices]
    return sum(before != after for before, after in itertools.pairwise(rungs))


TRACES = {
    "lte": LinkModel.profile("lte", seed=1),
    "wifi": LinkModel.profile("wifi", seed=1),
    "ble": LinkModel.profile("ble", seed=1),
    "lossy": LinkModel.profile("lossy", seed=1),
    "steps": replace(LTE, steps=((2.0, 1_500.0), (4.0, 700.0), (6.0, 6_000.0), (7.5, 300.0))),
    "blackout": replace(LTE, steps=((3.0, 0.0), (4.5, 6_000.0))),
}


@pytest.mark.parametrize("name", list(TRACES))
def test_it_is_never_far_from_the_best_fixed_setting(name: str) -> None:
    """At least 90 % of the answers of the best fixed setting; ages up to the one large frame that a fall catches."""
    run = controlled(TRACES[name])
    fixed = [stream(NullCoder(), TRACES[name], fixed=rung.encode, seconds=SECONDS) for rung in LADDER]
    assert run.answered >= 0.9 * max(one.answered for one in fixed)
    best = max(fixed, key=lambda one: one.answered)
    assert np.percentile(run.ages_ms(1.0), 95) <= np.percentile(best.ages_ms(1.0), 95) + 100


@pytest.mark.parametrize("name", ["lte", "wifi", "ble", "lossy"])
def test_it_is_steady_where_the_link_is(name: str) -> None:
    """From the lowest rung it only rises, and each rung is taken once."""
    rungs = [choice.rung for _, choice in controlled(TRACES[name]).choices]
    assert rungs == sorted(rungs)


def test_it_uses_what_the_link_has() -> None:
    """Highest rung on LTE and Wi-Fi, lowest on BLE, where already that one fills the link."""
    assert {name: rung_at(controlled(TRACES[name]), SECONDS) for name in ("lte", "wifi", "ble")} == {
        "lte": 2, "wifi": 2, "ble": 0,
    }  # fmt: skip


def test_a_new_rate_is_reached_within_a_second() -> None:
    """6 Mbit/s fall to 400 kbit/s and come back: the rung follows within 1 s, both times (the stream begins at 0.5)."""
    run = controlled(replace(LTE, steps=((3.5, 400.0), (6.0, 6_000.0))), seconds=7.5)
    assert (rung_at(run, 3.0), rung_at(run, 4.0), rung_at(run, 5.4), rung_at(run, 6.5)) == (2, 0, 0, 2)


@pytest.mark.parametrize("name", ["lte", "wifi", "ble", "lossy", "steps"])
def test_at_most_one_frame_waits_in_the_link(name: str) -> None:
    """Whatever is sent finds at most one frame that is not through: what waits is no more than two frames' time."""
    run = controlled(TRACES[name])
    slowest = {"lte": 6_000, "wifi": 54_000, "ble": 270, "lossy": 2_000, "steps": 300}[name]
    frame_s = 1.5 * max(size for _, _, size in run.backlog_bytes) * 8 / 1_000 / slowest
    assert max(waiting for _, waiting, _ in run.backlog_bytes) <= 2 * frame_s


def test_results_stay_young() -> None:
    """Age of the newest result, p95: no more than the link's round trip, a few frames and the server's time."""
    ages = {name: float(np.percentile(controlled(TRACES[name]).ages_ms(1.0), 95)) for name in ("lte", "wifi", "ble")}
    assert ages["lte"] <= 160
    assert ages["wifi"] <= 80
    assert ages["ble"] <= 230


def test_a_blackout_ends_as_soon_as_it_is_over() -> None:
    """Answers come again within 0.6 s of its end, and until then next to nothing is sent into it."""
    run = controlled(TRACES["blackout"])
    assert run.answered_between(4.6, 5.6) >= 28
    assert sum(3.1 <= at < 4.0 for at, _, _ in run.backlog_bytes) <= 6


def test_random_loss_alone_changes_nothing() -> None:
    """5 % loss says nothing about the rate: the rung is that of the link without loss."""
    lossless, lossy = (LinkModel(rate_kbps=2_000, delay_ms=20, jitter_ms=5, loss=loss, seed=3) for loss in (0.0, 0.05))
    assert rung_at(controlled(lossy), SECONDS) == rung_at(controlled(lossless), SECONDS) == 2


@pytest.mark.parametrize("loss", [0.02, 0.1])
def test_lost_parts_count_where_frames_go_in_parts(loss: float) -> None:
    """A frame of five packets is lost more often than one of two: with 10 % loss the lowest rung answers most."""
    link = LinkModel(rate_kbps=4_000, delay_ms=20, jitter_ms=5, loss=loss, packet_bytes=1_200, seed=5)
    run = controlled(link, part_bytes=1_200, coder=WholeCoder())
    low = stream(WholeCoder(), link, fixed=EncodeChoice(0), seconds=SECONDS, part_bytes=1_200)
    assert run.answered >= 0.9 * low.answered
    assert rung_at(run, SECONDS) <= (2 if loss == 0.02 else 1)


def test_references_let_the_rung_rise() -> None:
    """Frames that cost a quarter of their price leave room for a higher rung on the same link."""
    link = LinkModel(rate_kbps=450, delay_ms=15, jitter_ms=5, seed=1)
    assert rung_at(controlled(link), SECONDS) == 0
    assert rung_at(controlled(link, coder=NullCoder(share=0.25)), SECONDS) == 2


@pytest.mark.parametrize(("rate_kbps", "edges"), [(500.0, 2), (1_500.0, 3)])
def test_edges_share_a_bottleneck_fairly(rate_kbps: float, edges: int) -> None:
    """Behind one link, no edge gets less than four fifths of what another one gets; together they fill it."""
    network = MemoryNetwork()
    server = SimulatedServer(network)
    link = SharedLink(LinkModel(rate_kbps=rate_kbps, delay_ms=20, jitter_ms=5, seed=1))
    streams = [
        SimulatedEdge(
            network, server, NullCoder(seed=number, server_s=0.004), link, name=f"edge{number}",
            control=RateControl(LADDER), seconds=SECONDS,
        )
        for number in range(edges)
    ]  # fmt: skip
    network.run_for(0.5 + SECONDS + 1.2)
    runs = [edge.result() for edge in streams]
    counts = [run.answered for run in runs]
    assert min(counts) >= 0.8 * max(counts)
    assert sum(run.kbps for run in runs) >= 0.75 * rate_kbps
    assert all(switches(run) <= SECONDS for run in runs)


def test_the_servers_credit_steers_it() -> None:
    """A server that takes 100 ms a frame and grants one at a time gets about ten a second, young and of quality."""
    run = controlled(TRACES["wifi"], coder=NullCoder(server_s=0.1), window=1)
    assert 60 <= run.answered <= 80
    assert rung_at(run, SECONDS) == 2
    assert np.percentile(run.ages_ms(1.0), 95) <= 320


def test_quality_costs_no_answers_where_the_server_is_the_limit() -> None:
    """One frame under way at a time: the link's time comes on top, so on BLE the lowest rung stays, on Wi-Fi not."""
    slow = {name: controlled(TRACES[name], coder=NullCoder(server_s=0.1), window=1) for name in ("ble", "wifi")}
    low = stream(NullCoder(server_s=0.1), TRACES["ble"], fixed=EncodeChoice(0), seconds=SECONDS, window=1)
    assert {name: rung_at(run, SECONDS) for name, run in slow.items()} == {"ble": 0, "wifi": 2}
    assert slow["ble"].answered >= 0.9 * low.answered


def test_choices_can_be_pinned() -> None:
    """A pinned quality is kept, and the frame rate gives way; a pinned frame rate is kept, and quality rises."""
    high = controlled(TRACES["ble"], ladder=pinned(LADDER, operating_point=2))
    assert {choice.name for _, choice in high.choices} == {"high"}
    assert 40 <= high.answered <= 56
    slow = controlled(TRACES["ble"], fps_max=2.0)
    assert 14 <= slow.answered <= 20
    assert rung_at(slow, SECONDS) == 2


def test_pins_that_were_not_measured_have_no_known_loss() -> None:
    """Fewer layers or another threshold lose something, and nobody measured what."""
    (rung,) = pinned(LADDER, operating_point=1, theta=0.8)
    assert (rung.encode, rung.loss_points) == (EncodeChoice(1, None, 0.8), None)
    measured = replace(LADDER[1], layer_loss_points=(40.0, 20.0))
    (rung,) = pinned([measured], layers=2)
    assert (rung.encode.layers, rung.loss_points) == (2, 20.0)
    assert (measured.loss_with(8, 8), measured.loss_with(1, 8), measured.loss_with(5, 8)) == (8.3, 40.0, None)


def test_repeated_answers_count_as_their_own_state() -> None:
    """Frames that hardly changed end as `unchanged`, cost nothing, and are answers with an age."""
    run = controlled(LTE, coder=NullCoder(still=range(60, 120)), seconds=5.0)
    assert run.count("unchanged") == 60
    assert run.answered == len(run.frames)
    assert sum(2.1 <= at < 3.9 for at, _, _ in run.backlog_bytes) == 0


def test_what_hardly_changed() -> None:
    """At most one symbol in a thousand; a frame that stands alone has changed altogether."""
    assert hardly_changed(0.0)
    assert hardly_changed(UNCHANGED_SHARE)
    assert not hardly_changed(1.0)


def test_least_delay_forgets() -> None:
    """After ten to fifteen seconds a way that became longer counts as it is then."""
    least = LeastDelay()
    assert least.value is None
    for second in range(19):  # 0.05 was heard last at 9 s
        least.add(0.05 if second < 10 else 0.08, float(second))
    assert least.value == 0.05
    least = LeastDelay()
    for second in range(25):
        least.add(0.05 if second < 10 else 0.08, float(second))
    assert least.value == 0.08


def test_every_run_is_the_same() -> None:
    """Pure and seeded: two runs are alike to the last frame."""
    first, second = (controlled(TRACES["steps"], seconds=4.0) for _ in range(2))
    assert [track.ended_at for track in first.frames] == [track.ended_at for track in second.frames]


def test_an_empty_ladder_is_refused() -> None:
    """There is nothing to choose from."""
    with pytest.raises(ValueError, match="at least one rung"):
        RateControl([])
