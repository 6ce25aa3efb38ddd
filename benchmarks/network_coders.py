"""Real codecs as both ends of a simulated stream (benchmarks.simulated_stream), over the frames of one clip.

Each coder has a ladder for rate control, encodes frame after frame as it is asked to, decodes what arrives and keeps
what a server would see, by frame. Frames repeat the clip from its start when it ends.

Axes: N frames of the clip, C H W the latent, S side of the encoder's input.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from benchmarks.picture_codecs import PictureCodec
from benchmarks.video_clips import Clip
from benchmarks.video_codecs import quiet
from edge_node.payload import LatentPayload
from edge_node.records import ANSWERED, FrameRecord
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.bundle.ladder import rate_ladder
from pipeline.codec import Reference, ReferenceId, dequantise
from pipeline.errors import BitstreamError
from pipeline.frame import Frame
from pipeline.preprocess import PreprocessSpec
from pipeline.rate_control import EncodeChoice, Rung, hardly_changed
from pipeline.wire.messages import Welcome

Float32 = NDArray[np.float32]
KEY_EVERY_S = 2.0
"""Between key frames of a video codec over a network that loses frames, in seconds."""
Seen = tuple[str, Any]
"""("latent", float32 [C, H, W]) or ("picture", float32 [1, 3, S, S]): what the server computes an answer from."""


class OurCoder:
    """The edge's own `LatentPayload`, fed with latents, and a server's references."""

    kind = "bitstream"

    def __init__(self, bundle: Bundle, latents: Sequence[Float32], fps: float, *, repeat_ms: int) -> None:
        self.encode_s = self.decode_s = self.server_s = 0.0
        self.seen: dict[int, Seen] = {}
        self.ladder = rate_ladder(bundle.edge_spec)
        self._latents, self._fps, self._repeat_ms = latents, fps, repeat_ms
        self._codec = bundle.latent_codec()
        self._next: Float32 = latents[0]
        self._payload = LatentPayload(self, self._codec, self._codec.spec.operating_points, operating_point=0)  # type: ignore[arg-type]
        self._held: OrderedDict[ReferenceId, Reference] = OrderedDict()
        self._epoch = 0

    # The payload takes this object for its encoder.
    spec = PreprocessSpec()

    def preprocess(self, pixels: Any) -> Any:
        return pixels

    def analyse(self, image: Any) -> Float32:
        return self._next

    def encode(self, frame: int, choice: EncodeChoice) -> bytes | int:
        self._next = self._latents[frame % len(self._latents)]
        self._payload.choose(choice)
        encoded = self._payload.encode(Frame(frame, 0.0, _NO_PIXELS), 0.0)
        of = encoded.reference
        if of is None or not hardly_changed(encoded.changed_share) or (frame - of) / self._fps * 1e3 > self._repeat_ms:
            return encoded.payload
        return of

    def decode(self, frame: int, payload: bytes) -> tuple[int, int] | None:
        try:
            decoded = self._codec.decode(payload, references=self._held)
        except BitstreamError:
            return None
        reference = decoded.as_reference(epoch=self._epoch, frame=frame)
        self._held[reference.id] = reference
        while len(self._held) > limits.REFERENCE_WINDOW + limits.CREDIT_FRAMES:  # as analytics_server.work does
            self._held.popitem(last=False)
        point = self._codec.spec.operating_points[decoded.operating_point]
        self.seen[frame] = ("latent", dequantise(decoded.symbols, point))
        return decoded.decoded_layers, decoded.layers

    def opened(self, welcome: Welcome) -> None:
        self._epoch = welcome.reference_epoch
        self._payload.opened(welcome)

    def answered(self, frame: int, decoded_layers: int) -> None:
        self._payload.ended(FrameRecord(frame=frame, state=ANSWERED, decoded_layers=decoded_layers))

    def dropped(self, frame: int, cause: str) -> None:
        self._payload.ended(FrameRecord(frame=frame, state=cause))


_NO_PIXELS = np.zeros((1, 1, 3), np.uint8)


class StillCoder:
    """JPEG or WebP at the qualities of its ladder; every frame stands alone."""

    kind = "jpeg"

    def __init__(self, codecs: Sequence[PictureCodec], clip: Clip, files: dict[tuple[int, int], bytes]) -> None:
        """`files`: (quality index, frame of the clip) → file, shared by all runs over the clip."""
        self.encode_s = self.decode_s = self.server_s = 0.0
        self.seen: dict[int, Seen] = {}
        self._codecs, self._clip, self._files = codecs, clip, files
        samples = range(0, len(clip), 10)
        sizes = [float(np.mean([len(self._file(index, one)) for one in samples])) for index in range(len(codecs))]
        self.ladder = tuple(
            Rung(EncodeChoice(index), f"{codec.name} {codec.setting}", sizes[index])
            for index, codec in enumerate(codecs)
        )
        self._sent: dict[int, int] = {}

    def _file(self, index: int, frame: int) -> bytes:
        key = (index, frame % len(self._clip))
        if key not in self._files:
            self._files[key] = self._codecs[index].compress(self._clip.squares_NSS3[key[1]])
        return self._files[key]

    def encode(self, frame: int, choice: EncodeChoice) -> bytes | int:
        self._sent[frame] = choice.operating_point
        return self._file(choice.operating_point, frame)

    def decode(self, frame: int, payload: bytes) -> tuple[int, int] | None:
        index = self._sent[frame]
        self.seen[frame] = ("file", (index, frame % len(self._clip)))
        return 0, 0

    def picture(self, key: tuple[int, int]) -> Float32:
        """What the server looks at for a file of `seen`."""
        return self._codecs[key[0]].expand(self._files[key])

    def opened(self, welcome: Welcome) -> None: ...

    def answered(self, frame: int, decoded_layers: int) -> None: ...

    def dropped(self, frame: int, cause: str) -> None: ...


class VideoCoder:
    """x264 for low delay: a key frame every KEY_EVERY_S, and at once when a frame was lost. A rung is a crf.

    What follows a lost frame does not decode until the next key frame comes; the server says so, and the edge then
    sends one (as RTCP's picture loss indication does, RFC 4585).
    """

    kind = "jpeg"  # any file: the wire's message for pictures carries it

    def __init__(self, clip: Clip, fps: float, crfs: Sequence[int], sizes: Sequence[float]) -> None:
        self.encode_s = self.decode_s = self.server_s = 0.0
        self.seen: dict[int, Seen] = {}
        self.ladder = tuple(
            Rung(EncodeChoice(index), f"x264 crf {crf}", size)
            for index, (crf, size) in enumerate(zip(crfs, sizes, strict=True))
        )
        self._clip, self._fps, self._crfs = clip, fps, crfs
        self._crf = -1
        self._encoder: Any = None
        self._decoder: Any = av.CodecContext.create("h264", "r")
        self._decoder.thread_count = 1
        self._ordinal = 0
        self._ordinals: dict[int, tuple[int, bool]] = {}  # frame → its place in the order of encoding, key frame
        self._expected = 0
        self._key_wanted = True
        self._key_at = -1e9

    def encode(self, frame: int, choice: EncodeChoice) -> bytes | int:
        crf = self._crfs[choice.operating_point]
        if crf != self._crf:
            self._crf = crf
            self._encoder = _encoder(self._clip.squares_NSS3.shape[1], self._fps, crf)
            self._key_wanted = True
        key = self._key_wanted or frame / self._fps - self._key_at >= KEY_EVERY_S
        picture = av.VideoFrame.from_ndarray(self._clip.squares_NSS3[frame % len(self._clip)], format="rgb24")
        picture = picture.reformat(format="yuv420p")
        picture.pts, picture.time_base = frame, self._encoder.time_base
        picture.pict_type = av.video.frame.PictureType.I if key else av.video.frame.PictureType.NONE
        data = b"".join(bytes(packet) for packet in self._encoder.encode(picture))
        if key:
            self._key_wanted, self._key_at = False, frame / self._fps
        self._ordinals[frame] = (self._ordinal, key)
        self._ordinal += 1
        return data

    def decode(self, frame: int, payload: bytes) -> tuple[int, int] | None:
        ordinal, key = self._ordinals[frame]
        if ordinal != self._expected and not key:
            return None
        try:
            pictures = self._decoder.decode(av.Packet(payload))
        except av.error.FFmpegError:
            return None
        if not pictures:
            return None
        self._expected = ordinal + 1
        self.seen[frame] = ("pixels", pictures[-1].to_ndarray(format="rgb24"))
        return 0, 0

    def opened(self, welcome: Welcome) -> None: ...

    def answered(self, frame: int, decoded_layers: int) -> None: ...

    def dropped(self, frame: int, cause: str) -> None:
        if frame in self._ordinals and self._ordinals[frame][0] >= 0 and not self._key_wanted:
            # Superseded after it was encoded, lost, or undecodable: the chain is broken unless a key frame came since.
            latest_key = max((place for place, key in self._ordinals.values() if key), default=-1)
            self._key_wanted = self._ordinals[frame][0] >= latest_key


def _encoder(side: int, fps: float, crf: int) -> Any:
    rate = Fraction(fps).limit_denominator(1001)
    context: Any = av.CodecContext.create("libx264", "w")
    context.height = context.width = side
    context.pix_fmt = "yuv420p"
    context.time_base, context.framerate = 1 / rate, rate
    context.gop_size = 10_000  # key frames when we say so
    context.thread_count = 1
    context.options = {"crf": str(crf), "preset": "veryfast", "tune": "zerolatency", "forced-idr": "1"}
    return context


def x264_sizes(clip: Clip, fps: float, crfs: Sequence[int], frames: int = 60) -> list[float]:
    """Mean bytes of a frame at each crf, key frame included, over the clip's first frames."""
    sizes = []
    with quiet():
        for crf in crfs:
            coder = VideoCoder(clip, fps, [crf], [1.0])
            sizes.append(float(np.mean([len(coder.encode(frame, EncodeChoice(0))) for frame in range(frames)])))  # type: ignore[arg-type]
    return sizes


def median_s(function: Any, times: int = 9) -> float:
    """Seconds that a call takes, the median of a few."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))
