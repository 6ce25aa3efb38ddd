"""Make the sample clips from photographs: `python -m recordings.samples.make_samples PHOTOS`.

PHOTOS is a folder of public-domain photographs with a `manifest.json` that names source and licence of each. Every
photograph becomes a *shot* of a simulated handheld camera: a slow pan and zoom, hand tremor, drifting exposure,
sensor noise; shots follow each other by a crossfade or a quick swipe of the camera. The objects stay inside the
largest centred square, which is what the edge looks at. The same photographs always give the same frames.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

FPS = 30
SHOT_FRAMES = 90
TRANSITION_FRAMES = 10
OVERSAMPLING = 2
"""Frames are drawn this many times larger and averaged down: antialiasing, as a lens and sensor have it."""
NOISE_SIGMA = 1.6
"""Of the sensor noise, in grey levels."""
CLIP_BYTES_MAX = 3_000_000
LICENCES_ACCEPTED = ("CC0", "public domain")

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Pose:
    """Where the camera looks: centre as fractions of the photograph's sides, zoom as one of the widest view."""

    x: float
    y: float
    zoom: float


@dataclass(frozen=True)
class Shot:
    photo: str
    start: Pose
    end: Pose


@dataclass(frozen=True)
class Clip:
    name: str
    width: int
    height: int
    shots: tuple[Shot, ...]


CLIPS = (
    Clip(
        "tour",
        640,
        480,
        (
            Shot("max-pizza.jpg", Pose(0.48, 0.52, 0.98), Pose(0.55, 0.55, 0.82)),
            Shot("max-dog.jpg", Pose(0.46, 0.52, 0.92), Pose(0.44, 0.50, 0.68)),
            Shot("skimage-coffee.png", Pose(0.48, 0.50, 0.96), Pose(0.50, 0.50, 0.84)),
            Shot("gc3pie-zebra.jpg", Pose(0.44, 0.50, 0.82), Pose(0.56, 0.46, 0.92)),
            Shot("max-taxis.jpg", Pose(0.46, 0.62, 0.74), Pose(0.60, 0.66, 0.60)),
            Shot("max-burger.jpg", Pose(0.34, 0.42, 0.66), Pose(0.40, 0.46, 0.84)),
            Shot("max-plane.jpg", Pose(0.50, 0.50, 0.56), Pose(0.47, 0.49, 0.38)),
            Shot("skimage-chelsea.png", Pose(0.48, 0.50, 0.97), Pose(0.50, 0.46, 0.88)),
        ),
    ),
    Clip(
        "walk",
        640,
        360,
        (
            Shot("max-shuttle.jpg", Pose(0.42, 0.52, 0.96), Pose(0.40, 0.46, 0.78)),
            Shot("max-coffee.jpg", Pose(0.50, 0.58, 0.97), Pose(0.50, 0.60, 0.97)),
            Shot("max-cat.jpg", Pose(0.46, 0.52, 0.96), Pose(0.42, 0.46, 0.86)),
            Shot("max-elephant.jpg", Pose(0.50, 0.24, 0.97), Pose(0.50, 0.33, 0.97)),
            Shot("max-food.png", Pose(0.46, 0.54, 0.97), Pose(0.42, 0.55, 0.86)),
            Shot("max-jockey.jpg", Pose(0.58, 0.46, 0.82), Pose(0.56, 0.44, 0.92)),
            Shot("mdn-flower-frame.jpg", Pose(0.46, 0.47, 0.86), Pose(0.47, 0.44, 0.60)),
            Shot("gc3pie-butterfly.jpg", Pose(0.48, 0.50, 0.88), Pose(0.50, 0.52, 0.97)),
        ),
    ),
)


class Hand:
    """Tremor and drift of a hand: sums of a few slow sinusoids per axis, as smooth as they are unpredictable."""

    def __init__(self, rng: np.random.Generator) -> None:
        # Breathing and sway below 1 Hz, tremor between 3 and 7 Hz, twenty times smaller.
        self._hertz = np.concatenate([rng.uniform(0.15, 0.9, (3, 4)), rng.uniform(3.0, 7.0, (3, 3))], axis=1)
        self._size = np.concatenate([rng.uniform(0.3, 1.0, (3, 4)), rng.uniform(0.02, 0.08, (3, 3))], axis=1)
        self._phase = rng.uniform(0, 2 * np.pi, (3, 7))

    def at(self, seconds: float) -> tuple[float, float, float]:
        """Sideways and upwards as fractions of the view's width, roll in radians."""
        wave = (self._size * np.sin(2 * np.pi * self._hertz * seconds + self._phase)).sum(axis=1)
        return float(0.006 * wave[0]), float(0.006 * wave[1]), float(0.005 * wave[2])


def draw(photo: Image.Image, pose: Pose, shake: tuple[float, float, float], width: int, height: int) -> Pixels:
    """What the camera sees of `photo`: float32 (height, width, 3) in 0 to 255. The view never leaves the photograph."""
    widest = min(photo.width, photo.height * width / height)
    sideways, upwards, roll = shake
    view_width = widest * pose.zoom
    cosine, sine = np.cos(roll), np.sin(roll)
    view_height = view_width * height / width
    # Half extents of the rolled view's bounding box; if it does not fit, the camera steps nearer.
    half_x = (view_width * abs(cosine) + view_height * abs(sine)) / 2
    half_y = (view_width * abs(sine) + view_height * abs(cosine)) / 2
    shrink = min(1.0, photo.width / (2 * half_x), photo.height / (2 * half_y))
    view_width, half_x, half_y = view_width * shrink, half_x * shrink, half_y * shrink
    x = float(np.clip(pose.x * photo.width + sideways * view_width, half_x, photo.width - half_x))
    y = float(np.clip(pose.y * photo.height + upwards * view_width, half_y, photo.height - half_y))
    large = (width * OVERSAMPLING, height * OVERSAMPLING)
    scale = view_width / large[0]
    a, b = scale * cosine, -scale * sine
    c, d = scale * sine, scale * cosine
    affine = (a, b, x - a * large[0] / 2 - b * large[1] / 2, c, d, y - c * large[0] / 2 - d * large[1] / 2)
    seen = photo.transform(large, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.asarray(seen.resize((width, height), Image.Resampling.BOX), np.float32)


def shot_frames(shot: Shot, photo: Image.Image, clip: Clip, rng: np.random.Generator) -> Iterator[Pixels]:
    """SHOT_FRAMES + TRANSITION_FRAMES frames of a shot (the last ones overlap with the next shot), without noise."""
    hand = Hand(rng)
    total = SHOT_FRAMES + TRANSITION_FRAMES
    gain_hertz, gain_phase = rng.uniform(0.1, 0.25), rng.uniform(0, 2 * np.pi)
    for number in range(total):
        way = number / (total - 1)
        eased = way * way * (3 - 2 * way)
        pose = Pose(
            shot.start.x + (shot.end.x - shot.start.x) * eased,
            shot.start.y + (shot.end.y - shot.start.y) * eased,
            shot.start.zoom + (shot.end.zoom - shot.start.zoom) * eased,
        )
        gain = 1.0 + 0.05 * np.sin(2 * np.pi * gain_hertz * number / FPS + gain_phase)
        yield draw(photo, pose, hand.at(number / FPS), clip.width, clip.height) * np.float32(gain)


def crossfade(leaving: Pixels, coming: Pixels, way: float) -> Pixels:
    """Mix of two frames, `way` from 0 to 1."""
    return (leaving * np.float32(1 - way) + coming * np.float32(way)).astype(np.float32)


def swipe(leaving: Pixels, coming: Pixels, way: float) -> Pixels:
    """A quick turn of the camera from one scene to the next, with the motion blur of its speed."""
    width = leaving.shape[1]
    eased = way * way * (3 - 2 * way)
    blur = max(1, round(width * 6 * way * (1 - way) / TRANSITION_FRAMES * 0.5))
    strip = np.concatenate([leaving, coming], axis=1)
    sums = np.cumsum(np.pad(strip, ((0, 0), (blur, 0), (0, 0)), mode="edge"), axis=1, dtype=np.float64)
    blurred = (sums[:, blur:] - sums[:, :-blur]) / blur
    left = round(eased * width)
    seen: Pixels = blurred[:, left : left + width].astype(np.float32)
    return seen


def clip_frames(clip: Clip, photos: Path) -> Iterator[NDArray[np.uint8]]:
    """All frames of a clip: uint8 RGB (height, width, 3)."""
    rng = np.random.default_rng([7, len(clip.name), clip.height])
    carried: list[Pixels] = []
    for index, shot in enumerate(clip.shots):
        with Image.open(photos / shot.photo) as picture:
            photo = picture.convert("RGB")
        last = index == len(clip.shots) - 1
        transition = swipe if index % 2 else crossfade
        frames = shot_frames(shot, photo, clip, rng)
        for number, leaving in enumerate(carried):
            yield sensor(transition(leaving, next(frames), (number + 1) / (TRANSITION_FRAMES + 1)), rng)
        for frame in itertools.islice(frames, SHOT_FRAMES - len(carried)):
            yield sensor(frame, rng)
        carried = [] if last else list(frames)


def sensor(light: Pixels, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Noise and rounding of an image sensor."""
    noise = rng.standard_normal(light.shape, dtype=np.float32) * np.float32(NOISE_SIGMA)
    return np.clip(np.rint(light + noise), 0, 255).astype(np.uint8)


def write_clip(clip: Clip, photos: Path, out: Path, crf: int) -> Path:
    """Encode `clip` as H.264 in MP4. Returns its path; ValueError if it is larger than CLIP_BYTES_MAX."""
    path = out / f"{clip.name}.mp4"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        # One thread and no encoder banner: the same bytes on every machine with the same library.
        options = {"crf": str(crf), "preset": "slow", "threads": "1", "tune": "film"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for number, pixels in enumerate(clip_frames(clip, photos)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if path.stat().st_size > CLIP_BYTES_MAX:
        raise ValueError(f"{path} is {path.stat().st_size} bytes, limit {CLIP_BYTES_MAX}: raise --crf")
    return path


def licences(photos: Path) -> str:
    """Text of the LICENSES file: one line for each photograph used. ValueError for one without a free licence."""
    manifest = {entry["file"]: entry for entry in json.loads((photos / "manifest.json").read_text("utf-8"))}
    lines = [
        "The clips in this folder were made by make_samples.py from these photographs, all CC0 1.0 or public domain.",
        "The clips themselves are dedicated to the public domain (CC0 1.0) too.",
    ]
    for clip in CLIPS:
        lines += ["", f"{clip.name}.mp4"]
        for shot in clip.shots:
            entry = manifest[shot.photo]
            if not any(accepted in entry["licence"] for accepted in LICENCES_ACCEPTED):
                raise ValueError(f"{shot.photo} has licence {entry['licence']!r}: only {LICENCES_ACCEPTED} may ship")
            lines.append(f"  {shot.photo}  (source: {entry['source']}; sha256 {entry['sha256']})")
            lines.append(f"      {entry['licence']}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the sample clips from public-domain photographs.")
    parser.add_argument("photos", type=Path, help="folder with the photographs and manifest.json")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the clips go (default: here)")
    parser.add_argument("--crf", type=int, default=23, help="x264 quality: larger is smaller and worse")
    arguments = parser.parse_args()
    (arguments.out / "LICENSES").write_text(licences(arguments.photos), "utf-8")
    for clip in CLIPS:
        path = write_clip(clip, arguments.photos, arguments.out, arguments.crf)
        seconds = len(clip.shots) * SHOT_FRAMES / FPS
        print(f"{path}: {path.stat().st_size} bytes, {seconds:.0f} s, {clip.width}×{clip.height}")


if __name__ == "__main__":
    main()
