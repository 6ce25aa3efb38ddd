"""ServerSession: frames handed out once, deadlines, limits, and everything that a peer may do wrong."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipeline import limits
from pipeline.codec.bitstream import Header, pack_header
from pipeline.errors import ConfigError, LocalProtocolError
from pipeline.wire.events import (
    BundleRequested,
    Closed,
    Connected,
    Disconnected,
    FrameDropped,
    FrameReceived,
    SessionOpened,
    TasksWanted,
)
from pipeline.wire.messages import (
    BundlePart,
    Credit,
    Dropped,
    Frame,
    FramePart,
    Goodbye,
    Hello,
    JpegFrame,
    Message,
    Ping,
    Pong,
    Result,
    SetTasks,
    TaskInfo,
    Welcome,
    encode,
)
from pipeline.wire.states import CLOSED, DETACHED, OPEN, WAITING
from tests.pipeline.wire.pairs import CODEC_ID, TASKS, Pair, make_offer


def opened(**options: object) -> Pair:
    return Pair(**options).open()  # type: ignore[arg-type]


def send(pair: Pair, message: Message, channel: str = "frames") -> None:
    """A message from a peer that is not our EdgeSession."""
    pair.server.receive(message, channel, pair.now)  # type: ignore[arg-type]
    pair._events()


def reply(pair: Pair, kind: type) -> Message | None:
    """The next message of a kind that the server sends."""
    while (outgoing := pair.server.poll_send(pair.now)) is not None:
        if isinstance(outgoing.message, kind):
            return outgoing.message
    return None


def test_session_opened_tells_the_wishes() -> None:
    """The owner learns who came and what it wants."""
    pair = opened(edge={"top_k": 3})
    assert [SessionOpened(pair.server.session_id, "test", TASKS, 3, False, False)] == pair.of(SessionOpened)


def test_deadline_has_age_and_uplink_deducted() -> None:
    """Budget 500 ms, age 200 ms, uplink estimated at 10 ms: 290 ms are left."""
    pair = opened()
    pair.server.clock.reset()
    pair.server.clock.add(pair.now - 0.02, 5.0, 5.0, pair.now)
    send(pair, Frame(0, 200_000, 500_000, b"x", 1))
    (event,) = pair.of(FrameReceived)
    assert event.deadline is not None
    assert abs(event.deadline - (pair.now + 0.29)) < 1e-6


def test_too_old_on_arrival_is_dropped_unseen() -> None:
    """A frame whose budget is used up is not handed out."""
    pair = opened()
    send(pair, Frame(0, 600_000, 500_000, b"x", 1))
    assert pair.received() == []
    assert Dropped(0, "deadline", "too old on arrival", 0, 5, 2000) == reply(pair, Dropped)


def test_doubled_frame_is_handed_out_once() -> None:
    """A second copy counts as duplicate."""
    pair = opened()
    for _ in range(3):
        send(pair, Frame(0, 0, 500_000, b"x", 1))
    assert pair.received() == [0]
    assert (pair.server.account.entered, pair.server.account.duplicates) == (1, 2)


def test_frames_in_any_order() -> None:
    """Overtaken frames are handed out as they come."""
    pair = opened()
    for frame, ordinal in ((2, 3), (0, 1), (3, 4), (1, 2)):
        send(pair, Frame(frame, 0, 500_000, b"x", ordinal))
    assert pair.received() == [2, 0, 3, 1]


def test_frame_too_old_to_tell_is_ignored() -> None:
    """Beyond the remembered frames a number cannot be told from a duplicate."""
    pair = opened(edge={"lossless": True})
    send(pair, Frame(limits.REMEMBERED_FRAMES + 5, 0, 0, b"x", 1))
    send(pair, Frame(5, 0, 0, b"x", 2))
    assert pair.received() == [limits.REMEMBERED_FRAMES + 5]


def test_gap_gives_credit_back_at_once() -> None:
    """Frame 3 without 1 and 2: two are lost, and Credit says so before any result."""
    pair = opened()
    send(pair, Frame(2, 0, 500_000, b"x", 3))
    assert Credit(6, 2000) == reply(pair, Credit)


def test_credit_is_renewed_by_timer() -> None:
    """A third of the validity later the grant is repeated."""
    pair = opened()
    pair.sent_down.clear()
    pair.pass_time(limits.CREDIT_VALID_MS / 3000 + 0.01)
    assert any(isinstance(outgoing.message, Credit) for outgoing in pair.sent_down)
    assert pair.edge.can_send()


def test_credit_of_zero_drains() -> None:
    """With a window of 0 nothing more is granted; what was granted stays granted."""
    pair = opened()
    pair.server.credit.window = 0
    for _ in range(limits.CREDIT_FRAMES):
        pair.answer(pair.capture())
        pair.flow()
        pair.answer(pair.received()[-1])
        pair.flow()
    pair.capture()
    pair.flow()
    assert len(pair.received()) == limits.CREDIT_FRAMES


def test_answer_once() -> None:
    """A second answer is no answer."""
    pair = opened()
    frame = pair.capture()
    pair.flow()
    assert pair.answer(frame)
    assert not pair.answer(frame)
    assert not pair.server.drop(frame, "shed", "", pair.now)
    assert (pair.server.account.answered, pair.server.account.dropped) == (1, {})


def test_forgotten_frame_ends_at_deadline_and_grace() -> None:
    """An owner that never answers holds nothing for ever; it is told."""
    pair = opened(edge={"budget_ms": 100})
    frame = pair.capture()
    pair.flow()
    pair.pass_time(0.1 + limits.LOST_GRACE_MS / 1000 + 0.01)
    assert [FrameDropped(frame, "deadline", "not answered in time")] == [
        event for event in pair.server_events if isinstance(event, FrameDropped)
    ]
    assert not pair.answer(frame)


def test_result_that_nobody_waits_for_is_not_sent() -> None:
    """An answer that waited too long for the network is left out."""
    pair = opened(edge={"budget_ms": 100})
    frame = pair.capture()
    pair.flow()
    pair.answer(frame)
    pair.clock.advance(1.0)
    assert reply(pair, Result) is None


def test_unknown_protocol_version_is_refused() -> None:
    """Said in words, with both versions."""
    pair = Pair()
    pair.server.connected(pair.now)
    send(pair, Hello(99, CODEC_ID), "control")
    goodbye = reply(pair, Goodbye)
    assert (
        Goodbye(
            "protocol",
            "the edge speaks protocol version 99, this server 1: install the same FrankenStream version on both",
        )
        == goodbye
    )
    assert pair.server.state == CLOSED


def test_other_codec_is_refused_or_welcomed() -> None:
    """Only a server that hands out its bundle welcomes an edge with another codec."""
    pair = Pair(edge={"codec_id": "d" * 64})
    pair.connect()
    assert [(event.reason, event.clean) for event in pair.of(Closed)] == [("codec", False), ("codec", False)]
    pair = Pair(edge={"codec_id": "d" * 64}, offer=make_offer(hands_out_bundle=True)).open()
    pair.capture()
    pair.flow()
    assert pair.edge.account.dropped == {"undecodable": 1}


def test_unknown_task_is_refused_with_its_reason() -> None:
    """The text of the FrankenError reaches the edge."""

    def resolve(tasks: object, backbone: str) -> tuple[str, tuple[()]]:
        raise ConfigError("task 'birds' is unknown, expected one of food101")

    pair = Pair(offer=make_offer(resolve_tasks=resolve))
    pair.connect()
    assert (pair.of(Closed)[0].reason, pair.of(Closed)[0].detail) == (
        "error",
        "task 'birds' is unknown, expected one of food101",
    )


def test_hello_timeout() -> None:
    """A connection without Hello is closed."""
    pair = Pair()
    pair.server.connected(pair.now)
    assert pair.server.state == WAITING
    pair.clock.advance(limits.HELLO_TIMEOUT_MS / 1000)
    pair.server.timer(pair.now)
    assert pair.server.state == CLOSED
    assert isinstance(reply(pair, Goodbye), Goodbye)


def test_idle_edge_is_hung_up_and_may_resume() -> None:
    """Silence ends the connection, not the session."""
    pair = opened()
    pair.keep = lambda outgoing: False
    pair.clock.advance(limits.IDLE_TIMEOUT_MS / 1000)
    pair.server.timer(pair.now)
    goodbye = reply(pair, Goodbye)
    assert isinstance(goodbye, Goodbye)
    assert (goodbye.reason, pair.server.state) == ("idle", DETACHED)
    assert goodbye.resume_token in pair.server.resume_tokens


def test_detached_session_ends_after_its_window() -> None:
    """Nobody came back: closed, and what was under way is `disconnected`."""
    pair = opened(edge={"lossless": True})
    pair.capture()
    pair.flow()
    pair.server.disconnected("gone", pair.now)
    pair.edge.disconnected("gone", pair.now)
    pair.pass_time(limits.RESUME_WINDOW_MS / 1000 + 0.1)
    assert pair.server.state == CLOSED
    assert pair.server.account.dropped == {"disconnected": 1}
    assert [Disconnected("gone")] == [event for event in pair.server_events if isinstance(event, Disconnected)]


def test_token_changes_with_every_welcome() -> None:
    """The predecessor holds until the edge is heard again, then it has served its single use."""
    pair = opened()
    first = pair.server.resume_tokens[-1]
    pair.server.disconnected("cut", pair.now)
    send(pair, Hello(1, CODEC_ID, resume_token=first), "control")
    assert first in pair.server.resume_tokens
    assert first != pair.server.resume_tokens[-1]
    send(pair, Ping(1, 0), "control")
    assert first not in pair.server.resume_tokens


def test_resuming_keeps_the_tasks() -> None:
    """What was set here meanwhile stays, and a task that is gone ends nothing; a new wish goes to the owner."""
    served = {"food101", "birds"}

    def resolve(tasks: Sequence[str], backbone: str) -> tuple[str, tuple[TaskInfo, ...]]:
        if not served.issuperset(tasks):
            raise ConfigError("not served")
        return "lite0", tuple(TaskInfo(name, "lite0", 2) for name in tasks)

    pair = opened(offer=make_offer(resolve_tasks=resolve), edge={"tasks": ("food101", "birds")})
    chosen = (TaskInfo("birds", "lite0", 2),)
    pair.server.set_tasks(chosen, "", pair.now, top_k=3)
    served.remove("birds")
    cut(pair)
    pair.connect()
    assert (pair.edge.state, pair.server.tasks, pair.server.top_k) == (OPEN, chosen, 3)
    assert [event.welcome.tasks for event in pair.of(Connected)][1:] == [[*chosen]]
    assert pair.of(TasksWanted) == []
    cut(pair)
    pair.edge.set_tasks(["food101"], 1, pair.now)
    pair.connect()
    assert pair.of(TasksWanted) == [TasksWanted(("food101",), 1)]


def cut(pair: Pair) -> None:
    pair.server.disconnected("cut", pair.now)
    pair.edge.disconnected("cut", pair.now)


def test_doubled_hello_is_ignored_and_another_is_not() -> None:
    """The same Hello again changes nothing; a different one breaks the contract."""
    pair = opened()
    hello = pair.server.hello
    assert hello is not None
    send(pair, hello, "control")
    assert pair.server.state == OPEN
    send(pair, Hello(1, CODEC_ID, client="somebody else"), "control")
    assert pair.server.state == CLOSED


def test_late_messages_of_an_ended_connection_are_ignored() -> None:
    """After the server hung up, what was under way does no harm."""
    pair = opened()
    pair.server.goodbye("draining", "", pair.now, resumable=True)
    send(pair, Frame(0, 0, 500_000, b"x", 1))
    assert (pair.server.state, pair.received()) == (DETACHED, [])


@pytest.mark.parametrize(
    ("message", "channel", "reason", "detail"),
    [
        (Frame(0, 0, 0, b"", 5), "frames", "protocol", "5 frames were sent, credit is 4"),
        (Ping(0, 0, 5), "control", "protocol", "5 frames were sent, credit is 4"),
        (Frame(0, 0, 0, b"x" * 101, 1), "frames", "limit", "frame 0 is 101 bytes, limit 100"),
        (FramePart(0, 3, 2, 0, 0, b"", 1), "frames", "protocol", "frame 0 part 3 of 2 and 0"),
        (Welcome("", b"", False, "", "", "", [], 1, 1, 1, 1, 1), "control", "protocol", "Welcome came while"),
        (Goodbye("done", resume_token=b"t"), "control", "protocol", "Goodbye+token came while"),
        (Frame(0, 0, 0, b"", 1), "control", "protocol", "Frame came on channel control, expected frames"),
    ],
)
def test_broken_contract_closes(message: Message, channel: str, reason: str, detail: str) -> None:
    """Goodbye with the reason, Closed, and the counts whole."""
    pair = opened(offer=make_offer(payload_bytes_max=100))
    send(pair, message, channel)
    goodbye = reply(pair, Goodbye)
    assert isinstance(goodbye, Goodbye)
    assert reason == goodbye.reason
    assert goodbye.detail.startswith(detail)
    assert not pair.of(Closed)[0].clean
    assert pair.server.account.balanced


def test_parts_and_messages_have_the_limits_of_whole_frames() -> None:
    """Goodbye("limit") for what is too large together, for more than any frame may have, and for a message."""
    for size_max, sent, detail in (
        (100, [FramePart(0, part, 2, 0, 500_000, b"x" * 60, 1) for part in (0, 1)], "frame 0 has 120 bytes in parts"),
        (None, [Frame(0, 0, 500_000, bytes(limits.PAYLOAD_BYTES_MAX + 1), 1)], "frame 0 is 262145 bytes"),
        (None, [JpegFrame(0, 0, 500_000, bytes(limits.JPEG_BYTES_MAX + 1), 1)], "frame 0 is 2097153 bytes"),
        (None, [Frame(0, 0, 500_000, bytes(limits.MESSAGE_BYTES_MAX), 1)], "message is"),
    ):
        pair = opened(offer=make_offer(**({"payload_bytes_max": size_max} if size_max else {})))
        for message in sent:
            pair.server.receive_data(encode(message), pair.now)
        goodbye = reply(pair, Goodbye)
        assert isinstance(goodbye, Goodbye)
        assert (goodbye.reason, goodbye.detail.startswith(detail)) == ("limit", True), goodbye


def test_flood_of_one_ordinal_is_limited() -> None:
    """Frames that pretend to be the same one stop at FRAMES_IN_FLIGHT_MAX."""
    pair = opened()
    for frame in range(limits.FRAMES_IN_FLIGHT_MAX + 1):
        send(pair, Frame(frame, 0, 0, b"x", 1))
    goodbye = reply(pair, Goodbye)
    assert isinstance(goodbye, Goodbye)
    assert goodbye.reason == "limit"


def test_pings_without_reading_are_limited() -> None:
    """A peer that asks and never reads is closed."""
    pair = opened()
    for ping in range(limits.CONTROL_QUEUE_MAX + 1):
        send(pair, Ping(ping, 0), "control")
    assert pair.server.state == CLOSED


def test_pongs_that_were_not_asked_for_are_ignored() -> None:
    """Made-up Pongs do not move the clock."""
    pair = opened()
    before = pair.server.clock.offset_s
    send(pair, Pong(12345, 0, 2**53, 2**53), "control")
    assert before == pair.server.clock.offset_s
    assert pair.server.state == OPEN


def test_parts_make_a_frame() -> None:
    """Whatever their order, and doubled or not."""
    pair = opened()
    for part in (2, 0, 0, 1):
        send(pair, FramePart(0, part, 3, 0, 500_000, bytes([part]) * 2, 1))
    (event,) = pair.of(FrameReceived)
    assert event.bitstream == b"\0\0\1\1\2\2"
    send(pair, FramePart(0, 1, 3, 0, 500_000, b"late", 1))
    assert pair.received() == [0]
    assert pair.server.account.entered == 1


def test_lost_part_leaves_the_prefix() -> None:
    """At half of the time left, the parts up to the first gap go on."""
    pair = opened()
    pair.keep = lambda outgoing: False
    for part in (0, 1, 3):
        send(pair, FramePart(0, part, 4, 100_000, 500_000, bytes([part]), 1))
    pair.pass_time(0.19)
    assert pair.received() == []
    pair.pass_time(0.02)
    (event,) = pair.of(FrameReceived)
    assert event.bitstream == b"\0\1"


def test_a_frame_without_its_first_part_is_incomplete() -> None:
    """Without part 0 there is no header: nothing reaches the decoder."""
    pair = opened()
    pair.keep = lambda outgoing: False
    send(pair, FramePart(0, 1, 2, 0, 500_000, b"x", 1))
    pair.pass_time(0.3)
    assert pair.server.account.dropped == {"incomplete": 1}


@pytest.mark.parametrize(("last", "cause"), [(80, "incomplete"), (90, None)])
def test_a_frame_without_its_first_layer_is_incomplete(last: int, cause: str | None) -> None:
    """Neither does one that breaks off within layer 0; if that is whole, the decoder gets it."""
    pair = opened()
    pair.keep = lambda outgoing: False
    head = pack_header(Header(0, 28, 28, (40, 100)))  # 9 bytes, layer 0 ends at 89
    send(pair, FramePart(0, 0, 2, 0, 500_000, (head + bytes(280))[:last], 1))
    pair.pass_time(0.3)
    assert pair.server.account.dropped == ({cause: 1} if cause else {})
    assert pair.received() == ([] if cause else [0])


def test_edge_splits_into_parts() -> None:
    """`part_bytes` on the edge; one frame on the server, one frame of credit."""
    pair = opened(edge={"part_bytes": 1_000})
    pair.edge.loss.share = 0.0
    frame = pair.capture(bytes(range(250)) * 10)
    pair.flow()
    (event,) = pair.of(FrameReceived)
    assert (frame, bytes(range(250)) * 10) == (event.frame, event.bitstream)
    assert sum(isinstance(outgoing.message, FramePart) for outgoing in pair.sent_up) == 3
    assert pair.edge.credit.sent == 1


def test_tasks_wanted_reaches_the_owner() -> None:
    """SetTasks is the owner's to answer."""
    pair = opened()
    send(pair, SetTasks(["a", "b"], 2), "control")
    assert [TasksWanted(("a", "b"), 2)] == pair.of(TasksWanted)


def test_bundle_is_handed_out_in_parts() -> None:
    """BundleRequest is the owner's to answer; parts are limited."""
    pair = opened(edge={"codec_id": ""}, offer=make_offer(hands_out_bundle=True))
    pair.edge.request_bundle(CODEC_ID, 0, pair.now)
    pair.flow()
    assert [BundleRequested(CODEC_ID, 0)] == pair.of(BundleRequested)
    pair.server.send_bundle_part(CODEC_ID, 0, 4, b"PK..", pair.now)
    pair.flow()
    assert any(isinstance(outgoing.message, BundlePart) for outgoing in pair.sent_down)
    with pytest.raises(LocalProtocolError, match="limit 262144"):
        pair.server.send_bundle_part(CODEC_ID, 0, 1, b"x" * (limits.BUNDLE_PART_BYTES + 1), pair.now)


def test_goodbye_reconciles_what_was_lost() -> None:
    """The server learns how many frames never came."""
    pair = opened()
    pair.keep = lambda outgoing: outgoing.channel != "frames"
    pair.capture()
    pair.flow()
    pair.edge.stop(pair.now)
    pair.flow()
    assert "edge sent 1 frames, 0 arrived" in [event.detail for event in pair.of(Closed)]


def test_unsent_answer_waits_for_the_edge() -> None:
    """An answer that found no connection is given after the edge resumed."""
    pair = opened(edge={"budget_ms": 5_000})
    frame = pair.capture()
    pair.flow()
    pair.answer(frame)
    outgoing = pair.server.poll_send(pair.now)
    assert outgoing is not None
    pair.server.unsent(outgoing, "gone", pair.now)
    pair.server.disconnected("gone", pair.now)
    pair.edge.disconnected("gone", pair.now)
    pair.connect()
    assert pair.edge.account.answered == 1


def test_unknown_cause_is_a_bug() -> None:
    """Owners use the names of accounting."""
    pair = opened()
    pair.capture()
    pair.flow()
    with pytest.raises(LocalProtocolError, match="'tired' is no cause"):
        pair.server.drop(0, "tired", "", pair.now)
