"""Features of many pictures through the codec, as fast as the machine allows, without torch.

Threads read, decode, scale and encode pictures (all of it outside the interpreter lock); the caller's thread runs the
decoder and the backbone in batches. Entropy coding is left out: it is exact, so the symbols that a server would decode
are the ones that went in.

Axes: M views, D pooled features, F h w the feature map at the cut, C H W the latent, S the side of the encoder's input.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import limits
from pipeline.bundle import Backbone, Bundle
from pipeline.codec.quantisation import dequantise, quantise
from pipeline.datasets import Item, decode_image
from pipeline.errors import ConfigError, FrankenError
from pipeline.preprocess import Preprocessor
from pipeline.runtime.encoder import FrameEncoder
from pipeline.runtime.engine import Engine
from pipeline.runtime.engines import usable_cores
from tasks.through_codec import View

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]
Pixels = NDArray[np.uint8]

BATCH = 16
_AHEAD = 4
"""Pictures per thread that may be encoded and waiting for the engine."""
_ORIENTATION = 0x0112
MAP_BYTES_MAX = 500_000_000
"""Of feature maps: 16,000 views on lite0."""
_HALF_MAX = 65_504.0


@dataclass(frozen=True, eq=False)
class PictureFeatures:
    """`pooled_MD` float32, `pictures_M` int64: which picture each row is a view of; `originals_M`: the first picture
    with the same bytes; `broken`: a line for each picture that could not be read; `maps_MFhw`: feature maps, where they
    were wanted."""

    pooled_MD: Float32
    pictures_M: NDArray[np.int64]
    originals_M: NDArray[np.int64]
    broken: tuple[str, ...]
    maps_MFhw: Float16 | None = None


def picture_features(
    items: Sequence[Item],
    views: Callable[[int], Sequence[View]],
    bundle: Bundle,
    engine: Engine,
    *,
    operating_point: str = "",
    threads: int = 0,
    maps: bool = False,
    on_picture: Callable[[int], None] = lambda done: None,
) -> PictureFeatures:
    """Features of `views(i)` of each item i. `threads` 0: one a core. `on_picture` hears how many are done.

    `maps`: feature maps too. Raises ConfigError if there are too many of them, or the engine hands none out.
    """
    if maps:
        _check_maps(bundle.backbone(engine.backbone), sum(len(views(index)) for index in range(len(items))))
    workers = threads or usable_cores()
    encoders = _Encoders(bundle, operating_point)
    collected = _Collected(engine, maps)
    with ThreadPoolExecutor(workers, thread_name_prefix="encode") as pool:
        waiting: deque[tuple[int, Future[_Seen]]] = deque()
        try:
            for index in range(len(items) + workers * _AHEAD):
                if index < len(items):
                    waiting.append((index, pool.submit(encoders.latents, items[index], views(index))))
                if waiting and (len(waiting) >= workers * _AHEAD or index >= len(items)):
                    collected.take(*waiting.popleft(), items)
                    on_picture(min(index + 1, len(items)) - len(waiting))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    collected.flush()
    return collected.result()


@dataclass(frozen=True, eq=False)
class _Seen:
    """A picture: the hash of its bytes, and its latents (C, H, W), one for each view."""

    sha256: bytes
    latents: list[Float32]


class _Encoders:
    """An encoder for each thread: pictures to latents as a server would have them."""

    def __init__(self, bundle: Bundle, operating_point: str) -> None:
        self._bundle = bundle
        self._point = bundle.operating_points[bundle.edge_spec.operating_point_index(operating_point)]
        self._local = threading.local()

    def latents(self, item: Item, views: Sequence[View]) -> _Seen:
        """Dequantised latents of each view. Raises FrankenError, OSError for a picture that does not read."""
        side = self._bundle.edge_spec.preprocess.size
        data = item.read()
        pixels = upright_pixels(data, name=item.name, side=side) if isinstance(data, bytes) else data
        latents = []
        for view in views:
            image_13SS = self._preprocessor(view)(pixels)
            if view.mirrored:
                image_13SS = np.ascontiguousarray(image_13SS[..., ::-1])
            symbols = quantise(self._encoder().analyse(image_13SS), self._point)
            latents.append(dequantise(symbols, self._point))
        raw = data if isinstance(data, bytes) else data.tobytes()
        return _Seen(hashlib.sha256(raw).digest(), latents)

    def _encoder(self) -> FrameEncoder:
        if not hasattr(self._local, "encoder"):
            # fp32, so that heads do not depend on what is faster on this machine.
            self._local.encoder = FrameEncoder(self._bundle, provider="cpu", precision="fp32")
            self._local.preprocessors = {}
        encoder: FrameEncoder = self._local.encoder
        return encoder

    def _preprocessor(self, view: View) -> Preprocessor:
        self._encoder()
        known: dict[object, Preprocessor] = self._local.preprocessors
        return known.setdefault(view.spec, Preprocessor(view.spec))


class _Collected:
    """Latents on their way through the engine."""

    def __init__(self, engine: Engine, maps: bool) -> None:
        self._engine = engine
        self._latents: list[Float32] = []
        self._pooled: list[Float32] = []
        self._maps: list[Float16] | None = [] if maps else None
        self._pictures: list[int] = []
        self._originals: list[int] = []
        self._first_with: dict[bytes, int] = {}
        self._broken: list[str] = []

    def take(self, index: int, future: Future[_Seen], items: Sequence[Item]) -> None:
        try:
            seen = future.result()
        except (FrankenError, OSError) as error:
            name, line = items[index].name, str(error)
            self._broken.append(line if line.startswith(name) else f"{name}: {line}")
            return
        self._latents += seen.latents
        self._pictures += [index] * len(seen.latents)
        self._originals += [self._first_with.setdefault(seen.sha256, index)] * len(seen.latents)
        if len(self._latents) >= BATCH:
            self.flush()

    def flush(self) -> None:
        if self._latents:
            features = self._engine.from_latents(np.stack(self._latents))
            self._pooled.append(np.array(features.pooled_BD, np.float32))
            if self._maps is not None:
                if features.feature_BFhw is None:
                    raise ConfigError(f"the engine of {self._engine.backbone} hands out no feature maps: use onnx")
                # Beyond half precision's range nothing is told apart anyway.
                self._maps.append(features.feature_BFhw.clip(-_HALF_MAX, _HALF_MAX).astype(np.float16))
            self._latents = []

    def result(self) -> PictureFeatures:
        nothing = np.zeros((0, self._engine.feature_width), np.float32)
        pooled = np.concatenate([nothing, *self._pooled])
        maps = np.concatenate(self._maps) if self._maps else None
        pictures, originals = (np.array(one, np.int64) for one in (self._pictures, self._originals))
        return PictureFeatures(pooled, pictures, originals, tuple(self._broken), maps)


def _check_maps(backbone: Backbone, views: int) -> None:
    size = 2 * views * backbone.feature_channels * backbone.feature_height * backbone.feature_width
    if size > MAP_BYTES_MAX:
        raise ConfigError(
            f"feature maps of {views} views take {size / 1e6:,.0f} MB of memory, limit {MAP_BYTES_MAX / 1e6:,.0f}: "
            "learn from fewer pictures, or from one view of each"
        )


def upright_pixels(data: bytes, *, name: str, side: int) -> Pixels:
    """RGB (H, W, 3) as a person sees the photo. A JPEG much larger than `side` is decoded at a reduced size: a photo of
    12 million pixels in a sixth of the time. Raises InputError."""
    if data[:3] != b"\xff\xd8\xff" or _turned(data):
        return decode_image(data, name=name, upright=True)
    try:
        import simplejpeg

        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except (ImportError, ValueError):
        return decode_image(data, name=name)  # which says what is wrong
    if height * width > limits.IMAGE_PIXELS_MAX:
        return decode_image(data, name=name)  # which refuses it
    if min(height, width) < 4 * side or space not in ("YCbCr", "Gray", "RGB"):
        return decode_image(data, name=name)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=2 * side, min_width=2 * side, min_factor=2)
    except ValueError:
        return decode_image(data, name=name)
    return pixels


def _turned(data: bytes) -> bool:
    """Whether a JPEG says that the camera was not held upright; reads its header alone."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return int(image.getexif().get(_ORIENTATION, 1)) != 1
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return False
