"""EdgeSession: what becomes of frames, and of the session."""

from __future__ import annotations

import pytest

from pipeline import limits
from pipeline.errors import LocalProtocolError
from pipeline.wire import StageMarks
from pipeline.wire.events import (
    Answered,
    BundleOffered,
    Closed,
    Connected,
    CreditChanged,
    Disconnected,
    FrameDropped,
    TasksNow,
)
from pipeline.wire.messages import Credit, Dropped, Frame, Goodbye, Hello, JpegFrame, Ping, Result, Welcome
from pipeline.wire.states import CLOSED, DETACHED, IDLE, OPEN
from tests.pipeline.wire.pairs import CODEC_ID, RESULTS, TASKS, Pair, make_offer


def drops(pair: Pair) -> list[tuple[int, str]]:
    return [(event.frame, event.cause) for event in pair.edge_events if isinstance(event, FrameDropped)]


def test_hello_says_who_and_what() -> None:
    """The first message carries codec, wishes and program."""
    pair = Pair(edge={"tasks": ["food101"], "backbone": "lite2", "top_k": 3})
    pair.edge.connected(pair.now)
    outgoing = pair.edge.poll_send(pair.now)
    assert outgoing is not None
    assert ("control", Hello(1, CODEC_ID, "test", ["food101"], "lite2", 3)) == (outgoing.channel, outgoing.message)


def test_welcome_opens_with_credit() -> None:
    """Connected and CreditChanged follow Welcome."""
    pair = Pair().open()
    assert [Connected, CreditChanged] == [type(event) for event in pair.edge_events]
    assert pair.edge.can_send()
    assert pair.edge.credit_available == limits.CREDIT_FRAMES


def test_frame_is_answered() -> None:
    """A frame that is answered ends in Answered, with its bytes and tasks."""
    pair = Pair().open()
    frame = pair.capture(b"x" * 1000)
    pair.flow()
    pair.answer(frame)
    pair.flow()
    (answered,) = pair.of(Answered)
    assert (frame, tuple(RESULTS), 1000) == (answered.frame, answered.tasks, answered.payload_bytes)
    assert 1000 < answered.wire_bytes < 1040
    assert (pair.edge.account.answered, len(pair.edge.account.in_flight)) == (1, 0)


def test_newest_frame_wins_without_credit() -> None:
    """What waits for credit is superseded by the next frame."""
    pair = Pair(window=1).open()
    pair.capture()
    pair.flow()
    second, third = pair.capture(), pair.capture()
    pair.flow()
    assert [(second, "superseded")] == drops(pair)
    assert not pair.edge.can_send()
    pair.answer(0)
    pair.flow()
    assert [0, third] == pair.received()


def test_credit_ends_with_its_deadline() -> None:
    """Credit that is not renewed is none."""
    pair = Pair().open()
    pair.keep = lambda outgoing: False
    pair.pass_time(limits.CREDIT_VALID_MS / 1000 + 0.01)
    assert not pair.edge.can_send()


def test_credit_is_cumulative_and_idempotent() -> None:
    """Doubled and overtaken grants change nothing."""
    pair = Pair().open()
    for granted in (9, 9, 3, 9):
        pair.edge.receive(Credit(granted, 2000), "control", pair.now)
    assert pair.edge.credit_available == 9


def test_lost_window_is_given_back() -> None:
    """When every frame of the window is lost, a Ping brings the credit back."""
    pair = Pair(edge={"budget_ms": 5_000}).open()
    pair.keep = lambda outgoing: outgoing.channel != "frames"
    for _ in range(limits.CREDIT_FRAMES):
        pair.capture()
        pair.flow()
    assert pair.edge.credit_available == 0
    pair.keep = lambda outgoing: True
    waiting = pair.capture()
    pair.flow()
    pair.pass_time(0.2)
    assert [waiting] == pair.received()


def test_too_old_before_it_is_sent() -> None:
    """A pending frame ends at its budget."""
    pair = Pair(edge={"budget_ms": 100}, window=1).open()
    pair.capture()
    pair.flow()
    waiting = pair.capture()
    pair.pass_time(0.11)
    assert (waiting, "too_old") in drops(pair)


def test_lost_at_deadline_and_grace() -> None:
    """A frame that nobody answers is lost, not before its deadline + grace."""
    pair = Pair(edge={"budget_ms": 100}).open()
    pair.keep = lambda outgoing: outgoing.channel != "frames"
    frame = pair.capture()
    pair.pass_time(0.1 + limits.LOST_GRACE_MS / 1000 - 0.01)
    assert drops(pair) == []
    pair.pass_time(0.02)
    assert [(frame, "lost")] == drops(pair)


def test_first_terminal_state_is_final() -> None:
    """A result after `lost` counts as late; one after a result as duplicate."""
    pair = Pair(edge={"budget_ms": 100}).open()
    lost = pair.capture()
    pair.flow()
    pair.keep = lambda outgoing: outgoing.channel == "control"
    pair.pass_time(0.7)
    assert [(lost, "lost")] == drops(pair)
    late = Result(lost, [], 0, 0, [0] * 5, 4, 2000)
    pair.edge.receive(late, "results", pair.now)
    assert (pair.edge.account.answered, pair.edge.account.late_results, pair.edge.account.duplicates) == (0, 1, 0)
    pair.keep = lambda outgoing: True
    answered = pair.capture()
    pair.flow()
    pair.answer(answered)
    pair.flow()
    again = Result(answered, [], 0, 0, [0] * 5, 4, 2000)
    pair.edge.receive(again, "results", pair.now)
    assert (pair.edge.account.answered, pair.edge.account.late_results, pair.edge.account.duplicates) == (1, 1, 1)
    assert pair.edge.account.balanced


def test_server_drop_ends_the_frame() -> None:
    """The server's cause is the frame's cause."""
    pair = Pair().open()
    frame = pair.capture()
    pair.flow()
    pair.server.drop(frame, "undecodable", "CRC of layer 0", pair.now)
    pair.flow()
    assert [FrameDropped(frame, "undecodable", "CRC of layer 0")] == pair.of(FrameDropped)


def test_encode_failure_ends_the_frame() -> None:
    """What the node gives up is counted under its cause; the server never hears of it."""
    pair = Pair().open()
    pair.edge.capture(0, pair.now)
    pair.edge.fail(0, "encode_failed", "ONNX said no", pair.now)
    pair.flow()
    assert drops(pair) == [(0, "encode_failed")]
    assert pair.server.account.entered == 0


def test_payload_over_the_limit_is_not_sent() -> None:
    """The limit of Welcome holds on the edge already."""
    pair = Pair(offer=make_offer(payload_bytes_max=100)).open()
    frame = pair.capture(b"x" * 101)
    pair.flow()
    assert [FrameDropped(frame, "encode_failed", "payload is 101 bytes, limit 100: lower the rate")] == pair.of(
        FrameDropped
    )


def test_pictures_travel_as_jpeg_frames() -> None:
    """kind="jpeg" goes to the unmodified backbone."""
    pair = Pair().open()
    pair.capture(b"\xff\xd8 picture", kind="jpeg")
    pair.flow()
    assert any(isinstance(outgoing.message, JpegFrame) for outgoing in pair.sent_up)
    assert pair.received() == [0]


def test_numbers_go_up() -> None:
    """A number that was used is a bug of the node."""
    pair = Pair()
    pair.edge.capture(3, pair.now)
    with pytest.raises(LocalProtocolError, match="frame 3 after frame 3"):
        pair.edge.capture(3, pair.now)


def test_offer_twice_is_a_bug() -> None:
    """A frame has one payload."""
    pair = Pair()
    pair.capture()
    with pytest.raises(LocalProtocolError, match="offered twice"):
        pair.edge.offer(0, b"", StageMarks(0, 0, 0, 0, 0), pair.now)


def test_lossless_waits_instead_of_superseding() -> None:
    """Every frame is answered, in order, without deadline."""
    pair = Pair(edge={"lossless": True}, window=2).open()
    for _ in range(5):
        pair.capture()
    pair.flow()
    assert pair.received() == [0, 1]
    pair.pass_time(3.0)
    for frame in range(5):
        pair.answer(frame)
        pair.flow()
    assert pair.received() == [0, 1, 2, 3, 4]
    assert (pair.edge.account.answered, pair.edge.account.dropped) == (5, {})
    assert all(outgoing.message.budget_us == 0 for outgoing in pair.sent_up if isinstance(outgoing.message, Frame))


def test_lossless_sends_again_after_a_cut() -> None:
    """What was under way is sent again; the server answers once, or repeats its answer, and counts no frame twice."""
    pair = Pair(edge={"lossless": True}).open()
    answered_unheard, lost_uplink = pair.capture(), None
    pair.flow()
    pair.answer(answered_unheard)
    pair.keep = lambda outgoing: False
    lost_uplink = pair.capture()
    pair.flow()
    pair.edge.disconnected("cut", pair.now)
    pair.server.disconnected("cut", pair.now)
    pair.keep = lambda outgoing: True
    pair.connect()
    assert [answered_unheard, lost_uplink] == pair.received()
    pair.answer(lost_uplink)
    pair.flow()
    assert (pair.edge.account.answered, pair.server.account.answered) == (2, 2)
    assert pair.server.account.entered == 2


def test_resume_keeps_frames_in_flight() -> None:
    """After a cut the answer still finds its frame, and the counts go on."""
    pair = Pair(edge={"budget_ms": 5_000}).open()
    frame = pair.capture()
    pair.flow()
    session = pair.server.session_id
    pair.edge.disconnected("cut", pair.now)
    pair.server.disconnected("cut", pair.now)
    pair.answer(frame)
    pair.pass_time(1.0)
    pair.connect()
    assert [event.welcome.resumed for event in pair.of(Connected)] == [False, True]
    assert session == pair.edge.welcome.session
    assert [frame] == [event.frame for event in pair.of(Answered)]
    assert pair.edge.credit.sent == 1


def test_disconnected_frames_end_at_their_deadline() -> None:
    """Without a connection a frame under way ends as `disconnected`, at deadline + grace."""
    pair = Pair(edge={"budget_ms": 100}).open()
    frame = pair.capture()
    pair.flow()
    pair.edge.disconnected("cut", pair.now)
    pair.pass_time(0.7)
    assert [(frame, "disconnected")] == drops(pair)


def test_new_session_ends_what_was_under_way() -> None:
    """A server that has forgotten the session: frames that were sent are `disconnected`, those waiting are sent."""
    pair = Pair(edge={"budget_ms": 5_000}, window=1).open()
    gone = pair.capture()
    pair.flow()
    waiting = pair.capture()
    pair.edge.disconnected("server restarted", pair.now)
    pair.server = pair.new_server()
    pair.connect()
    assert [(gone, "disconnected")] == drops(pair)
    assert [gone, waiting] == pair.received()
    assert pair.edge.credit.sent == 1
    pair.answer(waiting)
    pair.flow()
    assert (pair.edge.account.entered, pair.edge.account.answered, pair.edge.account.dropped) == (
        2,
        1,
        {"disconnected": 1},
    )


def test_hello_timeout_asks_for_another_connection() -> None:
    """A server that says nothing is given up, and tried again."""
    pair = Pair()
    pair.edge.connected(pair.now)
    pair.keep = lambda outgoing: False
    pair.pass_time(limits.HELLO_TIMEOUT_MS / 1000 + 0.01)
    assert pair.edge.state == DETACHED
    assert pair.edge.wants_connection
    assert [event.reason for event in pair.of(Disconnected)] == ["no Welcome within 5000 ms"]


def test_silence_is_noticed() -> None:
    """Nothing from the server for IDLE_TIMEOUT_MS: connect again."""
    pair = Pair().open()
    pair.keep = lambda outgoing: False
    pair.pass_time(limits.IDLE_TIMEOUT_MS / 1000 + 0.01)
    assert pair.edge.state == DETACHED


def test_stop_says_goodbye_and_reconciles() -> None:
    """Unsent frames are `stopped`; Goodbye carries the count, and the server's comes back."""
    pair = Pair(window=1).open()
    pair.capture()
    pair.flow()
    waiting = pair.capture()
    pair.edge.stop(pair.now)
    pair.flow()
    assert [(0, "stopped"), (waiting, "stopped")] == sorted(drops(pair))
    assert (pair.edge.state, pair.server.state) == (CLOSED, CLOSED)
    assert (pair.server.edge_frames, pair.edge.peer_frames) == (1, 1)
    assert [Closed("done", "", True), Closed("done", "", True)] == pair.of(Closed)


def test_stop_waits_for_answers() -> None:
    """With `drain_s`, frames under way may still be answered."""
    pair = Pair().open()
    frame = pair.capture()
    pair.flow()
    pair.edge.stop(pair.now, drain_s=1.0)
    pair.flow()
    assert pair.of(Closed) == []
    pair.answer(frame)
    pair.flow()
    assert (pair.edge.account.answered, pair.edge.account.dropped) == (1, {})
    assert pair.edge.state == CLOSED


def test_stop_does_not_wait_for_a_mute_server() -> None:
    """Goodbye unanswered: closed all the same."""
    pair = Pair().open()
    pair.keep = lambda outgoing: False
    pair.edge.stop(pair.now)
    pair.pass_time(limits.GOODBYE_TIMEOUT_MS / 1000 + 0.01)
    assert pair.edge.state == CLOSED


def test_a_second_stop_changes_nothing() -> None:
    """While Goodbye is awaited no timer is due at once, again and again."""
    pair = Pair().open()
    pair.keep = lambda outgoing: False
    pair.edge.stop(pair.now)
    pair.edge.timer(pair.now)
    before = pair.edge.timer_at()
    pair.edge.stop(pair.now)
    pair.edge.timer(pair.now)
    assert before == pair.edge.timer_at()


def test_frames_after_the_end_are_counted() -> None:
    """The law holds for what a node captures while it is being stopped."""
    pair = Pair().open()
    pair.edge.stop(pair.now)
    pair.capture()
    pair.flow()
    assert drops(pair) == [(0, "stopped")]
    assert pair.edge.account.balanced


@pytest.mark.parametrize(
    ("goodbye", "state"),
    [
        (Goodbye("full", "1024 sessions", retry_after_s=5.0), IDLE),
        (Goodbye("draining", "bye", resume_token=b"t" * 16, retry_after_s=1.0), DETACHED),
        (Goodbye("codec", "other codec"), CLOSED),
    ],
)
def test_goodbye_says_what_is_possible(goodbye: Goodbye, state: str) -> None:
    """Token: resume. Retry: begin anew. Neither: over."""
    pair = Pair().open()
    pair.edge.receive(goodbye, "control", pair.now)
    assert state == pair.edge.state
    assert (state != CLOSED) == pair.edge.wants_connection
    if state != CLOSED:
        assert pair.now + goodbye.retry_after_s == pair.edge.reconnect_at


def test_draining_server_names_another() -> None:
    """The token of Goodbye is what the next Hello carries; `peer` is where to."""
    pair = Pair().open()
    pair.server.goodbye("draining", "stopping", pair.now, resumable=True, peer="tcp://other:1")
    pair.flow()
    assert pair.edge.peer == "tcp://other:1"
    pair.connect()
    assert [event.welcome.resumed for event in pair.of(Connected)] == [False, True]


@pytest.mark.parametrize(
    ("message", "channel", "detail"),
    [
        (Result(0, [], 0, 0, [0] * 5, 4, 2000), "results", "Result for frame 0, which was not sent"),
        (Result(7, [], 0, 0, [0] * 4, 4, 2000), "results", "Result has 4 stages, expected 5"),
        (Dropped(0, "bad luck"), "results", "Dropped has cause 'bad luck'"),
        (Frame(0, 0, 0, b""), "frames", "Frame came while the edge session is open"),
        (Hello(1, ""), "control", "Hello came while the edge session is open"),
        (Ping(0, 0), "frames", "Ping came on channel frames, expected control"),
        (Welcome("other", b"", False, "", "", "", [], 1, 1, 1, 1, 1), "control", "Welcome to session 'other'"),
    ],
)
def test_broken_contract_closes(message: object, channel: str, detail: str) -> None:
    """What a server may not say ends the session with Goodbye("protocol"), and everything is counted."""
    pair = Pair().open()
    pair.edge.capture(0, pair.now)
    pair.edge.receive(message, channel, pair.now)  # type: ignore[arg-type]
    goodbye = pair.edge.poll_send(pair.now)
    assert goodbye is not None
    assert isinstance(goodbye.message, Goodbye)
    assert goodbye.message.reason == "protocol"
    assert goodbye.message.detail.startswith(detail)
    assert pair.edge.state == CLOSED
    assert pair.edge.account.dropped == {"disconnected": 1}


def test_bytes_that_are_no_message_close() -> None:
    """Garbage from a server is a broken contract, not an exception."""
    pair = Pair().open()
    pair.edge.receive_data(b"\xc1", pair.now)
    assert pair.edge.state == CLOSED


def test_other_codec_is_offered() -> None:
    """An edge without a bundle is told which one the server has."""
    pair = Pair(edge={"codec_id": ""}).open()
    assert [BundleOffered(CODEC_ID, "b" * 64)] == pair.of(BundleOffered)


def test_tasks_change() -> None:
    """SetTasks goes out, TasksNow comes back."""
    pair = Pair().open()
    pair.edge.set_tasks(["imagenet1k"], 5, pair.now)
    pair.flow()
    pair.server.set_tasks(TASKS, "no such task", pair.now)
    pair.flow()
    assert [TasksNow(TASKS, "no such task")] == pair.of(TasksNow)


def test_unsent_frame_is_counted() -> None:
    """What the transport cannot hand over ends as `send_failed`."""
    pair = Pair().open()
    pair.capture()
    outgoing = pair.edge.poll_send(pair.now)
    while outgoing is not None and outgoing.frame is None:
        outgoing = pair.edge.poll_send(pair.now)
    assert outgoing is not None
    pair.edge.unsent(outgoing, "socket full", pair.now)
    pair.flow()
    assert drops(pair) == [(0, "send_failed")]
    assert pair.edge.state == OPEN
