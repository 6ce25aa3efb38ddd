"""What is no recording, or one of tomorrow, is said in one line."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcap.writer import Writer

from pipeline.errors import InputError
from recordings import reader, statistics
from recordings.frames import UNKNOWN, RecordedFrame, recorded_frames
from recordings.reader import RecordedMessage, Recording, is_recording
from recordings.scan import scan
from recordings.statistics import figures
from recordings.topics import Facts, FrameResult
from tests.recordings.made import CODEC_ID, FPS, chain, record, reference_codec


@pytest.fixture(scope="module")
def bitstreams() -> list[bytes]:
    return chain(reference_codec(), 8)[0]


def test_frames_are_put_together(tmp_path: Path, bitstreams: list[bytes]) -> None:
    """Answered, dropped, without bitstream: each with what is known of it."""
    path = record(tmp_path / "a.mcap", bitstreams, dropped=[2], missing=[5])
    frames = {frame.frame: frame for frame in recorded_frames(Recording(path))}

    assert sorted(frames) == list(range(8))
    assert [frames[n].state for n in (1, 2, 5)] == ["answered", "lost", "answered"]
    assert frames[1].answers[0].labels[0].name == "zebra"
    assert frames[1].stages is not None
    assert frames[1].stages.capture_to_result_ms == 67.0
    assert frames[1].payload_bytes == len(bitstreams[1])
    assert frames[5].payload_bytes == 40, "what the result says of it"
    assert frames[1].media_time == pytest.approx(1 / FPS)
    assert all(frame.session is not None and frame.session.session == "s1" for frame in frames.values())


def test_a_frame_without_an_end_is_unknown(tmp_path: Path, bitstreams: list[bytes]) -> None:
    path = record(tmp_path / "a.mcap", bitstreams)
    whole = path.read_bytes()
    states = set()
    for cut in range(400, len(whole), 97):
        path.write_bytes(whole[:cut])
        try:
            states |= {frame.state for frame in recorded_frames(Recording(path))}
        except InputError:
            continue
    assert states == {"answered", UNKNOWN}


def test_figures(tmp_path: Path, bitstreams: list[bytes]) -> None:
    path = record(tmp_path / "a.mcap", bitstreams, dropped=[2, 3])
    found = figures(Recording(path))

    assert (found.frames, found.answered, found.dropped, found.unknown) == (8, 6, {"lost": 2}, 0)
    assert found.duration_s == pytest.approx(0.75)
    assert found.payload_bytes_mean == pytest.approx(sum(map(len, bitstreams)) / 8)
    assert found.capture_to_result is not None
    assert found.capture_to_result.p50 == pytest.approx(70.5)
    assert sum(bucket.count for bucket in found.capture_to_result.histogram) == 6
    assert found.tasks["animals"].label == "zebra"
    assert found.closed
    assert found.damage == []
    assert found.topics == {"/session": 1, "/bitstream": 8, "/result": 6, "/drop": 2, "/stages": 6}


def test_figures_read_a_recording_once(
    tmp_path: Path, bitstreams: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And hold no frame longer than `recorded_frames` does."""
    recording = Recording(record(tmp_path / "a.mcap", bitstreams * 15))
    scans: list[int] = []
    alive: list[int] = []
    monkeypatch.setattr(reader, "scan", lambda data: scans.append(1) or scan(data))
    monkeypatch.setattr(statistics, "recorded_frames", lambda one: watched(recorded_frames(one), alive))
    found = figures(recording)
    assert found.frames == len(alive) == 120
    assert found.sessions[0].session == "s1"
    assert len(found.sessions) == len(scans) == 1
    assert 0 < max(alive) < 20


def watched(frames: Iterator[RecordedFrame], alive: list[int]) -> Iterator[RecordedFrame]:
    """The same; `alive`: after each one, how many results there are in memory."""
    for frame in frames:
        yield frame
        alive.append(sum(isinstance(one, FrameResult) for one in gc.get_objects()))


def test_a_recording_of_a_newer_version_is_refused(tmp_path: Path, bitstreams: list[bytes]) -> None:
    """With what to do; nothing of it is misread."""
    path = record(tmp_path / "a.mcap", bitstreams, facts=Facts(format="2", frankenstream="9.1.0"))
    with pytest.raises(
        InputError, match=r"a.mcap has recording format 2 \(made by FrankenStream 9.1.0\), this one reads up to 1: up"
    ):
        Recording(path)


@pytest.mark.parametrize("version", ["9" * 5_000, "x" * 5_000, "²", ""])
def test_a_format_that_is_no_number_of_ours_is_refused(version: str, tmp_path: Path, bitstreams: list[bytes]) -> None:
    """In a line that stays one."""
    path = record(tmp_path / "a.mcap", bitstreams, facts=Facts(format=version, frankenstream="8" * 5_000))
    with pytest.raises(InputError, match=r"a\.mcap has recording format .* this one reads up to 1") as refused:
        Recording(path)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("data", [b"{", b'{"unknown": ' + b"[" * 200_000, b"\xff", b'{"frame": "one"}'])
def test_a_message_that_does_not_read_is_an_error_of_ours(data: bytes, tmp_path: Path, bitstreams: list[bytes]) -> None:
    recording = Recording(record(tmp_path / "a.mcap", bitstreams))
    with pytest.raises(InputError, match=r"^a\.mcap: a message of /result does not read: "):
        recording.decode(RecordedMessage("/result", 1, 1, 1, data))


def test_facts_of_tomorrow_are_ignored(tmp_path: Path) -> None:
    """A field that today's reader does not know costs nothing."""
    file = io.BytesIO()
    writer = Writer(file)
    writer.start("frankenstream")
    writer.add_metadata("frankenstream", {"format": "1", "codec_id": CODEC_ID, "weather": "rain"})
    writer.finish()
    (tmp_path / "a.mcap").write_bytes(file.getvalue())
    assert Recording(tmp_path / "a.mcap").facts.codec_id == CODEC_ID


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x89MCAP", "cut off after 5 bytes"),
        (b"ftypisom and more", "is no MCAP file"),
        (b"\x89MCAP0\r\n\x01\x05", "not a recording of FrankenStream"),
    ],
)
def test_what_is_no_recording(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.mcap").write_bytes(content)
    with pytest.raises(InputError, match=words):
        Recording(tmp_path / "a.mcap")


def test_an_mcap_file_of_others_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    writer = Writer(file)
    writer.start("ros2")
    channel = writer.register_channel("/camera", "cdr", 0)
    writer.add_message(channel, 1, bytes(100_000), 1)
    writer.finish()
    (tmp_path / "a.mcap").write_bytes(file.getvalue())
    with pytest.raises(InputError, match="is an MCAP file, but not a recording of FrankenStream"):
        Recording(tmp_path / "a.mcap")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        Recording(tmp_path / "a.mcap")
    with pytest.raises(InputError, match="Is a directory"):
        Recording(tmp_path)


def test_recordings_are_told_from_videos(tmp_path: Path) -> None:
    """By name, whatever is in it; by content, whatever it is called."""
    (tmp_path / "a.mp4").write_bytes(b"\x89MCAP0\r\n")
    (tmp_path / "b.mp4").write_bytes(b"ftypisom")
    assert is_recording(tmp_path / "a.mp4")
    assert not is_recording(tmp_path / "b.mp4")
    assert is_recording("drive.MCAP")
    assert not is_recording("rtsp://camera/1")


def test_the_first_chunk_damaged_costs_only_that(tmp_path: Path, bitstreams: list[bytes]) -> None:
    """It names the topics; their numbers hold without it."""
    path = record(tmp_path / "a.mcap", bitstreams, flush_every=2)
    whole = [message.topic for message in Recording(path)]
    data = bytearray(path.read_bytes())
    place = data.index(b"/bitstream")
    data[place] ^= 1
    path.write_bytes(data)
    recording = Recording(path)
    topics = [message.topic for message in recording]
    assert topics == whole[len(whole) - len(topics) :]
    assert len(topics) > len(whole) // 2
    assert len(recording.damage) == 1
