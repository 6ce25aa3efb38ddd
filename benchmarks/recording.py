"""Claim: recording costs less than 2 % of a core at 30 frames a second, and microseconds of the stream's own threads.

    python -m benchmarks.recording [--frames 900] [--thumbnails 5]

Sends real messages through an EdgeRecording, at once instead of in real time, and counts processor time: that of the
calls on the stream's threads, and that of the recorder's thread with the disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_node.media import VideoFile
from pipeline.stages import CAPTURE_TO_RESULT
from pipeline.wire import EdgeSession, messages
from pipeline.wire.events import Answered
from pipeline.wire.messages import Frame, Label, Result, TaskResult
from recordings.edge_recording import EdgeRecording
from recordings.recorder import Recorder
from recordings.samples import sample_path
from recordings.topics import Facts

FPS = 30.0
TASKS = ("imagenet1k", "food101", "cifar100", "flowers102")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=900)
    parser.add_argument("--payload-bytes", type=int, default=3_400)
    parser.add_argument("--thumbnails", type=float, default=0.0, help="a second")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    pixels = _photo()
    datas = [
        messages.encode(Frame(number, 20_000, 500_000, rng.bytes(arguments.payload_bytes), number + 1))
        for number in range(arguments.frames)
    ]
    events = [_answered(number, arguments.payload_bytes) for number in range(arguments.frames)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mcap"
        recorder = Recorder(thread=False, queue_bytes_max=1 << 40)
        recording = EdgeRecording(recorder, recorder.record(path, Facts()), thumbnails_per_s=arguments.thumbnails)
        session = EdgeSession(codec_id="c")
        stream_s = writing_s = 0.0
        for number, (data, event) in enumerate(zip(datas, events, strict=True)):
            now = number / FPS
            began = time.process_time()
            recording._seen(number, pixels, now)
            recording.traffic("up", "frames", data, now)
            recording.event(session, event, now + 0.03)
            stream_s += time.process_time() - began
            if number % (FPS // 2) == 0:  # the recorder looks twice a second
                began = time.process_time()
                recorder.work()
                writing_s += time.process_time() - began
        began = time.process_time()
        recorder.close()
        writing_s += time.process_time() - began
        size = path.stat().st_size
    seconds = arguments.frames / FPS
    print(f"{arguments.frames} frames of {arguments.payload_bytes} B, {arguments.thumbnails:g} thumbnails a second")
    print(f"on the stream's threads  {stream_s / arguments.frames * 1e6:8.1f} µs a frame")
    print(f"on the recorder's thread {writing_s / arguments.frames * 1e6:8.1f} µs a frame")
    print(f"at {FPS:g} frames a second  {100 * (stream_s + writing_s) / seconds:8.2f} % of a core")
    print(f"in the file              {size / arguments.frames:8.0f} B a frame")


def _photo() -> NDArray[np.uint8]:
    """1280x720 of a real photograph."""
    pixels, _ = next(iter(VideoFile(str(sample_path("walk")))))
    return np.ascontiguousarray(pixels.repeat(2, 0).repeat(2, 1))


def _answered(number: int, payload_bytes: int) -> Answered:
    tasks = [TaskResult(task, [Label(7, "some label", 0.123456789)]) for task in TASKS]
    result = Result(number, tasks, 0, 0, [100] * 5, 8, 1000, 8, 8, 1)
    stages = dict.fromkeys(CAPTURE_TO_RESULT, 1.234)
    return Answered(number, tuple(tasks), stages, 14.8, 0.3, payload_bytes, payload_bytes + 20, 8, 8, result)


if __name__ == "__main__":
    main()
