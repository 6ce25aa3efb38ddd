"""What each context brings: bytes a frame with tables that were counted, for that context alone, on all other clips.

Contexts cost no parameters and no bytes; more of them share the same counts among more tables. So each set is counted
and tried the same way: leave one clip out, count the others, let the tables say how many bits the one takes. With
references, the frames are those of a stream (each against the frame `lag` before, with sticky symbols). All thresholds
that are tried are counted together, as the default bundle's tables are; the row `… counted without` has tables that
never saw a sticky symbol.

Axes: N frames, C H W the latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.codec import Contexts, LatentCodec, LatentSpec, Reference, TableCounter, Term, quantise, stream_symbols
from pipeline.codec.contexts import changes, checkerboard, layer, previous, reference, reference_neighbourhood
from pipeline.errors import ConfigError

COUNTED_WITHOUT = ("reference + neighbourhood", "reference + changes")
"""Sets that are tried with tables of unsticky streams too."""

Float32 = NDArray[np.float32]
Symbols = NDArray[np.int16]
Terms = tuple[tuple[Term, ...], ...]
"""The terms of each layer."""
Pair = tuple[Symbols, Symbols | None]
"""(frame, its reference)."""
Pairs = Mapping[str, Sequence[Pair]]
"""Clip → its frames."""
Counts = dict[str, TableCounter]
"""Clip → what its frames count to."""
Key = tuple[int, float]
"""(lag, threshold)."""
Say = Callable[[str], None]


def ablation(
    spec: LatentSpec,
    latents: Mapping[str, Sequence[Float32]],
    *,
    lags: Sequence[int],
    thresholds: Sequence[float],
    say: Say = lambda line: None,
) -> list[dict[str, Any]]:
    """One row for each context set, operating point, lag and threshold: mean bytes over clips of the same weight.

    `latents`: clip → its frames, float32 [C, H, W]. Raises ConfigError for fewer than two clips.
    """
    if len(latents) < 2:
        raise ConfigError(f"{len(latents)} clip, expected at least 2: tables for one are counted on the others")
    rows = []
    for point in spec.operating_points:
        say(f"{point.name}: counting")
        alone = {clip: [(quantise(latent, point), None) for latent in frames] for clip, frames in latents.items()}
        sources = layer_sources([frame for pairs in alone.values() for frame, _none in pairs], spec.layers)
        for name, terms in intra_sets(spec, sources).items():
            codec_spec = _spec(spec, Contexts(intra=terms))
            row = {"contexts": name, "operating_point": point.name, "lag": 0, "sticky": 0.0}
            rows.append(row | {"bytes_mean": _bytes(codec_spec, _count(codec_spec, alone), alone)})
        streams = {
            (lag, sticky): {clip: _stream(frames, point, lag, sticky) for clip, frames in latents.items()}
            for lag in lags
            for sticky in thresholds
        }
        for name, terms in inter_sets(spec, sources).items():
            codec_spec = _spec(spec, Contexts(inter=terms))
            counts = {key: _count(codec_spec, pairs) for key, pairs in streams.items()}
            rows += _rows(codec_spec, counts, streams, name, point.name)
            plain = {key: count for key, count in counts.items() if key[1] == 0}
            if name in COUNTED_WITHOUT and plain and len(plain) < len(counts):
                rows += _rows(codec_spec, plain, streams, f"{name}, counted without", point.name)
    return rows


def intra_sets(spec: LatentSpec, sources: Sequence[tuple[int, ...]]) -> dict[str, Terms]:
    """Name → terms of each layer, for frames that stand alone."""
    board, moved = checkerboard(1, 2, 4, 7), changes(8, 20, 36, 56, 80, 105, 135, 170)
    signed = previous(-8, -4, -2, 0, 1, 3, 5, 9)
    channels = _layer_terms(sources)
    return {
        "none": _alike(spec),
        "layer": channels,
        "changes": _alike(spec, moved),
        "checkerboard": _alike(spec, board),
        "checkerboard + layer": tuple((board, *terms) for terms in channels),
        "checkerboard + changes": _alike(spec, board, moved),
        "previous": _alike(spec, signed),
        "previous + changes": _alike(spec, signed, changes(20, 90)),
    }


def inter_sets(spec: LatentSpec, sources: Sequence[tuple[int, ...]]) -> dict[str, Terms]:
    """The same for frames with a reference."""
    same, around, board = reference(3), reference_neighbourhood(1, 4), checkerboard(1, 3)
    moved = changes(3, 10, 26, 52, 90)
    return {
        "no reference": _alike(spec),
        "reference": _alike(spec, same),
        "reference + checkerboard": _alike(spec, same, board),
        "reference + layer": tuple((same, *terms) for terms in _layer_terms(sources)),
        "reference + neighbourhood": _alike(spec, same, around),
        "reference + changes": _alike(spec, same, moved),
        "reference + neighbourhood + changes": _alike(spec, same, around, moved),
    }


def layer_sources(symbols: Sequence[Symbols], layers: Sequence[int], *, clip: int = 1) -> list[tuple[int, ...]]:
    """For each channel of each layer, the channel of an earlier layer that tells most about it (mutual information of
    clipped symbols); nothing for the first layer."""
    clipped_NCHW = np.clip(np.stack(symbols), -clip, clip).astype(np.int64) + clip
    values = 2 * clip + 1

    def information(channel: int, source: int) -> float:
        joint = np.bincount((clipped_NCHW[:, channel] * values + clipped_NCHW[:, source]).ravel(), minlength=values**2)
        p = joint.reshape(values, values) / joint.sum()
        expected = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
        there = p > 0
        return float((p[there] * np.log2(p[there] / expected[there])).sum())

    found: list[tuple[int, ...]] = [()]
    for first, channels in zip(np.cumsum(layers)[:-1].tolist(), layers[1:], strict=True):
        own = range(first, first + channels)
        found.append(tuple(max(range(first), key=lambda s, c=c: information(c, s)) for c in own))  # type: ignore[misc]
    return found


def _alike(spec: LatentSpec, *terms: Term) -> Terms:
    return (terms,) * len(spec.layers)


def _layer_terms(sources: Sequence[tuple[int, ...]]) -> Terms:
    return tuple((layer(own),) if own else () for own in sources)


def _spec(spec: LatentSpec, contexts: Contexts) -> LatentSpec:
    """The codec with other contexts and one operating point, whose gains do not matter to symbols."""
    return LatentSpec(spec.channels, spec.stride, spec.layers, spec.operating_points[:1], contexts)


def _stream(frames: Sequence[Float32], point: Any, lag: int, sticky: float) -> list[Pair]:
    """The frames of a clip that have a reference."""
    return [pair for pair in stream_symbols(frames, point, lag=lag, threshold=sticky) if pair[1] is not None]


def _rows(
    spec: LatentSpec, counts: Mapping[Key, Counts], streams: Mapping[Key, Pairs], name: str, point: str
) -> list[dict[str, Any]]:
    """A context set at every lag and threshold, with tables from all of `counts`."""
    together: Counts = {}
    for clip in next(iter(counts.values())):
        together[clip] = TableCounter(spec.layers, 1, spec.contexts)
        for count in counts.values():
            together[clip].include(count[clip])
    return [
        {"contexts": name, "operating_point": point, "lag": lag, "sticky": sticky}
        | {"bytes_mean": _bytes(spec, together, pairs)}
        for (lag, sticky), pairs in streams.items()
    ]


def _bytes(spec: LatentSpec, counts: Counts, coded: Pairs) -> float:
    """Mean bytes of `coded`, each clip with tables from the `counts` of all others."""
    sizes = []
    for clip, pairs in coded.items():
        others = TableCounter(spec.layers, 1, spec.contexts)
        for name, counter in counts.items():
            if name != clip:
                others.include(counter)
        codec = LatentCodec(spec, others.model())
        held = (None if before is None else Reference(0, 0, len(spec.layers), before) for _frame, before in pairs)
        bits = [codec.estimate_bits(frame, 0, reference=ref) for (frame, _), ref in zip(pairs, held, strict=True)]
        sizes.append(float(np.mean(bits)) / 8)
    return round(float(np.mean(sizes)), 1)


def _count(spec: LatentSpec, pairs: Pairs) -> Counts:
    """What each clip's frames count to."""
    counts = {}
    for clip, frames in pairs.items():
        counts[clip] = TableCounter(spec.layers, 1, spec.contexts)
        for frame, held in frames:
            counts[clip].add(frame, 0, reference=held)
    return counts


def show(console: Console, rows: Sequence[dict[str, Any]], title: str) -> None:
    """A table for each operating point: a row for each set, a column for each lag and threshold."""
    sizes = {(r["contexts"], r["operating_point"], r["lag"], r["sticky"]): r["bytes_mean"] for r in rows}
    for point in dict.fromkeys(r["operating_point"] for r in rows):
        for alone in (True, False):
            own = [r for r in rows if r["operating_point"] == point and (r["lag"] == 0) == alone]
            columns = list(dict.fromkeys((r["lag"], r["sticky"]) for r in own))
            how = "standing alone" if alone else "with a reference"
            console.print(f"{title}: {point}, {how}", highlight=False)
            table = Table(box=SIMPLE_HEAD, padding=0)
            table.add_column("contexts, bytes a frame", no_wrap=True)
            for lag, sticky in columns:
                table.add_column("" if alone else f"lag {lag}\nθ {sticky:g}", justify="right", no_wrap=True)
            for name in dict.fromkeys(r["contexts"] for r in own):
                table.add_row(name, *(f"{sizes[name, point, lag, sticky]:,.0f}" for lag, sticky in columns))
            console.print(table)
