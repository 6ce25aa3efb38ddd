"""Batching decisions: who is computed together, when, and who is given up. Virtual time only."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_server.batcher import COST_SAMPLES, PROBE_AFTER_S, Batcher, CostModel, FairQueue, Job


def job(session: str = "a", *, at: float = 0.0, deadline: float | None = None, work: object = None) -> Job[object]:
    return Job(session=session, arrived_at=at, deadline=deadline, work=work)


def running(size: int = 1, *, cost_s: float = 0.010, **settings: float) -> Batcher[object]:
    """A batcher whose engine runs a batch of `size` since time 0 and has `cost_s` as the cost of one frame."""
    batcher: Batcher[object] = Batcher(**settings)  # type: ignore[arg-type]
    batcher.cost.record(1, cost_s)
    for _ in range(size):
        batcher.add(job("busy"), 0.0)
    assert len(batcher.next_batch(0.0).batch) == size
    return batcher


def test_idle_engine_starts_at_once() -> None:
    """A frame that finds the engine idle is not held back for others."""
    batcher: Batcher[object] = Batcher(batch_size_max=8, batch_delay_s=1.0)
    first = job(at=5.0)
    batcher.add(first, 5.0)
    assert batcher.next_batch(5.0).batch == (first,)


def test_busy_engine_waits_for_company() -> None:
    """Frames that came while the engine ran are collected until first arrival + batch_delay_s."""
    batcher = running(batch_delay_s=0.005)
    batcher.add(job(at=0.009), 0.009)
    batcher.finished(1, 0.0, 0.010)
    assert batcher.next_batch(0.010).batch == ()
    assert batcher.timer_at() == pytest.approx(0.014)
    batcher.add(job("b", at=0.012), 0.012)
    assert len(batcher.next_batch(0.0141).batch) == 2


def test_full_batch_does_not_wait() -> None:
    """batch_size_max frames close a batch before the delay is over."""
    batcher = running(batch_size_max=2, batch_delay_s=1.0)
    for _ in range(3):
        batcher.add(job(at=0.001), 0.001)
    batcher.finished(1, 0.0, 0.002)
    assert len(batcher.next_batch(0.002).batch) == 2
    assert len(batcher) == 1


def test_deadline_closes_a_batch_early() -> None:
    """A batch starts at its earliest deadline minus the p95 cost of its size, though the delay is not over."""
    batcher = running(cost_s=0.010, batch_delay_s=1.0)
    batcher.add(job(at=0.001, deadline=0.050), 0.001)
    batcher.finished(1, 0.0, 0.010)
    assert batcher.timer_at() == pytest.approx(0.040)
    assert batcher.next_batch(0.039).batch == ()
    assert len(batcher.next_batch(0.040).batch) == 1


def test_late_frames_are_given_up_with_their_cause() -> None:
    """A passed deadline is `deadline`; one that cannot be met any more is `shed`; none of them is computed."""
    batcher = running(cost_s=0.010)
    passed, hopeless, good = job(deadline=0.004), job(deadline=0.009), job(deadline=0.5)
    for one in (passed, hopeless, good):
        batcher.add(one, 0.001)
    batcher.finished(1, 0.0, 0.005)
    decision = batcher.next_batch(0.005)
    assert decision.shed == ((passed, "deadline"), (hopeless, "shed"))
    assert decision.batch == (good,)


def test_frames_without_deadline_are_never_given_up() -> None:
    """Lossless replay waits as long as it takes."""
    batcher = running(cost_s=10.0)
    batcher.add(job(deadline=None), 0.0)
    batcher.finished(1, 0.0, 0.010)
    assert len(batcher.next_batch(1e6).batch) == 1


def test_shedding_before_decode() -> None:
    """can_make counts the running batch and all that waits before the frame."""
    batcher = running(cost_s=0.010, batch_size_max=1)
    batcher.add(job(), 0.001)
    assert not batcher.can_make(0.029, 0.001)
    assert batcher.can_make(0.031, 0.001)
    assert not batcher.can_make(0.031, 0.001, ahead=1)
    assert batcher.can_make(None, 0.001, ahead=1000)


def test_one_slow_run_sheds_nothing() -> None:
    """Giving up goes by the ordinary run, promises by the worst: an outlier among good runs costs no frame."""
    batcher: Batcher[int] = Batcher(batch_size_max=1)
    for seconds in (0.010, 0.011, 2.0):
        batcher.finished(1, 0.0, seconds)
    now = 3.0 + PROBE_AFTER_S / 2

    assert batcher.cost.p95_s(1) == 2.0
    assert batcher.can_make(now + 0.1, now)


def test_slow_run_does_not_shed_for_ever() -> None:
    """After a run of two seconds an idle engine tries again, and learns that it is fast."""
    batcher = running(cost_s=2.0)
    batcher.finished(1, 0.0, 2.0)
    batcher.add(job(at=2.1, deadline=2.6), 2.1)
    assert batcher.next_batch(2.1).batch == ()
    later = 2.0 + PROBE_AFTER_S
    assert batcher.can_make(later + 0.5, later)
    batcher.add(job(at=later, deadline=later + 0.5), later)
    assert len(batcher.next_batch(later).batch) == 1


def test_cost_is_the_p95_of_recent_runs() -> None:
    """One outlier in a hundred does not count; old runs are forgotten."""
    cost = CostModel()
    assert cost.p95_s(4) == 0.0
    for _ in range(COST_SAMPLES):
        cost.record(4, 0.004)
    cost.record(4, 9.0)
    assert cost.p95_s(3) == 0.004
    assert cost.p95_s(8) == pytest.approx(0.008)
    assert cost.p95_s(1) == 0.004


def test_settings_out_of_range_are_refused() -> None:
    """A batch holds at least one frame."""
    with pytest.raises(ValueError, match="batch_size_max is 0"):
        Batcher(batch_size_max=0)


@given(st.lists(st.sampled_from("abcd"), max_size=60), st.integers(1, 16))
def test_fair_share(sessions: list[str], size: int) -> None:
    """A session gets at most one frame more of a batch than any other that still has some waiting."""
    queue: FairQueue[int] = FairQueue()
    for number, session in enumerate(sessions):
        queue.add(Job(session, float(number), None, number))
    taken = [job for _ in range(size) if (job := queue.take()) is not None]
    share = Counter(job.session for job in taken)
    left = Counter(job.session for job in queue)
    assert len(taken) + len(queue) == len(sessions)
    for session in left:
        assert all(share[session] >= other - 1 for other in share.values())


@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_order_within_a_session(sessions: list[str]) -> None:
    """Frames of one session are computed in the order in which they came."""
    queue: FairQueue[int] = FairQueue()
    for number, session in enumerate(sessions):
        queue.add(Job(session, float(number), None, number))
    numbers: dict[object, list[int]] = {}
    while (taken := queue.take()) is not None:
        numbers.setdefault(taken.session, []).append(taken.work)
    assert all(of == sorted(of) for of in numbers.values())


Steps = list[tuple[float, str, str, float | None, float]]
steps = st.lists(
    st.tuples(
        st.floats(0.0, 0.05),  # time that passes
        st.sampled_from(["add", "ask"]),
        st.sampled_from("abc"),
        st.one_of(st.none(), st.floats(-0.01, 0.2)),  # deadline from now
        st.floats(0.0001, 0.1),  # what the run takes
    ),
    max_size=80,
)


@given(steps, st.integers(1, 8), st.floats(0, 0.02))
def test_every_frame_ends_once(steps: Steps, size: int, delay: float) -> None:
    """Whatever happens, each frame is computed once or given up once, and no batch is too large or holds the late."""
    batcher: Batcher[int] = Batcher(batch_size_max=size, batch_delay_s=delay)
    now, added, ended = 0.0, 0, []
    for passes, action, session, deadline, takes in steps:
        now += passes
        if action == "add":
            batcher.add(Job(session, now, None if deadline is None else now + deadline, added), now)
            added += 1
            continue
        decision = batcher.next_batch(now)
        assert len(decision.batch) <= size
        assert all(one.deadline is None or one.deadline >= now for one in decision.batch)
        assert all(cause in ("deadline", "shed") and one.deadline is not None for one, cause in decision.shed)
        ended += [one.work for one in decision.batch] + [one.work for one, _ in decision.shed]
        if decision.batch:
            started, now = now, now + takes
            batcher.finished(len(decision.batch), started, now)
    timer = batcher.timer_at()
    assert (timer is None) == (len(batcher) == 0)
    assert sorted(ended + [one.work for one in batcher.waiting]) == list(range(added))


@given(st.floats(0, 100), st.floats(0, 1))
def test_asking_at_the_timer_is_enough(now: float, delay: float) -> None:
    """What waits is due when timer_at says so: a loop that sleeps until then misses nothing."""
    batcher: Batcher[object] = Batcher(batch_delay_s=delay)
    batcher.add(job(at=now), now)
    batcher.next_batch(now)
    batcher.add(job(at=now), now)
    batcher.finished(1, now, now)
    timer = batcher.timer_at()
    assert timer is not None
    assert batcher.next_batch(max(now, timer)).batch
    assert batcher.timer_at() is None
    assert not math.isnan(timer)
