"""What tables are counted on: photos for frames that stand alone, clips for frames with a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.packing.shipped import encoder_inputs
from pipeline.preprocess import Preprocessor, PreprocessSpec
from pipeline.training.data import PhotoSource, decode_rgb, read_photos

CLIP_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
CLIP_FPS = 10
"""About how many frames a second of a clip are taken."""

Say = Callable[[str], None]


def counting_inputs(sources: Sequence[PhotoSource], *, limit: int, say: Say) -> Iterator[np.ndarray]:
    """Photos as encoder inputs, as many from each source, float32 [1, 3, 224, 224]; says which do not decode."""
    share = -(-limit // len(sources))
    for source in sources:
        for name, encoded in islice(read_photos(source), share):
            try:
                pixels = decode_rgb(encoded, name=name)
            except InputError as error:
                say(f"left out: {error}")
                continue
            yield encoder_inputs([pixels])


def clip_files(folder: Path) -> list[Path]:
    """The videos of a folder by name. Raises InputError if there are none."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in CLIP_SUFFIXES) if folder.is_dir() else []
    if not files:
        raise InputError(f"no clips in {folder}: expected a folder with {', '.join(CLIP_SUFFIXES)}")
    return files


def read_clips(folder: Path, *, say: Say, frames_max: int = 30, side: int = 224) -> Iterator[list[np.ndarray]]:
    """The first frames of each video of a folder as encoder inputs, float32 [1, 3, side, side]; says which do not
    decode. Raises InputError if there are none.
    """
    for file in clip_files(folder):
        try:
            frames = _read_clip(file, frames_max, side)
        except InputError as error:
            say(f"left out: {error}")
            continue
        yield frames


def _read_clip(file: Path, frames_max: int, side: int) -> list[np.ndarray]:
    import av

    preprocess = Preprocessor(PreprocessSpec(side))
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise InputError(f"{file.name} has no pictures")
            stream = container.streams.video[0]
            every = max(round(float(stream.average_rate or 30) / CLIP_FPS), 1)
            frames = islice(container.decode(stream), 0, frames_max * every, every)
            return [preprocess(frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)) for frame in frames]
    except av.FFmpegError as error:
        raise InputError(f"{file.name} does not decode: {error}") from error
