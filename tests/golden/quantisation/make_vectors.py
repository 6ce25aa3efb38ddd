"""Writes sticky.json: latents, a reference's symbols and what `quantise_sticky` keeps, for Python and TypeScript.

    python -m tests.golden.quantisation.make_vectors

Distances, their squares, the sums over channels (channel after channel) and the limits are float32: at the border one
rounding decides what is kept. Run it only when that changed; the page must then decide alike. A case's arrays are
base64, little-endian: `latent` float32 [C, H, W], `held` int16 [c, H, W], `symbols` int16 [C, H, W].

Distances at the border have so few digits that a machine that multiplies and adds at once (ARM) gives the same. A grid
of one place is left out: numpy adds its channels in another order.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codec import OperatingPoint, quantise_sticky

FILE = Path(__file__).parent / "sticky.json"
STEPS = 4096
"""Distances at the refresh threshold are whole numbers of 1/STEPS and below 1: their squares have 24 bits."""

Case = dict[str, Any]


def packed(array: NDArray[Any], kind: str) -> str:
    return base64.b64encode(array.astype(kind).tobytes()).decode()


def unpacked(text: str, kind: str, shape: list[int]) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype=kind).reshape(-1, *shape[1:])


def symbols_of(case: Case) -> NDArray[np.int16]:
    """What Python makes of a case's latent today."""
    point = OperatingPoint(
        "p",
        np.asarray(case["gain"], np.float32),
        np.asarray(case["offset"], np.float32),
        sticky_threshold=case["sticky_threshold"],
        refresh_threshold=case["refresh_threshold"],
    )
    held = unpacked(case["held"], "<i2", case["shape"])
    return quantise_sticky(unpacked(case["latent"], "<f4", case["shape"]), point, held)


def case(
    what: str,
    latent_CHW: NDArray[Any],
    held_cHW: NDArray[Any],
    *,
    sticky: float,
    refresh: float = 0.0,
    gain: list[float] | None = None,
    offset: list[float] | None = None,
) -> Case:
    channels = len(latent_CHW)
    made: Case = {
        "what": what,
        "shape": list(latent_CHW.shape),
        "gain": gain or [1.0] * channels,
        "offset": offset or [0.0] * channels,
        "sticky_threshold": sticky,
        "refresh_threshold": refresh,
        "latent": packed(latent_CHW, "<f4"),
        "held": packed(held_cHW, "<i2"),
    }
    return {**made, "symbols": packed(symbols_of(made), "<i2")}


def at_the_threshold(threshold: float) -> Case:
    """Latents a few last bits within and beyond it, on both sides of each symbol."""
    held = np.repeat(np.array([0, 1, -3, 40, 4095], np.int16), 10).reshape(1, 5, 10)
    latent = np.empty((1, 5, 10), np.float32)
    for row, symbol in enumerate(held[0, :, 0]):
        for side, border in enumerate((symbol + threshold, symbol - threshold)):
            near = np.float32(border)
            for _ in range(2):
                near = np.nextafter(near, np.float32(-np.inf))
            for step in range(5):
                latent[0, row, 5 * side + step] = near
                near = np.nextafter(near, np.float32(np.inf))
    return case(f"at the sticky threshold {threshold}", latent, held, sticky=threshold)


def rounded_distances() -> Case:
    """The distance itself is beyond the threshold, its float32 is not."""
    latent = np.array([[[-1e-9, -1e-7, -1e-6, 2.0, 2.0000002, 1e-30]]], np.float32)
    return case("distances are rounded", latent, np.ones((1, 1, 6), np.int16), sticky=1.0)


def rounded_sums() -> Case:
    """1, then squares of 2^-26 that a float32 sum of 1 does not see, but does see before the 1."""
    small, one = 2.0**-13, 1.0
    columns = [[one, small, small, small], [small, small, small, one], [one, 2.0**-11, 0, 0], [0.5, 0.5, 0.5, 0.5]]
    latent = np.array(columns, np.float32).T.reshape(4, 2, 2)
    return case("sums are rounded as they grow", latent, np.zeros((4, 2, 2), np.int16), sticky=0.25, refresh=0.5)


def at_the_refresh_limit(rng: np.random.Generator, channels: int, sticky: float, refresh: float) -> Case:
    """Places whose float32 sums lie within some last bits of the limit."""
    spread = min(int(1.6 * refresh * STEPS), STEPS - 1)
    steps_CN = rng.integers(-spread, spread + 1, (channels, 40_000))
    rest_N = channels * refresh**2 * STEPS**2 - (steps_CN[:-1] ** 2).sum(axis=0)
    steps_CN[-1] = np.rint(np.sqrt(np.maximum(rest_N, 0)))
    sums_N = (steps_CN**2).sum(axis=0) / STEPS**2
    limit = channels * refresh**2
    sound_N = (abs(sums_N - limit) <= 4 * np.spacing(np.float32(limit))) & (steps_CN[-1] < STEPS)
    near = np.concatenate([np.flatnonzero(sound_N & side_N)[:15] for side_N in (sums_N <= limit, sums_N > limit)])
    held = rng.integers(-3, 4, (channels, 5, 6)).astype(np.int16)
    latent = held + (steps_CN[:, near] / STEPS).reshape(channels, 5, 6)
    what = f"{channels} channels at the refresh threshold {refresh}, sticky {sticky}"
    return case(what, latent, held, sticky=sticky, refresh=refresh)


def broken() -> Case:
    latent = np.array([[np.nan, np.inf, -np.inf, 1e38, 0.6, -0.0], [0.1, 0.1, 0.1, -1e37, np.nan, 0.2]], np.float32)
    held = np.array([[3, 4095, -4095, 7, 1, 0], [0, 0, 0, 0, 5, 0]], np.int16)
    return case("no numbers", latent.reshape(2, 1, 6), held.reshape(2, 1, 6), sticky=0.6, refresh=0.9, gain=[1.0, 10.0])


def ties() -> list[Case]:
    """Halves, which plain rounding gives to the even symbol."""
    latent = np.array([[[0.5, 1.5, -0.5, 0.5, 1.5, 2.5]]], np.float32)
    held = np.array([[[1, 1, -1, 0, 2, 2]]], np.int16)
    return [
        case("halves, no threshold", latent, held, sticky=0.0),
        case("halves, a threshold below them", latent, held, sticky=0.4),
        case("halves are kept where places are judged too", latent, held, sticky=0.4, refresh=0.2),
    ]


def random(rng: np.random.Generator, held_channels: int, sticky: float, refresh: float) -> Case:
    """Noise round the reference, gains and offsets that are no float32."""
    channels, height, width = 8, 6, 7
    gain, offset = rng.uniform(0.05, 20.0, channels), rng.normal(0, 2.0, channels)
    held = np.rint(rng.laplace(0, 2.0, (channels, height, width)))
    noise = rng.normal(0, 1.0, (channels, height, width)) * rng.uniform(0.1, 1.5, (height, width))
    latent = (held + noise + offset[:, None, None]) / gain[:, None, None]
    return case(
        f"random, {held_channels} channels held, sticky {sticky}, refresh {refresh}",
        latent,
        held[:held_channels],
        sticky=sticky,
        refresh=refresh,
        gain=gain.tolist(),
        offset=offset.tolist(),
    )


def cases() -> list[Case]:
    rng = np.random.default_rng(13)
    return [
        *(at_the_threshold(threshold) for threshold in (0.6, 0.8, 1.1)),
        rounded_distances(),
        rounded_sums(),
        *(at_the_refresh_limit(rng, *settings) for settings in ((3, 0.3, 0.55), (48, 0.8, 0.55), (80, 0.6, 0.56))),
        broken(),
        *ties(),
        *(random(rng, *settings) for settings in ((8, 0.8, 0.0), (8, 0.6, 0.9), (5, 0.3, 0.7), (3, 0.9, 0.0))),
    ]


def written(cases: list[Case]) -> str:
    return json.dumps(cases, indent=1) + "\n"


def main() -> None:
    FILE.write_text(written(cases()), encoding="utf-8")


if __name__ == "__main__":
    main()
