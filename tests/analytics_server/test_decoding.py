"""The decoder threads: what is decoded, what is shed before, what a session may refer to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from analytics_server.decoding import Decoding
from analytics_server.work import REFERENCES_KEPT, FrameWork, SessionState
from pipeline.bundle import Bundle
from pipeline.clock import VirtualClock
from pipeline.codec import LatentCodec
from pipeline.wire.messages import TaskInfo
from tests.streaming import PATIENCE_S


class Lane:
    """Takes what is decoded; `makes` says whether it could still be computed in time."""

    def __init__(self) -> None:
        self.works: list[FrameWork] = []
        self.makes = True
        self.full = False
        self.added = threading.Semaphore(0)

    def add(self, work: FrameWork) -> None:
        self.works.append(work)
        self.added.release()

    def can_make(self, deadline: float | None, now: float, ahead: int = 0) -> bool:
        return self.makes


class Ends:
    """A session's handle and the metrics, both only listening."""

    id = "session"

    def __init__(self) -> None:
        self.dropped_frames: list[tuple[int, str]] = []
        self.ended = threading.Semaphore(0)

    def call(self, fn: Callable[[Any, float], None]) -> None:
        pass

    def answered(self, work: FrameWork, stages_s: Any) -> None: ...

    def dropped(self, work: FrameWork, cause: str) -> None:
        self.dropped_frames.append((work.frame, cause))
        self.ended.release()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(10.0)


@pytest.fixture
def lane() -> Lane:
    return Lane()


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def decoding(null_bundle: Bundle, lane: Lane, clock: VirtualClock) -> Iterator[Decoding]:
    decoding = Decoding(null_bundle, {"null": lane}, threads=1, clock=clock)
    decoding.start()
    yield decoding
    decoding.stop()


@pytest.fixture
def make(ends: Ends) -> Callable[..., FrameWork]:
    session = SessionState("session", reference_epoch=7)

    def work(frame: int, payload: bytes, *, deadline: float | None = None) -> FrameWork:
        made = FrameWork(
            handle=ends, session=session, frame=frame, kind="latent", payload=payload, received_at=10.0,
            deadline=deadline, outcome=ends, tasks=(TaskInfo("food", "null", 2),), top_k=1,
        )  # fmt: skip
        session.begin(made)
        return made

    return work


@pytest.fixture(scope="module")
def codec(null_bundle: Bundle) -> LatentCodec:
    return null_bundle.latent_codec()


@pytest.fixture(scope="module")
def symbols() -> np.ndarray:
    return np.random.default_rng(0).integers(-3, 4, (48, 28, 28)).astype(np.int16)


def test_latents_are_dequantised(
    decoding: Decoding, lane: Lane, make: Callable[..., FrameWork], codec: LatentCodec, symbols: np.ndarray
) -> None:
    """What arrives at the engine is symbols over gain, at the frame's own operating point."""
    decoding.add(make(0, codec.encode(symbols, 2)))
    assert lane.added.acquire(timeout=PATIENCE_S)
    array = lane.works[0].array_CHW
    assert array is not None
    np.testing.assert_allclose(array, symbols / 8.0)


def test_frame_coded_against_an_earlier_one(
    decoding: Decoding, lane: Lane, make: Callable[..., FrameWork], codec: LatentCodec, symbols: np.ndarray
) -> None:
    """Decoded frames are kept as references under the session's epoch."""
    first = codec.encode(symbols, 1)
    decoding.add(make(0, first))
    assert lane.added.acquire(timeout=PATIENCE_S)
    reference = codec.decode(first).as_reference(epoch=7, frame=0)
    decoding.add(make(1, codec.encode(symbols, 1, reference=reference)))
    assert lane.added.acquire(timeout=PATIENCE_S)
    assert lane.works[1].decoded_layers == 8


def test_unknown_reference(
    decoding: Decoding, ends: Ends, make: Callable[..., FrameWork], codec: LatentCodec, symbols: np.ndarray
) -> None:
    """A frame against one that is not held (another epoch) is undecodable, and says so."""
    reference = codec.decode(codec.encode(symbols, 1)).as_reference(epoch=8, frame=0)
    decoding.add(make(1, codec.encode(symbols, 1, reference=reference)))
    assert ends.ended.acquire(timeout=PATIENCE_S)
    assert ends.dropped_frames == [(1, "undecodable")]


def test_references_are_bounded(
    decoding: Decoding, lane: Lane, make: Callable[..., FrameWork], codec: LatentCodec, symbols: np.ndarray
) -> None:
    """A session holds the last few latents, not all of them."""
    bitstream = codec.encode(symbols, 1)
    for frame in range(REFERENCES_KEPT + 3):
        decoding.add(make(frame, bitstream))
        assert lane.added.acquire(timeout=PATIENCE_S)
    held = lane.works[0].session.references()
    assert sorted(reference.frame for reference in held) == list(range(3, REFERENCES_KEPT + 3))


@pytest.mark.parametrize(("deadline", "makes", "cause"), [(9.0, True, "deadline"), (11.0, False, "shed")])
def test_shed_before_decode(
    decoding: Decoding,
    lane: Lane,
    ends: Ends,
    make: Callable[..., FrameWork],
    deadline: float,
    makes: bool,
    cause: str,
) -> None:
    """A frame that comes too late is given up without looking at its bytes."""
    lane.makes = makes
    decoding.add(make(0, b"not even a bitstream", deadline=deadline))
    assert ends.ended.acquire(timeout=PATIENCE_S)
    assert ends.dropped_frames == [(0, cause)]


def test_full_lanes_leave_frames_undecoded(
    decoding: Decoding, lane: Lane, make: Callable[..., FrameWork], codec: LatentCodec, symbols: np.ndarray
) -> None:
    """Frames wait as a few kB until an engine has room."""
    lane.full = True
    decoding.add(make(0, codec.encode(symbols, 1)))
    assert not lane.added.acquire(timeout=0.2)
    assert len(decoding) == 1
    lane.full = False
    decoding.wake()
    assert lane.added.acquire(timeout=PATIENCE_S)


def test_a_full_lane_holds_up_its_own_frames_only(
    null_bundle: Bundle, ends: Ends, clock: VirtualClock, codec: LatentCodec, symbols: np.ndarray
) -> None:
    """A backbone that is too slow costs no other one its frames; those that wait are decoded once there is room."""
    busy, idle = Lane(), Lane()
    busy.full = True
    decoding = Decoding(null_bundle, {"null": busy, "null2": idle}, threads=1, clock=clock)
    bitstream = codec.encode(symbols, 1)

    def add(session: str, frame: int, *backbones: str) -> None:
        tasks = tuple(TaskInfo("food", backbone, 2) for backbone in backbones)
        decoding.add(
            FrameWork(
                handle=ends, session=SessionState(session, reference_epoch=7), frame=frame, kind="latent",
                payload=bitstream, received_at=10.0, deadline=None, outcome=ends, tasks=tasks, top_k=1,
            )
        )  # fmt: skip

    add("slow", 0, "null")
    add("both", 1, "null", "null2")
    for frame in (2, 3):
        add("fast", frame, "null2")
    decoding.start()
    for _ in range(2):
        assert idle.added.acquire(timeout=PATIENCE_S)
    assert ([work.frame for work in idle.works], busy.works, len(decoding)) == ([2, 3], [], 2)
    busy.full = False
    decoding.wake()
    for lane in (busy, busy, idle):
        assert lane.added.acquire(timeout=PATIENCE_S)
    decoding.stop()
    assert ([work.frame for work in busy.works], [work.frame for work in idle.works]) == ([0, 1], [2, 3, 1])
