"""The clips of a video benchmark: squares as the encoder sees them live, in order of time, and the judge of each.

Axes: N frames, S side of the encoder's input, C H W the latent, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_node.media import VideoFile
from edge_node.payload import to_pixels
from edge_node.sources import VIDEO_SUFFIXES
from pipeline.errors import InputError
from pipeline.preprocess import Preprocessor, PreprocessSpec
from recordings.samples import sample_path

FRAMES_MIN = 8
"""A clip of fewer frames tells nothing about a stream, and is left out."""
SAMPLES = ("tour", "walk")


@dataclass(frozen=True, eq=False)
class Clip:
    """uint8 `squares_NSS3`, and how many of them a second."""

    name: str
    fps: float
    squares_NSS3: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.squares_NSS3)


def find_clips(places: Sequence[Path]) -> list[Path]:
    """Video files, and those of folders; none given: the bundled samples. Raises InputError if there are none."""
    if not places:
        return [Path(sample_path(name)) for name in SAMPLES]
    found: list[Path] = []
    for place in places:
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        found += [file for file in inside if file.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise InputError(f"no video among {', '.join(map(str, places))}: name videos or a folder of them")
    return found


def read_clips(files: Iterable[Path], spec: PreprocessSpec, *, frames: int) -> tuple[list[Clip], list[str]]:
    """(clips, what was left out and why): the first `frames` frames of each file. Raises InputError if none is left."""
    clips, notes = [], []
    for file in files:
        try:
            clip = read_clip(file, spec, frames=frames)
        except InputError as error:
            notes.append(str(error))
            continue
        if clip.name in {other.name for other in clips}:  # the same name with another suffix
            clip = replace(clip, name=file.name)
        if len(clip) < FRAMES_MIN:
            notes.append(f"{clip.name} has {len(clip)} frames, expected at least {FRAMES_MIN}: left out")
        else:
            clips.append(clip)
    if not clips:
        raise InputError(f"no clip can be used: {notes[0] if notes else 'none was named'}")
    return clips, notes


def read_clip(file: Path, spec: PreprocessSpec, *, frames: int) -> Clip:
    """The first frames of a video as squares. Raises InputError if it does not read."""
    video, preprocess = VideoFile(str(file)), Preprocessor(spec)
    squares = [to_pixels(preprocess(pixels)) for pixels, _time in islice(iter(video), frames)]
    size = spec.size
    stacked = np.stack(squares) if squares else np.empty((0, size, size, 3), np.uint8)
    return Clip(file.stem, float(video.fps), stacked)
