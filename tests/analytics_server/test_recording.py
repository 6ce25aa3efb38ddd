"""`serve --record`: each session's frames and what became of them, from the server's side."""

from __future__ import annotations

from pathlib import Path

from analytics_server.description import describe_server
from analytics_server.server import Server
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.runtime.engine import NullEngine
from pipeline.wire.events import Answered
from recordings.frames import recorded_frames
from recordings.reader import Recording
from recordings.topics import Bitstream, SessionStart
from tests.streaming import StreamingEdge


def test_every_session_has_a_recording_of_its_own(null_bundle: Bundle, tmp_path: Path) -> None:
    """Bytes as they came, answers as they went, drops with their reason; files are whole once it has stopped."""
    engines = [NullEngine("null"), NullEngine("null2")]
    with Server(null_bundle, ["tcp://127.0.0.1:0"], engines=engines, record_dir=tmp_path / "rec") as server:
        with StreamingEdge(server.urls[0], null_bundle, tasks=("food101",), top_k=2) as edge:
            edge.wait_connected()
            payload = edge.bitstream()
            answer = edge.wait_ended(edge.send(payload))
            edge.wait_ended(edge.send(b"damaged"))
        with StreamingEdge(server.urls[0], null_bundle) as other:
            other.stream(3)
    assert isinstance(answer, Answered)

    files = sorted((tmp_path / "rec").iterdir(), key=lambda path: path.stat().st_size)
    assert len(files) == 2
    recordings = {len(list(recorded_frames(Recording(file)))): Recording(file) for file in files}
    frames = {frame.frame: frame for frame in recorded_frames(recordings[2])}
    sent = {one.frame: one.payload for one in recordings[2].of("/bitstream", Bitstream)}
    assert sent == {0: payload, 1: b"damaged"}
    assert frames[0].answers[0].task == "food101"
    assert [label.score for label in frames[0].answers[0].labels] == [label.score for label in answer.tasks[0].labels]
    assert frames[0].result is not None
    assert (frames[0].result.layers, frames[0].result.batch) == (8, 1)
    assert frames[1].state == "undecodable"
    assert "7 bytes" in frames[1].detail
    (session,) = recordings[2].of("/session", SessionStart)
    assert (session.wanted, session.top_k, session.codec_id) == (["food101"], 2, null_bundle.codec_id)
    assert recordings[2].facts.role == "server"
    for recording in recordings.values():
        assert len(list(recording)) > 5
        assert recording.damage == []
        assert recording.ending is not None


def test_the_description_fits_its_field(null_bundle: Bundle) -> None:
    """Whatever is served; two servers that differ have different lines."""
    few = describe_server([NullEngine("null")], null_bundle.backbones, 2)
    many = describe_server([NullEngine(f"backbone_number_{k}") for k in range(40)], (), 2)
    assert "null=null/cpu/2" in few
    assert len(few) <= limits.NAME_CHARS_MAX
    assert len(many) == limits.NAME_CHARS_MAX
    assert few != describe_server([NullEngine("null")], null_bundle.backbones, 1)
    assert many != describe_server([NullEngine(f"backbone_number_{k}") for k in range(41)], (), 2)
