"""Looking through recordings: any moment without reading what comes before, whole, growing or damaged."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import msgspec
import pytest

from pipeline.errors import InputError
from recordings import browsing
from recordings.browsing import course, frame_page, overview, picture_at
from recordings.frames import recorded_frames
from recordings.indexed import IndexedRecording
from recordings.reader import Recording
from recordings.recorder import Made, Recorder
from recordings.topics import THUMBNAIL, Facts, Thumbnail
from tests.recordings.made import FPS, put_frame, record

FRAMES = 100


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds in 25 chunks; every tenth frame was lost."""
    place = tmp_path_factory.mktemp("recordings") / "a.mcap"
    return record(place, [bytes(40)] * FRAMES, dropped=range(0, FRAMES, 10))


@pytest.fixture
def recording(path: Path) -> IndexedRecording:
    return IndexedRecording(path)


def test_the_index_finds_all_chunks(recording: IndexedRecording, path: Path) -> None:
    """And the walk over a file without one finds the same."""
    cut = path.with_name("cut.mcap")
    cut.write_bytes(path.read_bytes()[:-20])
    walked = IndexedRecording(cut)
    assert (recording.indexed, walked.indexed) == (True, False)
    assert recording.chunks == walked.chunks
    assert len(recording.chunks) == FRAMES / 4
    assert recording.duration_s == pytest.approx((FRAMES - 1) / FPS + 0.05)
    assert [m for chunk in walked.chunks for m in walked.messages(chunk)] == list(Recording(path))


def test_overview(recording: IndexedRecording) -> None:
    found = overview(recording)
    assert (found.indexed, found.damage, found.facts.bundle_id) == (True, "", "b" * 64)
    assert found.session is not None
    assert found.session.session == "s1"


@pytest.mark.parametrize("limit", [1, 7, 500])
@pytest.mark.parametrize("window", [1.0, 100.0])
def test_pages_give_every_frame_once_and_in_order(
    recording: IndexedRecording, path: Path, limit: int, window: float
) -> None:
    """Whatever the page's size: bytes, answer or drop, and stages are those of a whole reading."""
    frames, at = [], 0.0
    while at < recording.duration_s + 1:
        page = frame_page(recording, at, at + window, limit)
        frames += page.frames
        at = page.next_s if page.next_s is not None else page.to_s
    whole = {frame.frame: frame for frame in recorded_frames(Recording(path))}
    assert sorted(frame.frame for frame in frames) == list(range(FRAMES))
    assert [frame.at_s for frame in frames] == sorted(frame.at_s for frame in frames)
    for frame in frames:
        same = whole[frame.frame]
        assert (frame.state, frame.payload_bytes, frame.tasks) == (same.state, same.payload_bytes, same.answers)
        assert frame.total_ms == (same.stages.capture_to_result_ms if same.stages else 0.0)


def test_course_counts_what_is_there(recording: IndexedRecording) -> None:
    found = course(recording, points=10)
    assert not found.sampled
    assert sum(found.answers_per_s) * found.step_s == pytest.approx(90, abs=0.1)
    assert sum(found.drops_per_s) * found.step_s == pytest.approx(10, abs=0.1)
    assert sum(found.kbps) * found.step_s == pytest.approx(FRAMES * 40 * 8 / 1e3, rel=0.01)
    assert found.p50_ms[0] is not None
    assert found.p50_ms[0] < (found.p50_ms[-1] or 0)


def test_course_of_a_long_recording_is_a_sample(recording: IndexedRecording, monkeypatch: pytest.MonkeyPatch) -> None:
    """One chunk for each point, and the rates are right all the same."""
    monkeypatch.setattr(browsing, "COURSE_CHUNKS_MAX", 10)
    read: list[object] = []
    messages = IndexedRecording.messages
    monkeypatch.setattr(IndexedRecording, "messages", lambda self, one: read.append(one) or messages(self, one))
    found = course(recording, points=5)
    assert found.sampled
    assert len(read) <= 5
    for answers, drops in zip(found.answers_per_s, found.drops_per_s, strict=True):
        assert answers + drops == pytest.approx(FPS, rel=0.3)
    monkeypatch.undo()
    part = course(recording, 2.0, 4.0, points=20)
    assert sum(part.answers_per_s) * part.step_s == pytest.approx(18, abs=1)


@pytest.mark.parametrize(
    ("start", "end", "points"), [(-1.0, 5.0, 10), (20.0, None, 10), (0.0, 5.0, 0), (0.0, 5.0, 9999)]
)
def test_wishes_that_make_no_sense(recording: IndexedRecording, start: float, end: float | None, points: int) -> None:
    with pytest.raises(InputError, match=r"there is nothing|points is"):
        course(recording, start, end, points)


@pytest.mark.parametrize("end", [math.inf, 1e300])
def test_a_page_up_to_the_end(recording: IndexedRecording, end: float) -> None:
    page = frame_page(recording, 0, end, 500)
    assert len(page.frames) == FRAMES
    assert page.next_s is None
    assert math.isfinite(page.to_s)


@pytest.mark.parametrize("at", [math.inf, -math.inf, math.nan, 1e300])
def test_times_that_are_none(recording: IndexedRecording, at: float) -> None:
    with pytest.raises(InputError, match="no sense"):
        frame_page(recording, at, math.nan)
    with pytest.raises(InputError, match="no sense"):
        frame_page(recording, at, at)
    with pytest.raises(InputError, match="there is no picture at"):
        picture_at(recording, at)


def test_a_recording_that_grows(tmp_path: Path) -> None:
    """Seen as far as it is written; indexed once it is closed."""
    recorder = Recorder(thread=False)
    track = recorder.record(tmp_path / "a.mcap", Facts())
    put_frame(recorder, track, 0, b"x")
    recorder.work()
    with_one = IndexedRecording(tmp_path / "a.mcap")
    assert [frame.frame for frame in frame_page(with_one, 0, 1).frames] == [0]
    put_frame(recorder, track, 1, b"y")
    recorder.work()
    with_one.refresh()
    assert [frame.frame for frame in frame_page(with_one, 0, 1).frames] == [0, 1]
    assert not with_one.indexed
    recorder.close()
    with_one.refresh()
    assert with_one.indexed


def test_a_file_cut_off_at_any_byte_is_read_as_far_as_it_goes(path: Path, tmp_path: Path) -> None:
    whole = path.read_bytes()
    counts = set()
    for cut in range(len(whole) - 1, 0, -2_003):
        piece = tmp_path / "piece.mcap"
        piece.write_bytes(whole[:cut])
        try:
            one = IndexedRecording(piece)
        except InputError:
            continue
        counts.add(len(frame_page(one, 0, 100, 500).frames))
        course(one)
        one.close()
    assert max(counts) == FRAMES
    assert min(counts) < FRAMES / 2


def test_records_of_others_are_stepped_over(path: Path, tmp_path: Path) -> None:
    """MCAP leaves opcodes from 0x80 on to them; a length that no record has is damage all the same."""
    whole = path.read_bytes()
    middle = IndexedRecording(path).chunks[10].offset
    added = tmp_path / "added.mcap"
    added.write_bytes(whole[:middle] + struct.pack("<BQ", 0x80, 5) + b"other" + whole[middle:-20])
    one = IndexedRecording(added)
    assert (one.indexed, one.damage) == (False, "")
    assert len(frame_page(one, 0, 100, 500).frames) == FRAMES
    for opcode, length in ((0x7F, 5), (0x80, 2**40), (6, 2**40)):
        added.write_bytes(whole[:middle] + struct.pack("<BQ", opcode, length) + whole[middle:-20])
        one = IndexedRecording(added)
        assert f"damaged from byte {middle:,} on" in one.damage
        assert len(one.chunks) == 10


def test_a_damaged_chunk_costs_itself(path: Path, tmp_path: Path) -> None:
    broken = bytearray(path.read_bytes())
    middle = IndexedRecording(path).chunks[10]
    broken[middle.offset + 200] ^= 0xFF
    (tmp_path / "b.mcap").write_bytes(broken)
    one = IndexedRecording(tmp_path / "b.mcap")
    assert len(frame_page(one, 0, 100, 500).frames) == FRAMES - 4
    assert "check" in one.damage


def test_a_file_that_is_cut_off_while_it_is_open(path: Path, tmp_path: Path) -> None:
    """A line, or nothing; never the end of the process."""
    copy = tmp_path / "c.mcap"
    copy.write_bytes(path.read_bytes())
    one = IndexedRecording(copy)
    os.truncate(copy, 5_000)
    assert len(frame_page(one, 0, 100, 500).frames) < FRAMES


@pytest.mark.parametrize("content", [b"", b"text", b"\x89MCAP0\r\n", b"\x89MCAP0\r\n" + bytes(300)])
def test_what_is_no_recording(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.mcap").write_bytes(content)
    with pytest.raises(InputError, match=r"no MCAP file|recording"):
        IndexedRecording(tmp_path / "x.mcap")


def test_links_and_folders_are_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.mcap").symlink_to(path)
    (tmp_path / "folder.mcap").mkdir()
    os.mkfifo(tmp_path / "pipe.mcap")
    for name in ("link.mcap", "folder.mcap", "pipe.mcap"):
        with pytest.raises(InputError):
            IndexedRecording(tmp_path / name)


def test_the_picture_of_a_moment(tmp_path: Path) -> None:
    """The newest thumbnail before it; none that is older than ten seconds; or the picture that was sent."""
    recorder = Recorder(thread=False)
    track = recorder.record(tmp_path / "a.mcap", Facts())
    for number in range(30):
        put_frame(recorder, track, number, b"x")
        if number in (5, 8):
            thumbnail = Thumbnail(captured_ns=recorder.time_ns(number / FPS), frame=number, jpeg=b"jpeg %d" % number)
            track.put(THUMBNAIL, number / FPS, lambda one=thumbnail: Made(one.encode(), None, one.frame), cost=10)
        recorder.work()
    recorder.close()
    one = IndexedRecording(tmp_path / "a.mcap")
    assert picture_at(one, 0.2) is None
    assert [picture_at(one, at) for at in (0.5, 0.7, 0.8, 2.9, 20.0)] == [
        b"jpeg 5", b"jpeg 5", b"jpeg 8", b"jpeg 8", None,
    ]  # fmt: skip
    assert frame_page(one, 0, 1).pictures_s == pytest.approx([0.5, 0.8])
    assert msgspec.json.encode(frame_page(one, 0, 1))
