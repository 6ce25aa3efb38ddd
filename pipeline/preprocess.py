"""Pixels to the encoder's input: crop, antialiased resize, float32 planes in [0, 1].

The rule is part of the bundle (`edge/spec.toml`), because the encoder was trained behind it. There is one
implementation, in numpy, so that every machine computes the same: a resize along one axis is a product with a banded
matrix, and in blocks of few rows that product is dense, small and stays in the cache. It is exact for any ratio,
antialiased, and takes half the time of OpenCV's INTER_AREA, a third of Pillow's (docs/decisions/0004-resize.md).

Filters, all antialiased (they widen with the ratio when shrinking): `area` (mean over the covered pixels; bilinear
where it enlarges), `bilinear`, `bicubic` (a = -0.5, as Pillow and timm).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import limits
from pipeline.errors import BundleError, InputError

FILTERS = ("area", "bilinear", "bicubic")
CROPS = ("centre",)
COLOURS = ("rgb",)
SIZE_MAX = 1024
"""Largest side of the encoder's input, in pixels."""
EVALUATION_FRACTION = 224 / 256
"""Share of the short side that evaluation looks at: short side to 256, centre crop of 224 (timm's rule)."""

_PLANS_KEPT = 4
_BLOCK_INPUT_ROWS = 24


class Box(NamedTuple):
    """What the encoder sees of a picture, in its pixels: left, top, width, height (may lie between pixels)."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """How pixels become the encoder's input.

    `size`: side of the input in pixels. `crop`: "centre", the largest centred square. `fraction`: share of that
    square's side that is kept; 1 for live use, EVALUATION_FRACTION for accuracy figures. `filter`: one of FILTERS.
    """

    size: int = 224
    crop: str = "centre"
    colour: str = "rgb"
    filter: str = "area"
    fraction: float = 1.0

    def __post_init__(self) -> None:
        _one_of("preprocess.crop", self.crop, CROPS)
        _one_of("preprocess.colour", self.colour, COLOURS)
        _one_of("preprocess.filter", self.filter, FILTERS)
        if not 1 <= self.size <= SIZE_MAX:
            raise BundleError(f"preprocess.size is {self.size}, expected 1 to {SIZE_MAX}: use an intact bundle")
        if not 0.0 < self.fraction <= 1.0:
            raise BundleError(f"preprocess.fraction is {self.fraction}, expected above 0 and at most 1")

    def evaluation(self) -> PreprocessSpec:
        """The same spec with timm's evaluation crop and bicubic filter."""
        return PreprocessSpec(self.size, self.crop, self.colour, "bicubic", EVALUATION_FRACTION)

    def box(self, height: int, width: int) -> Box:
        """The part of a height x width picture that the encoder sees."""
        square = min(height, width)
        left, top, side = float((width - square) // 2), float((height - square) // 2), float(square)
        if self.fraction < 1.0:
            side = square * self.fraction
            left, top = (width - side) / 2, (height - side) / 2
        return Box(left, top, side, side)


def as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Any 8-bit picture as RGB (H, W, 3), without a copy where it is RGB already.

    Takes grey (H, W) or (H, W, 1), grey with alpha (H, W, 2), RGB and RGBA (alpha is left out).
    Raises InputError for anything else, for empty pictures and for more than IMAGE_PIXELS_MAX pixels.
    """
    if pixels.dtype != np.uint8:
        raise InputError(f"picture has {pixels.dtype} pixels, expected uint8: convert it to 8 bits a channel")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or 0 in pixels.shape:
        raise InputError(
            f"picture has shape {pixels.shape}, expected (height, width, 1 to 4 channels) with at least one pixel"
        )
    height, width, channels = pixels.shape
    if height * width > limits.IMAGE_PIXELS_MAX:
        raise InputError(
            f"picture is {width}x{height}, {height * width} pixels, limit {limits.IMAGE_PIXELS_MAX}: scale it down"
        )
    if channels < 3:
        return np.repeat(pixels[:, :, :1], 3, axis=2)
    return pixels[:, :, :3]


class Preprocessor:
    """Applies one spec. Keeps the plans and scratch memory of the last few picture sizes, so use one per thread."""

    def __init__(self, spec: PreprocessSpec) -> None:
        self.spec = spec
        self._plans: OrderedDict[tuple[int, int], _Plan] = OrderedDict()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Picture (H, W), (H, W, 1 to 4), uint8 -> (1, 3, size, size) float32 RGB in [0, 1]. Raises InputError."""
        rgb = as_rgb(pixels)
        image_13SS = np.empty((1, 3, self.spec.size, self.spec.size), np.float32)
        height, width = rgb.shape[:2]
        if height == width == self.spec.size and self.spec.fraction == 1.0:
            np.multiply(rgb.transpose(2, 0, 1), np.float32(1 / 255), out=image_13SS[0])
            return image_13SS
        self._plan(height, width).run(rgb, image_13SS[0])
        if self.spec.filter == "bicubic":  # its negative lobes overshoot
            np.clip(image_13SS, 0.0, 1.0, out=image_13SS)
        return image_13SS

    def box(self, pixels: NDArray[np.uint8]) -> Box:
        """What the encoder sees of `pixels`, for drawing."""
        return self.spec.box(pixels.shape[0], pixels.shape[1])

    def _plan(self, height: int, width: int) -> _Plan:
        plan = self._plans.get((height, width))
        if plan is None:
            plan = self._plans[height, width] = _Plan(self.spec, height, width)
            if len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end((height, width))
        return plan


class _Block(NamedTuple):
    """Outputs [start, stop) of one axis are `weights` (outputs, inputs) times inputs [first, last)."""

    start: int
    stop: int
    first: int
    last: int
    weights: NDArray[np.float32]


class _Plan:
    """The two passes for one picture size: rows first (contiguous memory), then columns, by planes."""

    def __init__(self, spec: PreprocessSpec, height: int, width: int) -> None:
        box = spec.box(height, width)
        self._rows = _blocks(height, box.top, box.height, spec.size, spec.filter)
        columns = _blocks(width, box.left, box.width, spec.size, spec.filter)
        self._first = columns[0].first
        self._last = max(block.last for block in columns)
        # The columns' matrices stand on the right of the product, and carry the scale to [0, 1].
        self._columns = [
            block._replace(
                first=block.first - self._first,
                last=block.last - self._first,
                weights=np.ascontiguousarray(block.weights.T / np.float32(255)),
            )
            for block in columns
        ]
        span = self._last - self._first
        taken = max(block.last - block.first for block in self._rows)
        made = max(block.stop - block.start for block in self._rows)
        self._input = np.empty((taken, span, 3), np.float32)
        self._shrunk = np.empty((made, span * 3), np.float32)
        self._planes = np.empty((3, spec.size, span), np.float32)

    def run(self, rgb: NDArray[np.uint8], image_3SS: NDArray[np.float32]) -> None:
        """rgb (H, W, 3) -> image_3SS, float32 in [0, 1] but for overshoot."""
        span = self._last - self._first
        for start, stop, first, last, weights in self._rows:
            rows = self._input[: last - first]
            np.copyto(rows, rgb[first:last, self._first : self._last])
            shrunk = self._shrunk[: stop - start]
            np.matmul(weights, rows.reshape(last - first, span * 3), out=shrunk)
            np.copyto(self._planes[:, start:stop], shrunk.reshape(stop - start, span, 3).transpose(2, 0, 1))
        size = image_3SS.shape[1]
        lines = self._planes.reshape(3 * size, span)
        output = image_3SS.reshape(3 * size, size)
        for start, stop, first, last, weights in self._columns:
            np.matmul(lines[:, first:last], weights, out=output[:, start:stop])


def _blocks(inputs: int, offset: float, length: float, outputs: int, kind: str) -> list[_Block]:
    """The banded matrix of one axis, cut into dense blocks of about _BLOCK_INPUT_ROWS inputs."""
    weights = _weights(inputs, offset, length, outputs, kind)
    step = min(max(round(_BLOCK_INPUT_ROWS * outputs / length), 1), 16)
    blocks = []
    for start in range(0, outputs, step):
        part = weights[start : start + step]
        used = np.flatnonzero(part.any(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        dense = np.ascontiguousarray(part[:, first:last], np.float32)
        blocks.append(_Block(start, start + len(part), first, last, dense))
    return blocks


def _weights(inputs: int, offset: float, length: float, outputs: int, kind: str) -> NDArray[np.float64]:
    """(outputs, inputs): what each output takes of each input; rows sum to 1.

    Outputs cover [offset, offset + length) of the input axis, whose sample i covers [i, i + 1). As in Pillow, a filter
    may reach beyond the box, and is cut and renormalised at the picture's edge.
    """
    ratio = length / outputs
    low = offset + np.arange(outputs)[:, None] * ratio
    sample = np.arange(inputs)[None, :]
    if kind == "area" and ratio > 1.0:
        weights = np.clip(np.minimum(low + ratio, sample + 1) - np.maximum(low, sample), 0.0, None)
    else:
        distance = np.abs(sample + 0.5 - (low + ratio / 2)) / max(ratio, 1.0)
        weights = _bicubic(distance) if kind == "bicubic" else np.clip(1.0 - distance, 0.0, None)
    weights[np.abs(weights) < 1e-9] = 0.0
    normalised: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def _bicubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic kernel with a = -0.5, at absolute distances."""
    a = -0.5
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BundleError(
            f"{name} is {value!r}, expected one of {', '.join(choices)}: this bundle needs a newer FrankenStream"
        )
