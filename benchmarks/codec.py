"""One claim: a frame's entropy coding costs next to nothing, and next to no bytes beyond its entropy.

    python -m benchmarks.codec [--latent 256x7x7|48x28x28] [--json FILE] [--frames N]

A latent of Laplace symbols of about 3.8 kB in eight layers, of the default encoder's shape or of those at 1/8, through
`LatentCodec` as edge and server call it, on one thread: medians of encode, decode and estimate, bytes against the
tables' own entropy, for each kind of context. Needs the C coder.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.codec import (
    ChannelPmf,
    Contexts,
    EntropyModel,
    LatentCodec,
    LatentSpec,
    OperatingPoint,
    Reference,
    ReferenceId,
    coder_in_use,
)
from pipeline.codec import contexts as kinds

LARGEST = 31

Kind = tuple[kinds.Term, ...]
VARIANTS: dict[str, tuple[Kind, Kind | None]] = {
    "none": ((), None),
    "checkerboard": ((kinds.checkerboard(1, 3),), None),
    "previous": ((kinds.previous(-1, 2),), None),
    "reference": ((), (kinds.reference(3),)),
    "reference+neighbourhood": ((), (kinds.reference(3), kinds.reference_neighbourhood(1, 3))),
}


class Latent(NamedTuple):
    """Channels, side of the grid, and the scales of the first and the last channel."""

    channels: int
    side: int
    scales: tuple[float, float]

    @property
    def layers(self) -> tuple[int, ...]:
        return (self.channels // 8,) * 8

    @property
    def scales_C(self) -> NDArray[np.float64]:
        return np.geomspace(*self.scales, self.channels)

    def __str__(self) -> str:
        return f"{self.channels}x{self.side}x{self.side}"


LATENTS = {str(latent): latent for latent in (Latent(256, 7, (12.0, 0.06)), Latent(48, 28, (1.15, 0.03)))}


class Coded(NamedTuple):
    """A frame in all its forms."""

    symbols: NDArray[np.int16]
    reference: Reference | None
    held: dict[ReferenceId, Reference] | None
    bitstream: bytes


def main() -> int:
    parser = argparse.ArgumentParser(description="Entropy coding: milliseconds and bytes.")
    parser.add_argument("--latent", choices=LATENTS, default=next(iter(LATENTS)), help="its shape")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--frames", type=int, default=300, help="timed frames per figure")
    arguments = parser.parse_args()
    if coder_in_use() != "c":
        print("the Python coder is in use, its times say nothing: sudo apt-get install gcc libc6-dev, then")
        print("python -m pipeline.codec.build")
        return 5
    rng = np.random.default_rng(0)
    latent = LATENTS[arguments.latent]
    variants = {name: measure(name, latent, rng, arguments.frames) for name in VARIANTS}
    print_table(latent, variants)
    if arguments.json:
        machine = {"machine": platform.machine(), "python": platform.python_version(), "coder": "c"}
        content = {"latent": str(latent), "layers": len(latent.layers), "variants": variants, **machine}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(name: str, latent: Latent, rng: np.random.Generator, frames: int) -> dict[str, Any]:
    """Figures of one variant."""
    intra, inter = VARIANTS[name]
    channels, layers = latent.channels, latent.layers
    contexts = Contexts(intra=(intra,) * len(layers), inter=None if inter is None else (inter,) * len(layers))
    points = (OperatingPoint("standard", np.ones(channels, np.float32), np.zeros(channels, np.float32)),)
    spec = LatentSpec(channels, 224 // latent.side, layers, points, contexts)
    codec = LatentCodec(spec, tables(contexts, latent.scales_C), coder="c")
    clips = [sample_pair(rng, latent) for _ in range(16)]
    encoded: list[Coded] = []
    for earlier, symbols in clips:
        reference = None if inter is None else Reference(epoch=1, frame=1000, layers=len(layers), symbols=earlier)
        bitstream = codec.encode(symbols, 0, reference=reference)
        held = {reference.id: reference} if reference else None
        assert (codec.decode(bitstream, references=held).symbols == symbols).all()
        encoded.append(Coded(symbols, reference, held, bitstream))

    def each(work: Callable[[Coded], object]) -> float:
        return median_ms(work, encoded, frames)

    entropies = [sum(codec.estimate_layers(one.symbols, 0, reference=one.reference)) / 8 for one in encoded]
    bytes_mean = statistics.mean(len(one.bitstream) for one in encoded)
    return {
        "encode_p50_ms": each(lambda one: codec.encode(one.symbols, 0, reference=one.reference)),
        "decode_p50_ms": each(lambda one: codec.decode(one.bitstream, references=one.held)),
        "estimate_p50_ms": each(lambda one: codec.estimate_bits(one.symbols, 0, reference=one.reference)),
        "bytes_mean": bytes_mean,
        "entropy_bytes_mean": statistics.mean(entropies),
        "overhead_bytes_per_layer": (bytes_mean - statistics.mean(entropies)) / len(layers),
    }


def sample_pair(rng: np.random.Generator, latent: Latent) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Two successive frames: in the second, three in ten symbols are new."""
    shape = (latent.channels, latent.side, latent.side)
    first, second = (rng.laplace(0, latent.scales_C[:, None, None], shape) for _ in range(2))
    second = np.where(rng.random(first.shape) < 0.3, second, first)
    return to_symbols(first), to_symbols(second)


def to_symbols(latent: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.clip(np.rint(latent), -LARGEST, LARGEST).astype(np.int16)


def tables(contexts: Contexts, scales_C: NDArray[np.float64]) -> EntropyModel:
    """Laplace tables; a reference context mixes in a peak at the reference's symbol."""
    edges = np.arange(-LARGEST - 0.5, LARGEST + 1)

    def laplace(scale: float) -> NDArray[np.float64]:
        tail = 0.5 * np.exp(-np.abs(edges) / scale)
        return np.asarray(np.diff(np.where(edges < 0, tail, 1 - tail)) + 1e-7)

    def rows(terms: Kind) -> list[ChannelPmf]:
        count = kinds.context_count(terms)
        rows = []
        for scale in scales_C:
            weights = np.tile(laplace(scale), (count, 1))
            if terms and terms[0].kind == "reference":
                for context in range(count):
                    weights[context] = 0.3 * weights[context]
                    weights[context, LARGEST - terms[0].clip + context % terms[0].values] += 0.7
            rows.append(ChannelPmf(-LARGEST, weights, 1e-6))
        return rows

    inter = None if contexts.inter is None else [rows(contexts.inter[0])]
    return EntropyModel.from_probabilities([rows(contexts.intra[0])], inter=inter)


def median_ms(work: Callable[[Coded], object], frames: Sequence[Coded], count: int) -> float:
    """Median wall time of `count` calls after a warm-up; the frames in turn, their symbols just written, as in life."""
    times = []
    for number in range(count + 2 * len(frames)):
        chosen = frames[number % len(frames)]
        fresh = chosen._replace(symbols=chosen.symbols.copy())
        started = time.perf_counter()
        work(fresh)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2 * len(frames) :]) * 1e3


def print_table(latent: Latent, variants: dict[str, dict[str, Any]]) -> None:
    print(f"{latent} symbols, {len(latent.layers)} layers, C coder, medians")
    print(f"{'':24} {'encode':>10} {'decode':>10} {'estimate':>12} {'coded':>8} {'entropy':>8} {'overhead':>9}")
    print(f"{'context':24} {'ms':>10} {'ms':>10} {'ms':>12} {'bytes':>8} {'bytes':>8} {'B/layer':>9}")
    for name, row in variants.items():
        print(
            f"{name:24} {row['encode_p50_ms']:10.3f} {row['decode_p50_ms']:10.3f} {row['estimate_p50_ms']:12.3f} "
            f"{row['bytes_mean']:8.0f} {row['entropy_bytes_mean']:8.0f} {row['overhead_bytes_per_layer']:9.1f}"
        )


if __name__ == "__main__":
    sys.exit(main())
