"""Small codecs for tests: every context kind, skip flags, narrow tables that escape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.codec import ChannelPmf, Contexts, EntropyModel, LatentCodec, LatentSpec, OperatingPoint, Reference
from pipeline.codec import contexts as kinds

LAYERS = (2, 1, 3)
CHANNELS = sum(LAYERS)

CONTEXTS = {
    "none": Contexts(),
    "none, inter": Contexts(inter=((), (), ())),
    "checkerboard": Contexts(intra=((kinds.checkerboard(1, 3),),) * 3),
    "layer": Contexts(intra=((), (kinds.layer([1], clip=2),), (kinds.layer([0, 2, 2], clip=1),))),
    "reference": Contexts(inter=((kinds.reference(3),),) * 3),
    "everything": Contexts(
        intra=((kinds.Term("none"),), (kinds.checkerboard(2), kinds.layer([0], clip=1)), ()),
        inter=(
            (kinds.reference(1), kinds.reference_neighbourhood(1, 4)),
            (kinds.checkerboard(1, 2, 5), kinds.reference(2)),
            (kinds.reference_neighbourhood(3), kinds.layer([2, 1, 0], clip=1), kinds.checkerboard(2)),
        ),
    ),
    "changes": Contexts(
        intra=((kinds.changes(40, 128),), (kinds.checkerboard(2), kinds.changes(100)), (kinds.changes(1, 20, 200),)),
        inter=(
            (kinds.reference(2), kinds.changes(20, 90, 256)),
            (kinds.changes(64), kinds.checkerboard(2)),
            (kinds.changes(10, 100), kinds.layer([2, 1, 0], clip=1), kinds.reference_neighbourhood(2)),
        ),
    ),
    "places": Contexts(
        inter=((kinds.reference(2), kinds.changes(20, 90, 256)), (), (kinds.checkerboard(1, 3),)), places=True
    ),
    "previous": Contexts(
        intra=(
            (kinds.previous(-3, -1, 0, 2),),
            (kinds.changes(100), kinds.previous(-16_384, 1)),
            (kinds.previous(16_384), kinds.layer([0, 2, 2], clip=1)),
        ),
        inter=((kinds.reference(1), kinds.previous(-1, 0, 1)), (), (kinds.previous(0),)),
        places=True,
    ),
}


def points(count: int = 2, channels: int = CHANNELS) -> tuple[OperatingPoint, ...]:
    return tuple(
        OperatingPoint(f"point{k}", np.full(channels, k + 1, np.float32), np.zeros(channels, np.float32))
        for k in range(count)
    )


def small_spec(contexts: Contexts | str = "none") -> LatentSpec:
    chosen = CONTEXTS[contexts] if isinstance(contexts, str) else contexts
    return LatentSpec(CHANNELS, 8, LAYERS, points(), chosen)


def small_model(
    contexts: Contexts | str = "none", *, seed: int = 0, precision: int = 12, skip: float | None = 0.2
) -> EntropyModel:
    """Random narrow tables that fit `small_spec(contexts)`; channel k has fill k − 2; channel 1 has no skip flag."""
    spec = small_spec(contexts)
    rng = np.random.default_rng(seed)

    def rows(name: kinds.SetName) -> list[list[ChannelPmf]]:
        counts = np.repeat([spec.contexts.count(name, layer) for layer in range(len(LAYERS))], LAYERS)
        return [[_random_pmf(rng, int(count)) for count in counts] for _ in spec.operating_points]

    skips = None
    if skip is not None:
        skips = np.full((len(spec.operating_points), CHANNELS), skip)
        skips[:, 1] = 0.0
    inter = rows("inter") if spec.contexts.inter is not None else None
    places = rng.uniform(0.02, 0.98, (len(spec.operating_points), 16)) if spec.contexts.places else None
    return EntropyModel.from_probabilities(
        rows("intra"),
        inter=inter,
        fill=np.arange(CHANNELS) - 2,
        skip_intra=skips,
        skip_inter=skips if inter else None,
        places=places,
        precision=precision,
    )


def small_codec(
    contexts: Contexts | str = "none",
    *,
    coder: str = "auto",
    seed: int = 0,
    precision: int = 12,
    skip: float | None = 0.2,
) -> LatentCodec:
    model = small_model(contexts, seed=seed, precision=precision, skip=skip)
    return LatentCodec(small_spec(contexts), model, coder=coder)


def random_symbols(
    rng: np.random.Generator, height: int, width: int, *, scale: float = 1.0, channels: int = CHANNELS
) -> NDArray[np.int16]:
    return np.rint(rng.laplace(0, scale, (channels, height, width))).clip(-4095, 4095).astype(np.int16)


def random_reference(rng: np.random.Generator, height: int, width: int, *, layers: int = 3) -> Reference:
    return Reference(epoch=3, frame=70_000, layers=layers, symbols=random_symbols(rng, height, width))


def full_model(*, channels: int = 48, precision: int = 12) -> tuple[EntropyModel, NDArray[np.float64]]:
    """Tables for Laplace symbols, about 3.8 kB for 48 channels at 28x28, and each channel's scale, float64 [C]."""
    scales = np.geomspace(1.15, 0.03, channels)
    edges = np.arange(-31.5, 32.0)
    rows = []
    for scale in scales:
        tail = 0.5 * np.exp(-np.abs(edges) / scale)
        rows.append(ChannelPmf(-31, np.diff(np.where(edges < 0, tail, 1 - tail)), 2 * float(tail[0])))
    return EntropyModel.from_probabilities([rows], precision=precision), scales


def _random_pmf(rng: np.random.Generator, contexts: int) -> ChannelPmf:
    size = int(rng.integers(1, 9))
    low = int(rng.integers(-size, 2))
    return ChannelPmf(low, rng.gamma(0.4, size=(contexts, size)) + 1e-3, rng.gamma(0.3, size=contexts) + 1e-4)
