"""Training photos: decoded once into one memory-mapped array, then random crops as float batches.

Decoding JPEGs would be the brake on a CPU, so ``build_photo_store`` writes all pixels as raw uint8 into a folder that
the user names (it is derived data: never commit it), and ``PhotoStore`` maps it. No labels are needed to train the
codec. A photo that does not decode is named in ``PhotoStore.broken`` and left out.

A batch depends only on (seed, step): a resumed run sees the very crops that an uninterrupted one would have seen.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import ConfigError, InputError

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class PhotoSource:
    """A tar file or a folder of images. Only names under ``prefix`` count, every ``stride``-th of them in sorted
    order.

    A photo of weight 0.5 is drawn half as often as one of weight 1.
    """

    path: Path
    prefix: str = ""
    stride: int = 1
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> PhotoSource:
        """``PATH[:PREFIX[:STRIDE[:WEIGHT]]]``. Raises ConfigError for another form, InputError for no such path."""
        path, prefix, stride, weight, *more = [*text.split(":"), "", "", ""]
        try:
            source = cls(Path(path).expanduser(), prefix, int(stride or 1), float(weight or 1.0))
        except ValueError:
            source = None
        if source is None or any(more) or source.stride < 1 or source.weight < 0:
            raise ConfigError(
                f"photos are {text!r}, expected PATH[:PREFIX[:STRIDE[:WEIGHT]]], e.g. food.tar:train/:2:0.5"
            )
        if not source.path.exists():
            raise InputError(f"no photos at {source.path}: check the path")
        return source

    def label(self) -> str:
        """What identifies it wherever it lies: its name, what is taken of it, and its size in bytes."""
        files = _image_files(self.path) if self.path.is_dir() else [self.path]
        size = sum(file.stat().st_size for file in files)
        return f"{self.path.name}:{self.prefix}:{self.stride}:{self.weight:g}, {size} bytes"


def read_photos(source: PhotoSource) -> Iterator[tuple[str, bytes]]:
    """(name, encoded bytes) of each image, sorted by name. Raises InputError if the source cannot be read."""
    try:
        if source.path.is_dir():
            files = sorted(_image_files(source.path))
            names = [file.relative_to(source.path).as_posix() for file in files]
            for name in [name for name in names if name.startswith(source.prefix)][:: source.stride]:
                yield name, (source.path / name).read_bytes()
            return
        with tarfile.open(source.path) as archive:
            members = {member.name: member for member in archive if Path(member.name).suffix.lower() in _IMAGE_SUFFIXES}
            for name in sorted(name for name in members if name.startswith(source.prefix))[:: source.stride]:
                stream = archive.extractfile(members[name])
                assert stream is not None
                yield name, stream.read()
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"cannot read photos from {source.path}: {error}") from error


def _image_files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.suffix.lower() in _IMAGE_SUFFIXES]


def decode_rgb(encoded: bytes, *, name: str = "a photo") -> np.ndarray:
    """uint8 [height, width, 3]. Raises InputError, which says ``name``, if it is no image or a broken one."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is no image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} does not decode: {error}") from error


def build_photo_store(
    sources: Sequence[PhotoSource], folder: Path, *, on_photo: Callable[[int], None] | None = None
) -> PhotoStore:
    """Decode all sources into ``folder`` (pixels.u8, index.npz) and open it; an existing store is opened as it is.

    ``on_photo`` is told how many photos are done. Raises ConfigError if the folder holds other sources' photos,
    InputError if there is no photo that decodes, or no room for the pixels.
    """
    if (folder / "index.npz").exists():
        store = PhotoStore(folder)
        wanted = [source.label() for source in sources]
        if store.sources and store.sources != wanted:
            raise ConfigError(
                f"store {folder} holds {', '.join(store.sources)}, asked for are {', '.join(wanted)}: "
                "name another --store, or delete this one"
            )
        return store
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _decode_into(folder, sources, on_photo or (lambda _done: None))
    except OSError as error:
        (folder / "pixels.u8").unlink(missing_ok=True)
        raise InputError(f"cannot store the photos' pixels in {folder}: {error}: name another --store") from error
    return PhotoStore(folder)


def _decode_into(folder: Path, sources: Sequence[PhotoSource], on_photo: Callable[[int], None]) -> None:
    digest, offsets, shapes, weights, broken = hashlib.sha256(), [0], [], [], []
    with (folder / "pixels.u8").open("wb") as pixels:
        for source in sources:
            for name, encoded in read_photos(source):
                try:
                    image = decode_rgb(encoded, name=f"{source.path.name}/{name}")
                except InputError as error:
                    broken.append(str(error))
                    continue
                digest.update(encoded)
                pixels.write(image.tobytes())
                offsets.append(offsets[-1] + image.size)
                shapes.append(image.shape[:2])
                weights.append(source.weight)
                on_photo(len(shapes))
    if not any(weights):
        places = ", ".join(str(source.path) for source in sources)
        found = f"{len(broken)} images, none of which decodes ({broken[0]})" if broken else "no images"
        (folder / "pixels.u8").unlink()
        raise InputError(f"{places}: {found}; expected {', '.join(sorted(_IMAGE_SUFFIXES))} in a tar or folder")
    np.savez(
        folder / "index.npz",
        offsets=offsets,
        shapes=shapes,
        weights=weights,
        sha256=digest.hexdigest(),
        sources=np.array([source.label() for source in sources]),
        broken=np.array(broken, dtype=str),
    )


class PhotoStore:
    """Decoded photos of any size; ``store[i]`` is a uint8 [height, width, 3] view. ``sha256`` is over the encoded
    files in order; ``sources`` says what they came from (empty in old stores), ``broken`` what did not decode and why.

    Raises InputError if the folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        try:
            with np.load(folder / "index.npz") as index:
                self._offsets = index["offsets"]
                self._shapes = index["shapes"]
                self.weights = index["weights"]
                self.sha256 = str(index["sha256"])
                self.sources = [str(name) for name in index.get("sources", ())]
                self.broken = [str(line) for line in index.get("broken", ())]
            self._pixels = np.memmap(folder / "pixels.u8", dtype=np.uint8, mode="r")
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"store {folder} cannot be read: {error}: delete it, it is made again") from error
        if len(self._pixels) != self._offsets[-1]:
            raise InputError(f"store {folder} is cut short: delete it, it is made again")

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, number: int) -> np.ndarray:
        height, width = self._shapes[number]
        return self._pixels[self._offsets[number] : self._offsets[number + 1]].reshape(height, width, 3)


@dataclass(frozen=True)
class Augmentation:
    """Crops are taken at ``scale`` (output pixels a photo pixel, log-uniform); jitter factors are uniform in 1 +- the
    given value.
    """

    scale: tuple[float, float] = (0.8, 1.3)
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2


class CropSampler:
    """Random crops for training: ``batch(step, size, count)`` -> float32 RGB in [0, 1], ``image_BCHW``, channels
    last.
    """

    def __init__(self, store: PhotoStore, *, seed: int, augmentation: Augmentation | None = None) -> None:
        self._store = store
        self._seed = seed
        self._cumulative = np.cumsum(store.weights) / np.sum(store.weights)
        self._augmentation = augmentation if augmentation is not None else Augmentation()

    def batch(self, step: int, *, size: int, count: int) -> Tensor:
        """``count`` crops of ``size`` x ``size`` pixels; the same for the same seed, step, size and count."""
        random = np.random.default_rng((self._seed, step))
        crops = [self._crop(random, size) for _ in range(count)]
        image_BCHW = torch.cat(crops).contiguous(memory_format=torch.channels_last).float() / 255
        return _jitter(image_BCHW, random, self._augmentation)

    def _crop(self, random: np.random.Generator, size: int) -> Tensor:
        photo = self._store[int(np.searchsorted(self._cumulative, random.random(), side="right"))]
        low, high = np.log(self._augmentation.scale)
        shortest = min(photo.shape[:2])
        side = min(max(round(size / np.exp(random.uniform(low, high))), 1), shortest)
        top, left = (int(random.integers(extent - side + 1)) for extent in photo.shape[:2])
        crop = photo[top : top + side, left : left + side]
        if random.random() < 0.5:
            crop = crop[:, ::-1]
        return resize_uint8(crop, (size, size))


def resize_uint8(photo: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Bicubic with antialiasing, uint8 [height, width, 3] -> uint8 [1, 3, *size]."""
    pixels_BCHW = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None]
    if photo.shape[:2] == size:
        return pixels_BCHW
    return F.interpolate(pixels_BCHW, size, mode="bicubic", antialias=True)


def evaluation_view(photo: np.ndarray, *, side: int = 224, short_side: int = 256) -> Tensor:
    """The evaluation transform: short side to 256, centre crop of 224; float32 [1, 3, side, side] in [0, 1]."""
    height, width = photo.shape[:2]
    scale = short_side / min(height, width)
    resized = resize_uint8(photo, (max(round(height * scale), side), max(round(width * scale), side)))
    top, left = ((extent - side) // 2 for extent in resized.shape[-2:])
    return resized[:, :, top : top + side, left : left + side].float() / 255


def _jitter(image_BCHW: Tensor, random: np.random.Generator, augmentation: Augmentation) -> Tensor:
    """Brightness, then contrast around the image's mean, then saturation around its grey; clipped to [0, 1]."""

    def factor_B111(spread: float) -> Tensor:
        return torch.from_numpy(random.uniform(1 - spread, 1 + spread, (len(image_BCHW), 1, 1, 1)).astype(np.float32))

    x = image_BCHW * factor_B111(augmentation.brightness)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * factor_B111(augmentation.contrast)
    grey = x.mean(dim=1, keepdim=True)
    return (grey + (x - grey) * factor_B111(augmentation.saturation)).clamp_(0, 1)
