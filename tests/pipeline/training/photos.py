"""Small made-up photos for the training tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, *, height: int = 72, width: int = 96) -> np.ndarray:
    """Smooth colour noise, uint8 [height, width, 3]: something that a codec can learn."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def write_tar(file: Path, names: list[str], *, labels: dict[str, int] | None = None) -> Path:
    """A tar of PNG photos, named as given; with ``labels`` a labels.csv too."""
    with tarfile.open(file, "w") as archive:
        for seed, name in enumerate(names):
            stream = io.BytesIO()
            Image.fromarray(photo(seed)).save(stream, "PNG")
            _add(archive, name, stream.getvalue())
        if labels is not None:
            rows = [f"{name},{index}" for name, index in labels.items()]
            _add(archive, "labels.csv", "\n".join(["filename,imagenet_index", *rows]).encode())
    return file


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
