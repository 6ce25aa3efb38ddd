"""A recording as something to send again: its frames in order, standing alone, and what was asked and answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.codec import LatentCodec
from pipeline.errors import BitstreamError, InputError
from recordings.reader import Recording
from recordings.stand_alone import StandAlone, last_uses, reference_of
from recordings.topics import BITSTREAM, RESULT, SESSION, Bitstream, FrameResult, SessionStart

FPS_DEFAULT = 30.0


class ReplayFrame(NamedTuple):
    """A frame to be sent. `time_s` counts from the first frame's capture."""

    frame: int
    time_s: float
    payload: bytes
    error: BitstreamError | None = None
    """Why it cannot be sent; then there is no payload."""


class Replayable:
    """What a replay needs to know of a recording beforehand; reads it once. Raises InputError if it has no frames."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.frames_total = 0
        self.sessions: list[SessionStart] = []
        self.kind = ""
        """bitstream, or jpeg for the unmodified backbone."""
        self._first_ns = self._last_ns = 0
        self._partial: dict[int, int] = {}  # frame -> layers that the server had of it
        references: list[tuple[int, int | None]] = []
        for message in recording:
            if message.topic == BITSTREAM:
                bitstream: Bitstream = recording.decode(message)
                if self._note(bitstream) and (named := reference_of(bitstream)) is not None:
                    references.append((bitstream.frame, named))
            elif message.topic == RESULT:
                result: FrameResult = recording.decode(message)
                if 0 < result.decoded_layers < result.layers:
                    self._partial[result.frame] = result.decoded_layers
            elif message.topic == SESSION:
                self.sessions.append(recording.decode(message))
        self._uses = last_uses(references)
        if not self.frames_total:
            raise InputError(f"{recording.name} has no frames: there is nothing to replay")

    @property
    def codec_id(self) -> str:
        """The codec that its frames are coded with."""
        return self.recording.facts.codec_id or (self.session.codec_id if self.session else "")

    @property
    def session(self) -> SessionStart | None:
        """The first session: what was asked, of whom."""
        return self.sessions[0] if self.sessions else None

    @property
    def duration_s(self) -> float:
        return (self._last_ns - self._first_ns) / 1e9

    @property
    def fps(self) -> float:
        """Mean rate of the frames that were sent."""
        if self.frames_total < 2 or self.duration_s <= 0:
            return FPS_DEFAULT
        return (self.frames_total - 1) / self.duration_s

    @property
    def needs_codec(self) -> bool:
        """Whether frames have to be coded again to stand alone."""
        return bool(self._uses or self._partial)

    def results(self) -> dict[int, FrameResult]:
        """The recorded answers, by frame."""
        return {result.frame: result for result in self.recording.of(RESULT, FrameResult)}

    def frames(self, codec: LatentCodec | None) -> Iterator[ReplayFrame]:
        """Every frame once, in the order in which it was sent. `codec` is wanted where `needs_codec`."""
        coder = StandAlone(codec, self._uses) if codec is not None else None
        before = -1
        for bitstream in self.recording.of(BITSTREAM, Bitstream):
            if bitstream.frame <= before or bitstream.kind != self.kind:
                continue  # sent again after a reconnect
            before = bitstream.frame
            time_s = (bitstream.captured_ns - self._first_ns) / 1e9
            if coder is None:
                yield ReplayFrame(bitstream.frame, time_s, bitstream.payload)
                continue
            try:
                payload = coder.take(bitstream, layers=self._partial.get(bitstream.frame, 0))
            except BitstreamError as error:
                yield ReplayFrame(bitstream.frame, time_s, b"", error)
                continue
            yield ReplayFrame(bitstream.frame, time_s, payload)

    def _note(self, bitstream: Bitstream) -> bool:
        """Whether it is one of the frames to be sent."""
        self.kind = self.kind or bitstream.kind
        if bitstream.kind != self.kind:
            return False
        if not self.frames_total:
            self._first_ns = self._last_ns = bitstream.captured_ns
        self.frames_total += 1
        self._last_ns = max(self._last_ns, bitstream.captured_ns)
        return True
