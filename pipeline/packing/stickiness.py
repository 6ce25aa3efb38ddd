"""Chooses how sticky each operating point is, on clips: when a place is refreshed, and which of its symbols.

A larger refresh threshold means fewer bytes and more KL to the unmodified backbone. Among the candidates of a point the
one is taken that lies furthest below the curve of the operating points themselves, which is what else there is for
fewer bytes: theirs is bytes ~ KL^-0.9 to KL^-0.5 from coarse to fine, so what counts is the smallest bytes · KL^0.7
(docs/decisions/0017-what-the-closed-form-leaves.md). The point's own KL may rise by KL_RISE_MAX at most.
Bytes are those of tables counted on the other half of the clips; KL never falls along the ladder, since a dip there is
chance (docs/decisions/0013-refreshed-places.md).

Axes: N frames, C channels, H W the latent's grid, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.codec import (
    LatentCodec,
    LatentSpec,
    OperatingPoint,
    Reference,
    TableCounter,
    dequantise,
    stream_symbols,
)
from pipeline.errors import InputError
from pipeline.packing.tables import Thresholds

REFRESH_THRESHOLDS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.7, 0.9, 1.2)
"""Root mean square over a place's channels, in symbols. 0, with a sticky threshold of 0, is always a candidate."""
STICKY_THRESHOLD = 0.65
OTHER_STICKY_THRESHOLDS = (0.5, 0.8)
"""Tried with the best refresh threshold, or with the smallest if none is worth its KL."""
KL_WEIGHT = 0.7
KL_RISE_MAX = 0.4
FRAMES = 12
"""Of each clip."""
LAG = 1

Answer = Callable[[np.ndarray], np.ndarray]
"""Latents float32 [N, C, H, W] as the server has them -> logits [N, K]."""
Stream = list[tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class AnsweredClip:
    """The first frames of a clip: float32 ``latents_NCHW``, and the unmodified backbone's ``logits_NK``."""

    latents_NCHW: np.ndarray
    logits_NK: np.ndarray


@dataclass(frozen=True)
class Candidate:
    """What a pair of thresholds costs and gives: means of the clips. ``held_kl`` is ``kl`` without chance dips."""

    sticky: float
    refresh: float
    bytes_mean: float
    kl: float
    held_kl: float

    @property
    def score(self) -> float:
        """Smaller is better."""
        return float(np.log(self.bytes_mean) + KL_WEIGHT * np.log(max(self.held_kl, 1e-6)))


def answered_clips(
    clips: Iterable[Sequence[np.ndarray]], latent_of: Callable[[np.ndarray], np.ndarray], unmodified: Answer
) -> list[AnsweredClip]:
    """The first FRAMES frames of each clip, encoder inputs float32 [1, 3, H, W]. Raises InputError if no clip has two
    frames.
    """
    found = []
    for clip in clips:
        images = clip[:FRAMES]
        if len(images) > LAG:
            latents_NCHW = np.stack([latent_of(image) for image in images])
            found.append(AnsweredClip(latents_NCHW, unmodified(np.concatenate(images))))
    if not found:
        raise InputError("no clip has two frames that decode: thresholds and tables of streams want some")
    return found


def choose_thresholds(
    spec: LatentSpec, clips: Sequence[AnsweredClip], answer: Answer
) -> tuple[dict[str, Thresholds], list[dict[str, Any]]]:
    """Thresholds of each operating point by name, and a row for each candidate."""
    chosen, rows = {}, []
    for point in spec.operating_points:
        ladder = [_measure(spec, point, 0.0, 0.0, clips, answer, floor=0.0)]
        for refresh in REFRESH_THRESHOLDS:
            ladder.append(_measure(spec, point, STICKY_THRESHOLD, refresh, clips, answer, floor=ladder[-1].held_kl))
            if ladder[-1].held_kl > (1 + KL_RISE_MAX) * ladder[0].kl:
                break
        refresh = _best(ladder).refresh or REFRESH_THRESHOLDS[0]
        floor = max(one.held_kl for one in ladder if one.refresh < refresh)
        ladder += [
            _measure(spec, point, sticky, refresh, clips, answer, floor=floor) for sticky in OTHER_STICKY_THRESHOLDS
        ]
        best = _best(ladder)
        chosen[point.name] = Thresholds(best.sticky, best.refresh)
        rows += [_row(point.name, one, taken=one is best) for one in ladder]
    return chosen, rows


def _best(ladder: Sequence[Candidate]) -> Candidate:
    limit = (1 + KL_RISE_MAX) * ladder[0].kl
    return min((one for one in ladder if one.held_kl <= limit), key=lambda one: one.score)


def _row(name: str, one: Candidate, *, taken: bool) -> dict[str, Any]:
    return {
        "operating_point": name,
        "sticky_threshold": one.sticky,
        "refresh_threshold": one.refresh,
        "bytes_mean": round(one.bytes_mean, 1),
        "kl_nats": round(one.kl, 4),
        "taken": taken,
    }


def _measure(
    spec: LatentSpec,
    point: OperatingPoint,
    sticky: float,
    refresh: float,
    clips: Sequence[AnsweredClip],
    answer: Answer,
    *,
    floor: float,
) -> Candidate:
    own = replace(point, sticky_threshold=sticky, refresh_threshold=refresh)
    streams = [list(stream_symbols(list(clip.latents_NCHW), own, lag=LAG)) for clip in clips]
    kl = float(np.mean([_divergence(clip, stream, own, answer) for clip, stream in zip(clips, streams, strict=True)]))
    bytes_mean = _bytes_mean(replace(spec, operating_points=(own,)), streams)
    return Candidate(sticky, refresh, bytes_mean, kl, max(kl, floor))


def _divergence(clip: AnsweredClip, stream: Stream, point: OperatingPoint, answer: Answer) -> float:
    """Mean KL of the frames that have a reference, in nats."""
    sent_NCHW = np.stack([symbols for symbols, _held in stream[LAG:]])
    direct, ours = _log_softmax(clip.logits_NK[LAG:]), _log_softmax(answer(dequantise(sent_NCHW, point)))
    return float((np.exp(direct) * (direct - ours)).sum(axis=1).mean())


def _log_softmax(logits_NK: np.ndarray) -> np.ndarray:
    shifted = logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _bytes_mean(spec: LatentSpec, streams: Sequence[Stream]) -> float:
    """Mean over clips of a frame with a reference; its tables come from every other clip and not from its own."""
    counters = [_count(spec, stream) for stream in streams]
    codecs = []
    for half in range(2):
        others = [counter for number, counter in enumerate(counters) if number % 2 != half] or counters
        together = TableCounter(spec.layers, 1, spec.contexts)
        for counter in others:
            together.include(counter)
        codecs.append(LatentCodec(spec, together.model()))
    return float(np.mean([_stream_bytes(codecs[number % 2], stream) for number, stream in enumerate(streams)]))


def _count(spec: LatentSpec, stream: Stream) -> TableCounter:
    counter = TableCounter(spec.layers, 1, spec.contexts)
    for symbols_CHW, held_CHW in stream:
        if held_CHW is not None:
            counter.add(symbols_CHW, 0, reference=held_CHW)
    return counter


def _stream_bytes(codec: LatentCodec, stream: Stream) -> float:
    layers = len(codec.spec.layers)
    return float(
        np.mean(
            [
                codec.estimate_bits(symbols_CHW, 0, reference=Reference(1, 1, layers, held_CHW)) / 8
                for symbols_CHW, held_CHW in stream
                if held_CHW is not None
            ]
        )
    )
