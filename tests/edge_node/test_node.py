"""The node against a real session on both sides: every captured frame ends in one state, whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_node.monitor import Monitor
from edge_node.node import LOSSLESS_FRAMES, EdgeNode, NodeSettings
from edge_node.payload import Encoded, Kind
from edge_node.presenter import presenters
from edge_node.records import FrameRecord
from edge_node.summary import Summary
from pipeline.errors import EngineError, InputError, ProtocolError, TransportError
from pipeline.frame import Frame, Picture
from pipeline.preprocess import PreprocessSpec
from pipeline.wire.edge_session import EdgeSession
from pipeline.wire.events import Disconnected, FrameReceived, JpegReceived
from pipeline.wire.messages import Welcome
from pipeline.wire.server_session import ServerSession
from pipeline.wire.stage_marks import StageMarks
from recordings.replay import Pace
from tests.edge_node.loopback import Answer, Loopback, zebra

PATIENCE_S = 10.0
"""How long a test waits for something that takes milliseconds."""


class Script:
    """A source that gives `count` pictures, runs `steps[n]` before picture n, and then ends or raises `error`."""

    name = "script"
    fps = 1000.0

    def __init__(
        self,
        count: int,
        *,
        live: bool = False,
        steps: dict[int, Callable[[], None]] | None = None,
        error: Exception | None = None,
    ) -> None:
        self.live = live
        self.closed = threading.Event()
        self._count = count
        self._steps = steps or {}
        self._error = error

    def __iter__(self) -> Iterator[Picture]:
        for number in range(self._count):
            self._steps.get(number, lambda: None)()
            if self.closed.is_set():
                return
            yield np.full((2, 2, 3), number % 256, np.uint8), number / self.fps
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed.set()


class Pixel:
    """Encodes a frame to its first pixel; frames in `broken` fail; `gate` is waited for, `mishap` raised, if given."""

    kind: Kind = "bitstream"
    input_pixels = 4

    def __init__(
        self,
        *,
        broken: tuple[int, ...] = (),
        gate: threading.Event | None = None,
        mishap: Exception | None = None,
    ) -> None:
        self._broken = broken
        self._mishap = mishap
        self._gate = gate
        self.encoded: list[int] = []
        self.welcomes: list[Welcome] = []

    def encode(self, frame: Frame, taken_at: float) -> Encoded:
        if self._gate is not None:
            assert self._gate.wait(PATIENCE_S)
        if self._mishap is not None:
            raise self._mishap
        if frame.number in self._broken:
            raise EngineError(f"frame {frame.number} does not encode")
        self.encoded.append(frame.number)
        return Encoded(bytes(frame.pixels[0, 0]), StageMarks(frame.captured_at, taken_at, taken_at, taken_at, taken_at))

    def opened(self, welcome: Welcome) -> None:
        self.welcomes.append(welcome)

    def ended(self, record: FrameRecord) -> None: ...

    def describe(self) -> str:
        return "pixel"


class Run:
    """A node with everything around it."""

    def __init__(
        self,
        source: Script,
        *,
        payload: Pixel | None = None,
        answer: Answer = zebra,
        codec_id: str = "codec",
        **settings: object,
    ) -> None:
        self.settings = NodeSettings(**settings)  # type: ignore[arg-type]
        self.records: list[FrameRecord] = []
        self.lines: list[str] = []
        self.session = EdgeSession(
            codec_id=codec_id, lossless=self.settings.lossless, budget_ms=self.settings.budget_ms
        )
        self.payload = payload or Pixel()
        self.transport: Loopback | None = None
        self.answer = answer
        self.node = EdgeNode(
            source, self.payload, self.session, self._connect,
            settings=self.settings, monitor=Monitor(), on_record=self.records.append, notify=self.lines.append,
        )  # fmt: skip

    def _connect(self, session: EdgeSession, on_event: Callable[..., None]) -> Loopback:
        self.transport = Loopback(session, on_event, answer=self.answer)
        return self.transport

    def go(self) -> Summary:
        """Run to the end and check the law."""
        summary = self.node.run()
        assert summary.captured == summary.answered + sum(summary.dropped.values()) + summary.in_flight
        assert summary.in_flight == 0
        assert self.session.account.balanced
        assert summary.captured == self.session.account.entered
        assert sorted(record.frame for record in self.records) == list(range(summary.captured))
        return summary


def test_lossless_replay_answers_every_frame() -> None:
    """In order, none superseded, however fast the source is."""
    run = Run(Script(100), lossless=True)
    summary = run.go()
    assert (summary.captured, summary.answered, summary.dropped) == (100, 100, {})
    assert run.payload.encoded == list(range(100))
    assert summary.tasks["imagenet1k"].label == "zebra"
    assert (summary.backbone, summary.bundle_id, summary.server) == ("lite0", "bundle", "loopback")


def test_lossless_replay_never_has_more_under_way_than_the_server_grants() -> None:
    """The file waits; memory does not grow."""
    under_way: list[int] = []

    def count(session: ServerSession, event: FrameReceived | JpegReceived, now: float) -> None:
        under_way.append(run.node.monitor.outstanding)
        zebra(session, event, now)

    run = Run(Script(50), lossless=True, answer=count)
    run.go()
    assert max(under_way) <= LOSSLESS_FRAMES


def test_live_the_newest_frame_wins() -> None:
    """While the encoder is busy, frames supersede each other; the last one is encoded and answered."""
    gate = threading.Event()
    source = Script(20, live=True, steps={19: gate.set})
    run = Run(source, payload=Pixel(gate=gate))
    summary = run.go()
    assert summary.dropped == {"superseded": summary.captured - summary.answered}
    assert summary.answered <= 3
    assert run.payload.encoded[-1] == 19


def test_a_frame_that_does_not_encode_is_dropped_and_the_next_one_goes_on() -> None:
    """Cause and reason are in its record; the user hears of the first one."""
    run = Run(Script(6), payload=Pixel(broken=(2, 4)), lossless=True)
    summary = run.go()
    assert summary.dropped == {"encode_failed": 2}
    assert [record.detail for record in run.records if not record.answered] == [
        "frame 2 does not encode",
        "frame 4 does not encode",
    ]
    assert run.lines == ["frame 2 could not be encoded: frame 2 does not encode"]


def test_a_frame_that_waited_too_long_for_the_encoder_is_too_old() -> None:
    """The budget counts from capture, on the edge as well."""
    gate = threading.Event()
    waited = threading.Event()

    def let_it_age() -> None:
        waited.wait(0.15)  # longer than the budget below: this is the passing time that the test is about
        gate.set()

    run = Run(Script(3, live=True, steps={2: let_it_age}), payload=Pixel(gate=gate), budget_ms=100)
    summary = run.go()
    assert summary.dropped.get("too_old", 0) >= 1


def test_what_the_server_drops_is_dropped_with_its_cause() -> None:
    """And the answers of the others still come."""

    def picky(session: ServerSession, event: FrameReceived | JpegReceived, now: float) -> None:
        if event.frame % 2:
            session.drop(event.frame, "shed", "too much to do", now)
        else:
            zebra(session, event, now)

    summary = Run(Script(10), lossless=True, answer=picky).go()
    assert (summary.answered, summary.dropped) == (5, {"shed": 5})


def test_frames_without_answer_at_the_end_are_stopped_or_lost() -> None:
    """Nothing stays in flight when the node is closed."""
    run = Run(Script(3, live=True), answer=lambda session, event, now: None, budget_ms=50)
    summary = run.go()
    assert summary.answered == 0
    assert set(summary.dropped) <= {"superseded", "lost", "stopped", "deadline", "too_old"}


def test_a_source_that_fails_ends_the_run_with_a_summary_and_the_reason() -> None:
    """What was captured before is answered."""
    run = Run(Script(5, error=InputError("clip.mp4 ends mid-frame after 5 frames")), lossless=True)
    summary = run.go()
    assert (summary.answered, summary.error) == (5, "clip.mp4 ends mid-frame after 5 frames")
    assert isinstance(run.node.failure, InputError)


@pytest.mark.parametrize("thread", ["capture", "encode"])
@pytest.mark.parametrize("lossless", [True, False])
def test_an_error_that_nobody_foresaw_ends_the_run_in_one_line(
    thread: str, *, lossless: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It passes neither for the end of the source nor for frames that came too fast; the log has the traceback."""
    mishap = ZeroDivisionError("by nought\nand more")
    if thread == "capture":
        run = Run(Script(5, live=not lossless, error=mishap), lossless=lossless)
    else:
        run = Run(Script(10**6, live=not lossless), payload=Pixel(mishap=mishap), lossless=lossless)
    summary = run.go()
    assert summary.error == (
        f"the edge's {thread} thread failed (ZeroDivisionError: by nought and more): this is a bug, report it"
    )
    assert isinstance(run.node.failure, EngineError)
    assert summary.captured < 10**6
    assert caplog.records[0].exc_info is not None


def test_stopping_in_the_middle_counts_everything() -> None:
    """From another thread, while frames are under way."""
    run = Run(Script(10**9, steps={50: lambda: run.node.stop()}), lossless=True)
    summary = run.go()
    assert summary.captured == 50


def test_frames_max_and_duration_end_the_run() -> None:
    """Whichever comes first."""
    assert Run(Script(10**9), lossless=True, frames_max=7).go().captured == 7
    assert Run(Script(10**9), lossless=True, duration_s=0.0).go().captured == 1


def test_a_cut_connection_loses_no_count() -> None:
    """Live frames meanwhile are dropped as disconnected; after the mending answers come again."""
    back = threading.Event()

    def cut() -> None:
        assert run.transport is not None
        run.transport.cut()
        wait_for(lambda: any("connection lost" in line for line in run.lines))

    def mend() -> None:
        assert run.transport is not None
        run.transport.mend()
        wait_for(lambda: any("connected again" in line for line in run.lines))
        back.set()

    run = Run(Script(40, live=True, steps={10: cut, 20: mend}))
    summary = run.go()
    assert back.is_set()
    assert summary.reconnects == 1
    assert run.lines == ["connection lost (cut): trying again", "connected again, the session goes on"]
    assert set(summary.dropped) <= {"superseded", "disconnected", "lost"}
    assert max(record.frame for record in run.records if record.answered) >= 20


def test_a_lossless_replay_survives_a_cut() -> None:
    """Every frame is answered once."""

    def cut() -> None:
        assert run.transport is not None
        run.transport.cut()
        run.transport.mend()

    run = Run(Script(40, steps={10: cut, 25: cut}), lossless=True)
    summary = run.go()
    assert (summary.captured, summary.answered, summary.dropped) == (40, 40, {})


def test_references_are_for_live_sessions_only() -> None:
    """A lossless frame may be sent again in a new session, where its reference is unknown."""
    live, lossless = Run(Script(1, live=True)), Run(Script(1), lossless=True)
    live.go()
    lossless.go()
    assert (len(live.payload.welcomes), len(lossless.payload.welcomes)) == (1, 0)


def test_a_server_with_another_bundle_is_refused_before_anything_is_captured() -> None:
    """The reason names what to do."""
    run = Run(Script(5), codec_id="another")
    with pytest.raises((TransportError, ProtocolError), match="bundle"):
        run.node.run()
    assert run.node.monitor.summary().captured == 0


def test_no_server_is_a_transport_error() -> None:
    """After the time that it may take to connect."""
    run = Run(Script(5))

    class Silent:
        def call(self, function: object) -> None: ...

        def close(self, timeout: float) -> None: ...

    run.node._connect = lambda session, on_event: Silent()
    with pytest.raises(TransportError, match=r"no server answered within 0.1 s: is `frankenstream serve` running"):
        run.node.start(connect_timeout_s=0.1)
    run.node.close()


def test_what_the_last_attempt_failed_for_is_told() -> None:
    """ "No server answered" alone sends people to the wrong place: something may answer there, and say why not."""
    run = Run(Script(5))

    class Refused:
        def call(self, function: object) -> None: ...

        def close(self, timeout: float) -> None: ...

    def connect(session: EdgeSession, on_event: Callable[..., None]) -> Refused:
        on_event(Disconnected("nobody listens"))
        on_event(Disconnected("ws://127.0.0.1:80 answers HTTP 404"))
        return Refused()

    run.node._connect = connect
    with pytest.raises(TransportError, match=r"within 0.1 s \(ws://127.0.0.1:80 answers HTTP 404\): is `frankenstream"):
        run.node.start(connect_timeout_s=0.1)
    run.node.close()


class Hanging(Script):
    """A camera that gives one picture and then blocks."""

    def __init__(self) -> None:
        super().__init__(1, live=True)
        self.blocked = threading.Event()
        self.released = threading.Event()

    def __iter__(self) -> Iterator[Picture]:
        yield np.zeros((2, 2, 3), np.uint8), None
        self.blocked.set()
        assert self.released.wait(PATIENCE_S)


def test_a_source_that_hangs_is_mentioned_and_does_not_keep_the_node_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its thread is left behind; the counts add up all the same."""
    monkeypatch.setattr("edge_node.node.STALL_S", 0.05)
    monkeypatch.setattr("edge_node.node.BLOCKED_S", 0.1)
    source = Hanging()
    run = Run(source, duration_s=0.2)
    summary = run.go()
    source.released.set()
    assert (summary.captured, summary.answered) == (1, 1)
    assert run.lines == ["script has given no frame for 0 s"]


def test_odd_pictures_are_made_rgb_before_anything_else_sees_them() -> None:
    """A grey source: three channels, contiguous."""

    class Grey(Script):
        def __iter__(self) -> Iterator[Picture]:
            yield np.zeros((3, 5), np.uint8), None

    run = Run(Grey(1), lossless=True, keep_view=True)
    run.go()
    shown = run.node.view.newer(-1, 0.0)
    assert shown is not None
    frame, answer = shown
    assert (frame.pixels.shape, frame.pixels.flags.c_contiguous) == ((3, 5, 3), True)
    assert answer is not None
    assert answer.frame == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_the_video_and_nothing_else(tmp_path: Path) -> None:
    """One line; every frame is answered all the same."""
    pytest.importorskip("PIL")
    path = tmp_path / "out.mp4"
    path.symlink_to("/dev/full")
    run = Run(Script(20), lossless=True, keep_view=True)
    with presenters(run.node, PreprocessSpec(), save=path, show=False, fps=30.0):
        summary = run.go()
    assert summary.answered == 20
    assert run.lines == [
        f"the video {str(path)!r} ends before its time (No space left on device): later frames are not in it"
    ]


def test_replay_is_paced() -> None:
    """Pictures of a file come at its rate; a live source is never paced."""
    summary = Run(Script(20), lossless=True, pace=Pace()).go()
    assert summary.duration_s >= 19 / Script.fps


def wait_for(condition: Callable[[], bool]) -> None:
    """Let the other threads get there."""
    ready = threading.Event()
    for _ in range(int(PATIENCE_S / 0.005)):
        if condition():
            return
        ready.wait(0.005)
    raise AssertionError("it did not happen in time")
