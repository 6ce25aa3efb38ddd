"""Records without ever holding up what it records: a bounded queue, and a thread that writes what is in it.

Whoever records calls `Track.put` from any thread: it notes the message and returns. Making the message (JSON, JPEG)
and writing it is the recorder's thread's business. What the queue cannot take is lost and counted by topic; thumbnails
go first. A full disk is waited for, a removed file is written anew, and both are said in a line; any other error ends
that recording and nothing else.
"""

from __future__ import annotations

import errno
import importlib.metadata
import logging
import platform
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.clock import Clock, monotonic
from pipeline.errors import disk_is_full, reason_of
from recordings.topics import THUMBNAIL, Ending, Facts
from recordings.writer import RecordingWriter, Write

log = logging.getLogger("frankenstream.recordings")

QUEUE_BYTES_MAX: Final = 67_108_864
"""What waits for the disk, in bytes: minutes of bitstreams, or 24 frames of 720p that want to be thumbnails."""
THUMBNAIL_SHARE: Final = 0.5
"""The part of the queue that thumbnails may take: they must not push out what cannot be had again."""
LOOK_S: Final = 0.5
"""How often the queue is written to the disk, in seconds: what a crash costs at most."""
RETRY_S: Final = 1.0
"""How often a full disk is tried again, in seconds."""
CLOSE_S: Final = 10.0
"""How long `close` waits for the disk, in seconds."""

Notify = Callable[[str], None]


class Made(NamedTuple):
    """A message ready to be written."""

    data: bytes
    captured_at: float | None = None
    """Monotonic seconds; None: the time that it was put."""
    sequence: int = 0


Make = Callable[[], Made | None]
"""Makes a message, on the recorder's thread; None: there is none (yet)."""


class _Item(NamedTuple):
    track: Track
    topic: str
    at: float
    cost: int
    make: Make


class Track:
    """One recording of a Recorder. Thread-safe."""

    def __init__(self, recorder: Recorder, writer: RecordingWriter) -> None:
        self.path = writer.path
        self.lost: Counter[str] = Counter()
        """Messages that could not be written, by topic."""
        self.failure = ""
        """Why it ended before its time."""
        self._recorder = recorder
        self._writer = writer
        self.closed = False

    def put(self, topic: str, at: float, make: Make, *, cost: int) -> bool:
        """Record a message of about `cost` bytes that happened `at` (monotonic seconds). False: it is lost."""
        return self._recorder.put(_Item(self, topic, at, cost, make))

    def close(self) -> None:
        """Write what waits, then the index. Returns at once; `Recorder.close` waits for it."""
        self._recorder.end(self)

    @property
    def messages(self) -> int:
        """Messages written."""
        return self._writer.messages - self._writer.unsafe.total()

    @property
    def bytes_written(self) -> int:
        return self._writer.bytes_written

    def report(self) -> str:
        """For people: what is in the file, and what is not."""
        size = self.bytes_written
        line = f"recorded {self.path}: {self.messages:,} messages, {size / 1e6:,.1f} MB"
        if self.lost:
            line += f"; not written: {counted(self.lost)}"
        return f"{line}; {self.failure}" if self.failure else line


def counted(lost: Counter[str]) -> str:
    """For people: /bitstream 3, /thumbnail 20."""
    return ", ".join(f"{topic} {count}" for topic, count in sorted(lost.items()))


class Recorder:
    """Writes any number of recordings on one thread. `notify` gets a line where something goes wrong.

    Without `thread` nothing happens until `work` is called (tests).
    """

    def __init__(
        self,
        *,
        notify: Notify = lambda line: None,
        clock: Clock = monotonic,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
        thread: bool = True,
        write: Write | None = None,
    ) -> None:
        self._notify = notify
        self._clock = clock
        self._epoch_ns = time.time_ns() - round(clock() * 1e9)
        self._bytes_max = queue_bytes_max
        self._write = write
        self._changed = threading.Condition()
        self._queue: deque[_Item | Track] = deque()
        self._queued_bytes = 0
        self._tracks: list[Track] = []
        self._closing = False
        self._full = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True) if thread else None
        if self._thread is not None:
            self._thread.start()

    def time_ns(self, at: float) -> int:
        """Monotonic seconds as nanoseconds since 1970."""
        return self._epoch_ns + round(at * 1e9)

    def record(self, path: Path, facts: Facts) -> Track:
        """Begin a recording. Raises ConfigError if the file exists or cannot be made."""
        writer = (
            RecordingWriter(path, facts) if self._write is None else RecordingWriter(path, facts, write=self._write)
        )
        track = Track(self, writer)
        with self._changed:
            self._tracks.append(track)
        return track

    def put(self, item: _Item) -> bool:
        """See Track.put."""
        with self._changed:
            room = self._bytes_max * (THUMBNAIL_SHARE if item.topic == THUMBNAIL else 1.0)
            if item.track.closed or item.track.failure or self._queued_bytes + item.cost > room:
                item.track.lost[item.topic] += 1
                return False
            self._queue.append(item)
            self._queued_bytes += item.cost
            if self._queued_bytes > self._bytes_max // 4:  # else the next look is early enough
                self._changed.notify()
        return True

    def end(self, track: Track) -> None:
        """See Track.close."""
        with self._changed:
            if not track.closed:
                track.closed = True
                self._queue.append(track)

    def close(self, timeout: float = CLOSE_S) -> None:
        """Finish every recording and end the thread. Idempotent."""
        for track in list(self._tracks):
            self.end(track)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:
            self.work()
        else:
            self._thread.join(timeout)

    def work(self) -> None:
        """Write what waits."""
        with self._changed:
            queue, self._queue = self._queue, deque()
        while queue:
            item = queue.popleft()
            if isinstance(item, Track):
                self._finish(item)
                continue
            self._write_item(item)
            with self._changed:
                self._queued_bytes -= item.cost
        for track in list(self._tracks):
            if not track.failure and self._attempt(track, track._writer.flush):
                self._attempt(track, lambda track=track: self._ensure_there(track))  # type: ignore[misc]

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._closing and self._queued_bytes <= self._bytes_max // 4:
                    self._changed.wait(LOOK_S)
                closing = self._closing
            self.work()
            if closing and not self._queue:
                return

    def _write_item(self, item: _Item) -> None:
        track = item.track
        if track.failure:
            track.lost[item.topic] += 1
            return
        try:
            made = item.make()
        except Exception:  # one message that cannot be made must not end the recording
            log.exception("a message of %s could not be recorded", item.topic)
            track.lost[item.topic] += 1
            return
        if made is not None:
            captured_at = item.at if made.captured_at is None else made.captured_at
            self._attempt(track, lambda: track._writer.write(
                item.topic, made.data, log_ns=self.time_ns(item.at), publish_ns=self.time_ns(captured_at),
                sequence=made.sequence,
            ), again=track._writer.push)  # fmt: skip

    def _attempt(self, track: Track, step: Callable[[], None], *, again: Callable[[], None] | None = None) -> bool:
        """Do `step`; wait while the disk is full (then `again`). False: the recording has failed."""
        last = False
        while True:
            try:
                step()
            except OSError as error:
                if disk_is_full(error) and not last:
                    last = not self._wait_for_room(track)
                    step = again if again is not None else step
                    continue
                self._fail(track, error)
                return False
            if self._full:
                self._full = False
                self._notify(f"there is room on the disk again: {track.path} goes on{_gaps(track)}")
            return True

    def _wait_for_room(self, track: Track) -> bool:
        """The disk is full. False: the recorder is to end, the next try is the last."""
        if not self._full:
            self._full = True
            self._notify(
                f"the disk is full: {track.path} waits for room (what is written is safe, the stream goes on); "
                "free some space"
            )
        with self._changed:
            if not self._closing and self._thread is not None:
                self._changed.wait(RETRY_S)
            return not self._closing and self._thread is not None

    def _ensure_there(self, track: Track) -> None:
        try:
            if track._writer.ensure_there():
                self._notify(f"{track.path} was removed while it was recorded: it is written again, nothing is lost")
        except FileExistsError:
            raise OSError(errno.EEXIST, "it was removed, and another file took its name") from None

    def _finish(self, track: Track) -> None:
        with self._changed:
            self._tracks.remove(track)
        if track.failure:
            track._writer.abandon()
            return
        ending = Ending(
            messages=str(track._writer.messages), lost=str(track.lost.total()), lost_by_topic=counted(track.lost)
        )
        if not self._attempt(track, lambda: self._ensure_there(track)):
            return
        try:
            track._writer.finish(ending)
        except OSError as error:
            self._fail(track, error)

    def _fail(self, track: Track, error: OSError) -> None:
        """The recording ends here; what is in the file can be read."""
        track.lost.update(track._writer.unsafe)
        track.failure = f"it ends early ({reason_of(error)}): `frankenstream recordings recover` makes its index"
        track._writer.abandon()
        self._notify(f"{track.path}: {track.failure}")


def _gaps(track: Track) -> str:
    return f", without {counted(track.lost)}" if track.lost else ""


def program_facts() -> dict[str, str]:
    """Version, Python and machine, for Facts."""
    try:
        version = importlib.metadata.version("frankenstream")
    except importlib.metadata.PackageNotFoundError:
        version = "0+unknown"
    return {
        "frankenstream": version,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
