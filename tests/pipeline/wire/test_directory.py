"""SessionDirectory: who gets which session."""

from __future__ import annotations

from pipeline.clock import VirtualClock
from pipeline.wire import PeerInfo, Refusal, ServerSession, SessionDirectory
from pipeline.wire.messages import Frame, Goodbye, Hello, Ping, Welcome
from pipeline.wire.states import DETACHED
from tests.pipeline.wire.pairs import CODEC_ID, make_offer, seeded_bytes

ALICE, MALLORY = PeerInfo("tcp", "a", b"alice"), PeerInfo("tcp", "m", b"mallory")


def make_directory(sessions_max: int = 8) -> SessionDirectory:
    random = seeded_bytes()
    return SessionDirectory(lambda peer: ServerSession(make_offer(), random=random), sessions_max=sessions_max)


def welcome(session: ServerSession | Refusal) -> Welcome:
    assert isinstance(session, ServerSession)
    outgoing = session.poll_send(0.0)
    assert outgoing is not None
    assert isinstance(outgoing.message, Welcome)
    return outgoing.message


def test_first_message_must_be_hello() -> None:
    """Anything else is refused, and no session is made for it."""
    directory = make_directory()
    outcome = directory.admit(ALICE, Frame(0, 0, 0, b""), 0.0)
    assert isinstance(outcome, Refusal)
    assert outcome.goodbye.reason == "protocol"
    assert (len(directory), directory.refused) == (0, 1)


def test_token_resumes_once() -> None:
    """The same session, with a new token; the old one opens a new session once the edge was heard."""
    directory = make_directory()
    first = welcome(directory.admit(ALICE, Hello(1, CODEC_ID), 0.0))
    second = welcome(session := directory.admit(ALICE, Hello(1, CODEC_ID, resume_token=first.resume_token), 1.0))
    assert (True, first.session) == (second.resumed, second.session)
    assert isinstance(session, ServerSession)
    session.receive(Ping(0, 0), "control", 1.0)
    third = welcome(directory.admit(ALICE, Hello(1, CODEC_ID, resume_token=first.resume_token), 2.0))
    assert (third.resumed, third.session != first.session) == (False, True)


def test_token_is_bound_to_the_key() -> None:
    """A stolen token is worth nothing without the client's key, and the owner keeps it."""
    directory = make_directory()
    first = welcome(directory.admit(ALICE, Hello(1, CODEC_ID), 0.0))
    stolen = welcome(directory.admit(MALLORY, Hello(1, CODEC_ID, resume_token=first.resume_token), 1.0))
    assert (stolen.resumed, stolen.session != first.session) == (False, True)
    assert welcome(directory.admit(ALICE, Hello(1, CODEC_ID, resume_token=first.resume_token), 2.0)).resumed


def test_full_server_says_when_to_come_back() -> None:
    """One session too many is refused with retry_after_s; a resumption is not."""
    directory = make_directory(sessions_max=1)
    first = welcome(directory.admit(ALICE, Hello(1, CODEC_ID), 0.0))
    outcome = directory.admit(MALLORY, Hello(1, CODEC_ID), 0.0)
    assert isinstance(outcome, Refusal)
    assert Goodbye("full", "1 sessions, limit 1", retry_after_s=5.0) == outcome.goodbye
    assert welcome(directory.admit(ALICE, Hello(1, CODEC_ID, resume_token=first.resume_token), 1.0)).resumed


def test_draining_server_opens_nothing_new() -> None:
    """Goodbye "draining" for new edges."""
    directory = make_directory()
    directory.draining = True
    outcome = directory.admit(ALICE, Hello(1, CODEC_ID), 0.0)
    assert isinstance(outcome, Refusal)
    assert outcome.goodbye.reason == "draining"


def test_closed_session_cannot_be_resumed() -> None:
    """After its window a session is gone, whether it was forgotten already or not."""
    clock, directory = VirtualClock(), make_directory()
    session = directory.admit(ALICE, Hello(1, CODEC_ID), clock())
    first = welcome(session)
    assert isinstance(session, ServerSession)
    session.disconnected("gone", clock())
    assert session.state == DETACHED
    clock.advance(60.1)
    session.timer(clock())
    assert not welcome(directory.admit(ALICE, Hello(1, CODEC_ID, resume_token=first.resume_token), clock())).resumed
    directory.forget(session)
    assert len(directory) == 1
