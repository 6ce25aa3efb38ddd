"""From a trained codec to integer tables: count its symbols on photos and clips, then smooth the counts.

Counted tables beat the learned prior a little, and contexts (``pipeline.codec.contexts``) beat both, at no parameters
on the edge. What is rare in a context is filled up from the channel's symbols in all contexts, and those from the
learned prior, so that no table is sharper than its data.

Axes: P operating points, C channels, H height, W width, X contexts, S symbols.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pipeline.codec import ChannelPmf, Contexts, EntropyModel, LatentSpec, OperatingPoint, stream_symbols
from pipeline.codec.contexts import Earlier, SetName, Term, changes, context_values, previous, reference
from pipeline.codec.places import PLACE_CONTEXTS, count_places, place_shares, refreshed_places
from pipeline.models.feature_codec import LAYERS, FeatureCodec, channels_per_layer

MAGNITUDE_MAX = 100
"""Symbols beyond this are counted as escapes; a table may hold 255."""
PRIOR_STRENGTH = 20.0
"""How many symbols' worth the learned prior weighs in a channel's counts."""
BACKOFF_STRENGTH = 40.0
"""How many symbols' worth a channel's counts weigh in each of its contexts."""
REFERENCE_LAGS = (1, 3)
"""How many frames back the reference of a live stream lies: round trips at 10 to 30 frames a second."""


class Thresholds(NamedTuple):
    """How sticky an operating point is (`pipeline.codec.sticky`), in symbols."""

    sticky: float
    refresh: float


THRESHOLDS = {"low": Thresholds(0.65, 0.15), "standard": Thresholds(0.65, 0.55), "high": Thresholds(0.65, 0.55)}
"""Operating point → its thresholds, where they were not chosen on clips (`pipeline.packing.stickiness`)."""
DETAILED_LAYERS = {"intra": 3, "inter": 2}
"""Layers whose channels get more contexts in a set (`default_contexts`)."""
COUNTED_SHARES = (0.0, 0.75, 1.0, 1.5)
"""Clips are counted at these shares of their operating point's threshold. Context `changes` tells them apart, so that
tables which have seen them all serve each within 6 % of tables of its own."""


class SymbolCounts:
    """Counts of one context set: ``of(point, channel)`` is float64 [X, S] for symbols -MAGNITUDE_MAX ...
    MAGNITUDE_MAX.
    """

    def __init__(self, contexts: Contexts, set_name: SetName, *, points: int, channels: int) -> None:
        self.contexts = contexts
        self.set_name = set_name
        self.points = points
        self.channels = channels
        width = 2 * MAGNITUDE_MAX + 1
        self._channels_per_layer = channels_per_layer(channels)
        sizes = [contexts.count(set_name, channel // self._channels_per_layer) for channel in range(channels)]
        self._counts = [[np.zeros((size, width)) for size in sizes] for _ in range(points)]
        self.places_PX2 = np.zeros((points, PLACE_CONTEXTS, 2))
        """How often a place was refreshed, or not, in each context of the map of places (pipeline.codec.places)."""
        self._unchanged = np.zeros((points, channels))
        self._frames = np.zeros(points)

    def of(self, point: int, channel: int) -> np.ndarray:
        """The counts of one channel at one operating point."""
        return self._counts[point][channel]

    def add(self, symbols_CHW: np.ndarray, point: int, *, reference_CHW: np.ndarray | None = None) -> None:
        """Count one frame, int16 [C, H, W]; ``reference_CHW`` is needed for set ``inter``."""
        clipped_CHW = np.clip(symbols_CHW, -MAGNITUDE_MAX, MAGNITUDE_MAX).astype(np.int64) + MAGNITUDE_MAX
        prediction_CHW = np.zeros_like(symbols_CHW) if reference_CHW is None else reference_CHW
        changed_CHW = symbols_CHW != prediction_CHW
        coded_HW = np.ones(symbols_CHW.shape[1:], bool)
        if self.contexts.places and reference_CHW is not None:
            coded_HW = refreshed_places(symbols_CHW, reference_CHW)
            if not coded_HW.any():
                return  # nothing of such a frame is coded
            self.places_PX2[point] += count_places(coded_HW)
        self._unchanged[point] += ~changed_CHW.any(axis=(1, 2))
        self._frames[point] += 1
        earlier = Earlier(0, np.zeros(symbols_CHW.shape[1:], np.int64))
        for channel in range(self.channels):
            layer, within = divmod(channel, self._channels_per_layer)
            reference_HW = None if reference_CHW is None else reference_CHW[channel]
            terms = self.contexts.terms(self.set_name, layer)
            context_HW = context_values(terms, within, symbols_CHW[channel], symbols_CHW, reference_HW, earlier)
            earlier = Earlier(channel + 1, earlier.changed_HW + changed_CHW[channel])
            counts_XS = self._counts[point][channel]
            place_N = (context_HW * counts_XS.shape[1] + clipped_CHW[channel])[coded_HW]
            counts_XS += np.bincount(place_N, minlength=counts_XS.size).reshape(counts_XS.shape)

    def skip_probabilities_PC(self) -> np.ndarray:
        """How often a channel equals its prediction, float64 [P, C]; 0 (no flag) where it would hardly ever be used."""
        probability_PC = self._unchanged / np.maximum(self._frames[:, None], 1)
        return np.where(probability_PC < 0.02, 0.0, np.clip(probability_PC, 0.02, 0.98))


@dataclass(frozen=True)
class CountedSets:
    """Symbols counted on single frames and, if there were clips, on frames with a reference."""

    intra: SymbolCounts
    inter: SymbolCounts | None


def count_symbols(
    codec: FeatureCodec,
    photos: Iterable[np.ndarray],
    contexts: Contexts,
    *,
    clips: Iterable[Sequence[np.ndarray]] = (),
    thresholds: Mapping[str, Thresholds] = THRESHOLDS,
) -> CountedSets:
    """Run the encoder over photos (and clips) and count what it sends, at every operating point.

    ``photos`` are encoder inputs, float32 [1, 3, H, W] in [0, 1]; a clip is a sequence of them in order of time.
    """
    points, channels = len(codec.config.operating_points), codec.log_gain_PC.shape[1]
    intra = SymbolCounts(contexts, "intra", points=points, channels=channels)
    inter = None if contexts.inter is None else SymbolCounts(contexts, "inter", points=points, channels=channels)
    for photo in photos:
        for point, symbols_CHW in enumerate(symbols_of(codec, photo)):
            intra.add(symbols_CHW, point)
    for clip in clips if inter is not None else ():
        latents = [latent_of(codec, image) for image in clip]
        for (number, chosen), lag, share in itertools.product(
            enumerate(operating_points(codec, thresholds)), REFERENCE_LAGS, COUNTED_SHARES
        ):
            threshold = share * chosen.sticky_threshold
            for symbols_CHW, held_CHW in stream_symbols(latents, chosen, lag=lag, threshold=threshold):
                if inter is not None and held_CHW is not None:
                    inter.add(symbols_CHW, number, reference_CHW=held_CHW)
    return CountedSets(intra, inter)


def operating_points(
    codec: FeatureCodec, thresholds: Mapping[str, Thresholds] = THRESHOLDS
) -> tuple[OperatingPoint, ...]:
    """Gains, medians and thresholds as the edge takes them."""
    points = []
    for number, name in enumerate(codec.config.operating_points):
        gain, offset = codec.gain_1C11(number).flatten(), codec.median_1C11(number).flatten()
        sticky, refresh = thresholds.get(name, Thresholds(0.0, 0.0))
        arrays = gain.detach().numpy(), offset.detach().numpy()
        points.append(OperatingPoint(name, *arrays, sticky_threshold=sticky, refresh_threshold=refresh))
    return tuple(points)


def latent_spec(
    codec: FeatureCodec, contexts: Contexts, thresholds: Mapping[str, Thresholds] = THRESHOLDS
) -> LatentSpec:
    """What edge and server agree on about the latent."""
    return LatentSpec(
        channels=codec.config.latent.channels,
        stride=codec.config.latent.stride,
        layers=(channels_per_layer(codec.config.latent.channels),) * LAYERS,
        operating_points=operating_points(codec, thresholds),
        contexts=contexts,
    )


@torch.inference_mode()
def latent_of(codec: FeatureCodec, image: np.ndarray) -> np.ndarray:
    """Latent of one image, float32 [C, H, W]."""
    latent_CHW: np.ndarray = codec.analysis(torch.from_numpy(image))[0].float().numpy()
    return latent_CHW


@torch.inference_mode()
def symbols_of(codec: FeatureCodec, image: np.ndarray) -> list[np.ndarray]:
    """Symbols of one image at each operating point, int16 [C, H, W]."""
    latent_BCHW = codec.analysis(torch.from_numpy(image))
    points = range(len(codec.config.operating_points))
    return [codec.quantise(latent_BCHW, point)[0].to(torch.int16).numpy() for point in points]


def entropy_model(codec: FeatureCodec, counted: CountedSets, *, precision: int = 12) -> EntropyModel:
    """The bundle's integer tables from counts, smoothed with the learned prior."""
    return EntropyModel.from_probabilities(
        channel_pmfs(codec, counted.intra),
        inter=None if counted.inter is None else channel_pmfs(codec, counted.inter),
        skip_intra=counted.intra.skip_probabilities_PC(),
        skip_inter=None if counted.inter is None else counted.inter.skip_probabilities_PC(),
        places=place_shares(counted.inter.places_PX2) if counted.inter and counted.inter.contexts.places else None,
        precision=precision,
    )


def channel_pmfs(codec: FeatureCodec, counts: SymbolCounts) -> list[list[ChannelPmf]]:
    """Smoothed weights [point][channel], the input of ``EntropyModel.from_probabilities``."""
    result: list[list[ChannelPmf]] = []
    for point in range(counts.points):
        prior_CS = codec.bottleneck(point).pmf(-MAGNITUDE_MAX, MAGNITUDE_MAX).numpy()
        result.append(
            [smoothed_pmf(counts.of(point, channel), prior_CS[channel]) for channel in range(counts.channels)]
        )
    return result


def smoothed_pmf(counts_XS: np.ndarray, prior_S: np.ndarray) -> ChannelPmf:
    """Counts of one channel, each context backed off to the channel, the channel to the prior; trimmed to its range.

    The outermost counted symbols stand for everything beyond them too, so they go to escape.
    """
    channel_S = counts_XS.sum(axis=0) + PRIOR_STRENGTH * prior_S / prior_S.sum()
    channel_S = channel_S / channel_S.sum()
    weights_XS = counts_XS + BACKOFF_STRENGTH * channel_S
    weights_XS = weights_XS / weights_XS.sum(axis=1, keepdims=True)
    # A symbol that no context expects once in 100,000 is cheaper as an escape than as a slot of each table.
    used = np.flatnonzero(weights_XS.max(axis=0) > 1e-5)
    used = used[(used > 0) & (used < weights_XS.shape[1] - 1)]
    first, last = (int(used[0]), int(used[-1])) if len(used) else (MAGNITUDE_MAX, MAGNITUDE_MAX)
    kept_XS = weights_XS[:, first : last + 1]
    return ChannelPmf(low=first - MAGNITUDE_MAX, weights=kept_XS, escape=np.maximum(1 - kept_XS.sum(axis=1), 1e-6))


def default_contexts(*, with_references: bool = True) -> Contexts:
    """The contexts of the default bundle (docs/decisions/0008-sticky-symbols.md and 0016 have what each brings).

    Alone, a frame is predicted from what lies to the left and above. With a reference, the same place there tells
    most, and a map of refreshed places says where to look at all (0013-refreshed-places.md). Places where the channels
    before differ from their prediction have it likewise in this one. The channels behind the first layers have few
    symbols that are not 0, so few tables do for each.
    """

    def layers(set_name: SetName, first: tuple[Term, ...], others: tuple[Term, ...]) -> tuple[tuple[Term, ...], ...]:
        detailed = DETAILED_LAYERS[set_name]
        return (first,) * detailed + (others,) * (LAYERS - detailed)

    intra = layers("intra", (previous(-8, -4, -2, 0, 1, 3, 5, 9),), (previous(0, 1), changes(20, 90)))
    inter = layers("inter", (reference(3), changes(10, 52)), (reference(1), changes(26)))
    return Contexts(intra=intra, inter=inter if with_references else None, places=with_references)
