"""Recording never holds up what it records, and what goes wrong with the disk costs no more than it must."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from recordings.reader import Recording
from recordings.recorder import Made, Recorder, Track
from recordings.topics import BITSTREAM, DROP, THUMBNAIL, Facts

FACTS = Facts(codec_id="c" * 64)


class Disk:
    """os.write with a limit that can be lifted, and with other errors."""

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.error = 0

    def write(self, descriptor: int, data: bytes) -> int:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = os.write(descriptor, data[: self.room])
        self.room -= done
        return done


def put(track: Track, number: int, topic: str = DROP, *, size: int = 50, cost: int = 50) -> bool:
    return track.put(topic, float(number), lambda: Made(bytes([number % 256]) * size, None, number), cost=cost)


def numbers(path: Path) -> list[int]:
    return [message.sequence for message in Recording(path)]


def test_messages_come_back_with_their_times(tmp_path: Path) -> None:
    recorder = Recorder(thread=False)
    track = recorder.record(tmp_path / "a.mcap", FACTS)
    track.put(BITSTREAM, 12.5, lambda: Made(b"data", 12.0, 7), cost=4)
    recorder.close()

    recording = Recording(tmp_path / "a.mcap")
    (message,) = recording
    assert (message.topic, message.data, message.sequence) == (BITSTREAM, b"data", 7)
    assert message.log_ns - message.publish_ns == 500_000_000
    assert recording.facts == FACTS
    assert recording.ending is not None
    assert (recording.ending.messages, recording.ending.lost) == ("1", "0")


def test_the_thread_writes_what_is_put(tmp_path: Path) -> None:
    """Sixteen threads put at once; every message is in the file, each thread's in its order."""
    recorder = Recorder()
    track = recorder.record(tmp_path / "a.mcap", FACTS)
    threads = [threading.Thread(target=lambda k=k: [put(track, 100 * k + i) for i in range(100)]) for k in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()

    got = numbers(tmp_path / "a.mcap")
    assert sorted(got) == list(range(1600))
    assert all([n for n in got if n // 100 == k] == list(range(100 * k, 100 * k + 100)) for k in range(16))
    assert not track.lost


def test_what_the_queue_cannot_take_is_lost_and_counted(tmp_path: Path) -> None:
    """Nothing waits: the message is refused at once, and the file says how many there were."""
    recorder = Recorder(thread=False, queue_bytes_max=250)
    track = recorder.record(tmp_path / "a.mcap", FACTS)
    assert [put(track, number) for number in range(8)] == [True] * 5 + [False] * 3
    recorder.work()
    assert put(track, 8)
    recorder.close()

    assert numbers(tmp_path / "a.mcap") == [0, 1, 2, 3, 4, 8]
    assert track.lost == {DROP: 3}
    ending = Recording(tmp_path / "a.mcap")
    list(ending)
    assert ending.ending is not None
    assert ending.ending.lost_by_topic == "/drop 3"
    assert "not written: /drop 3" in track.report()


def test_thumbnails_leave_room_for_what_cannot_be_had_again(tmp_path: Path) -> None:
    recorder = Recorder(thread=False, queue_bytes_max=1000)
    track = recorder.record(tmp_path / "a.mcap", FACTS)
    assert [put(track, number, THUMBNAIL, cost=200) for number in range(4)] == [True, True, False, False]
    assert all(put(track, number, cost=100) for number in range(6))
    recorder.close()


def test_a_message_that_cannot_be_made_costs_itself(tmp_path: Path) -> None:
    recorder = Recorder(thread=False)
    track = recorder.record(tmp_path / "a.mcap", FACTS)

    def broken() -> Made:
        raise ValueError("no picture")

    put(track, 1)
    track.put(THUMBNAIL, 1.0, broken, cost=1)
    track.put(BITSTREAM, 1.0, lambda: None, cost=1)  # parts that are still to come
    put(track, 2)
    recorder.close()
    assert numbers(tmp_path / "a.mcap") == [1, 2]
    assert track.lost == {THUMBNAIL: 1}


def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    """Two lines for the user; nothing of what was put meanwhile is lost."""
    disk, said = Disk(room=2_500), []
    waiting = threading.Event()

    def notify(line: str) -> None:
        said.append(line)
        waiting.set()

    recorder = Recorder(notify=notify, write=disk.write)
    track = recorder.record(tmp_path / "a.mcap", FACTS)
    for number in range(100):
        assert put(track, number)
    with recorder._changed:
        recorder._changed.notify_all()
    assert waiting.wait(20)
    assert numbers(tmp_path / "a.mcap") == list(range(len(numbers(tmp_path / "a.mcap"))))
    put(track, 100)
    disk.room = 10**9
    with recorder._changed:
        recorder._changed.notify_all()
    recorder.close()

    assert numbers(tmp_path / "a.mcap") == list(range(101))
    assert "the disk is full" in said[0]
    assert "free some space" in said[0]


def test_a_disk_that_stays_full_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    """What is in the file can be read; what is not is counted; `close` does not wait for ever."""
    disk, said = Disk(room=12_000), []
    recorder = Recorder(notify=said.append, write=disk.write, thread=False)
    track = recorder.record(tmp_path / "a.mcap", FACTS)
    for number in range(40):
        put(track, number)
    recorder.work()
    kept = disk.room
    disk.room = 100
    for number in range(40, 80):
        put(track, number)
    recorder.work()
    put(track, 80)
    recorder.close()

    assert kept > 0
    assert numbers(tmp_path / "a.mcap")[:40] == list(range(40))
    assert track.messages == 40
    assert track.lost.total() == 41
    assert "recover" in said[-1]
    assert "disk is full" in track.report()


def test_a_broken_disk_ends_the_recording_with_a_line(tmp_path: Path) -> None:
    disk, said = Disk(), []
    recorder = Recorder(notify=said.append, write=disk.write, thread=False)
    track = recorder.record(tmp_path / "a.mcap", FACTS)
    other = recorder.record(tmp_path / "b.mcap", FACTS)
    put(track, 1)
    recorder.work()
    disk.error = errno.EIO
    put(track, 2)
    recorder.work()
    disk.error = 0
    put(other, 3)
    recorder.close()

    assert numbers(tmp_path / "a.mcap") == [1]
    assert numbers(tmp_path / "b.mcap") == [3]
    assert any("Input/output error" in line for line in said)
    assert not put(track, 4)


def test_a_removed_file_is_written_anew(tmp_path: Path) -> None:
    """Folder and all; nothing of what was in it is lost."""
    folder, said = tmp_path / "drive", []
    folder.mkdir()
    recorder = Recorder(notify=said.append, thread=False)
    track = recorder.record(folder / "a.mcap", FACTS)
    put(track, 1)
    recorder.work()
    (folder / "a.mcap").unlink()
    folder.rmdir()
    put(track, 2)
    recorder.work()
    put(track, 3)
    recorder.close()

    assert numbers(folder / "a.mcap") == [1, 2, 3]
    assert said == [f"{folder / 'a.mcap'} was removed while it was recorded: it is written again, nothing is lost"]


def test_a_file_removed_at_the_end_is_written_anew(tmp_path: Path) -> None:
    recorder = Recorder(thread=False)
    put(recorder.record(tmp_path / "a.mcap", FACTS), 1)
    recorder.work()
    (tmp_path / "a.mcap").unlink()
    recorder.close()
    assert numbers(tmp_path / "a.mcap") == [1]


def test_a_moved_file_is_written_on(tmp_path: Path) -> None:
    recorder = Recorder(thread=False)
    track = recorder.record(tmp_path / "a.mcap", FACTS)
    put(track, 1)
    recorder.work()
    (tmp_path / "a.mcap").rename(tmp_path / "b.mcap")
    put(track, 2)
    recorder.close()
    assert numbers(tmp_path / "b.mcap") == [1, 2]
    assert not (tmp_path / "a.mcap").exists()


def test_another_file_that_took_the_name_is_not_touched(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = Recorder(notify=said.append, thread=False)
    track = recorder.record(tmp_path / "a.mcap", FACTS)
    recorder.work()
    (tmp_path / "a.mcap").unlink()
    (tmp_path / "a.mcap").write_text("mine")
    put(track, 1)
    recorder.close()
    assert (tmp_path / "a.mcap").read_text() == "mine"
    assert "another file took its name" in said[0]


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.mcap").write_text("mine")
    recorder = Recorder(thread=False)
    with pytest.raises(ConfigError, match="exists already: choose another name"):
        recorder.record(tmp_path / "a.mcap", FACTS)
    with pytest.raises(ConfigError, match="No such file or directory: choose another path"):
        recorder.record(tmp_path / "nowhere" / "a.mcap", FACTS)
    recorder.close()


def test_one_recording_closes_while_others_go_on(tmp_path: Path) -> None:
    recorder = Recorder(thread=False)
    one, other = (recorder.record(tmp_path / f"{name}.mcap", FACTS) for name in "ab")
    put(one, 1)
    one.close()
    assert not put(one, 2)
    put(other, 3)
    recorder.work()
    first = Recording(tmp_path / "a.mcap")
    assert [message.sequence for message in first] == [1]
    assert first.ending is not None
    put(other, 4)
    recorder.close()
    assert numbers(tmp_path / "b.mcap") == [3, 4]
