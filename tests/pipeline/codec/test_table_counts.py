"""Tables counted from frames."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.codec import Contexts, LatentCodec, Reference, TableCounter
from pipeline.codec.contexts import changes, checkerboard, reference
from tests.codecs import CONTEXTS, LAYERS, points, random_symbols, small_spec

POINT = 0


def frames(count: int, *, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [random_symbols(rng, 12, 12, scale=0.6) for _ in range(count)]


def bytes_mean(contexts: Contexts, counter: TableCounter, test: list[np.ndarray], references=None, **options) -> float:
    codec = LatentCodec(small_spec(contexts), counter.model(**options))
    sizes = []
    for number, symbols in enumerate(test):
        held = None if references is None else Reference(1, number, len(LAYERS), references[number])
        data = codec.encode(symbols, POINT, reference=held)
        decoded = codec.decode(data, references={held.id: held} if held else None)
        np.testing.assert_array_equal(symbols, decoded.symbols)
        sizes.append(len(data))
    return float(np.mean(sizes))


@pytest.mark.parametrize("name", CONTEXTS)
def test_counted_tables_fit_the_codec_and_its_frames(name):
    contexts = CONTEXTS[name]
    counter = TableCounter(LAYERS, len(points()), contexts)
    training = frames(6)
    for number, symbols in enumerate(training):
        counter.add(symbols, number % 2)
        if contexts.inter is not None:
            counter.add(symbols, number % 2, reference=training[number - 1])
    assert bytes_mean(contexts, counter, frames(2, seed=1)) < 900


def test_the_rate_is_close_to_the_entropy_of_the_source():
    counter = TableCounter(LAYERS, 2, Contexts())
    training = frames(40)
    for symbols in training:
        counter.add(symbols, POINT)
    counts = np.unique(np.stack(training), return_counts=True)[1]
    share = counts / counts.sum()
    entropy = -(share * np.log2(share)).sum() * training[0].size / 8
    assert bytes_mean(Contexts(), counter, frames(10, seed=1)) == pytest.approx(entropy + 3 * 4 + 7, rel=0.03)


def test_a_reference_context_learns_what_stays():
    contexts = Contexts(inter=((reference(3),),) * 3)
    counter = TableCounter(LAYERS, 2, contexts)
    rng = np.random.default_rng(3)
    pairs = [
        (a, np.where(rng.random(a.shape) < 0.2, b, a)) for a, b in zip(frames(20), frames(20, seed=9), strict=True)
    ]
    for earlier, symbols in pairs:
        counter.add(symbols, POINT)
        counter.add(symbols, POINT, reference=earlier)
    test, references = [pair[1] for pair in pairs[:5]], [pair[0] for pair in pairs[:5]]
    assert bytes_mean(contexts, counter, test, references) < 0.7 * bytes_mean(contexts, counter, test)


def test_a_rare_context_costs_next_to_nothing():
    """Symbols without any dependence: a context may cost 3 percent, not more, even from few frames."""
    plain, split = Contexts(), Contexts(intra=((checkerboard(1, 2, 3, 4, 6),),) * 3)
    sizes = []
    for contexts in (plain, split):
        counter = TableCounter(LAYERS, 2, contexts)
        for symbols in frames(3):
            counter.add(symbols, POINT)
        sizes.append(bytes_mean(contexts, counter, frames(20, seed=1)))
    assert sizes[1] < 1.03 * sizes[0]


def test_counts_of_parts_together_are_those_of_the_whole():
    contexts = CONTEXTS["changes"]
    whole, parts = TableCounter(LAYERS, 2, contexts), [TableCounter(LAYERS, 2, contexts) for _ in range(2)]
    for number, (symbols, held) in enumerate(zip(frames(6), frames(6, seed=3), strict=True)):
        for counter in (whole, parts[number % 2]):
            counter.add(symbols, POINT)
            counter.add(symbols, POINT, reference=held)
    parts[0].include(parts[1])
    assert parts[0].model().to_bytes() == whole.model().to_bytes()


def test_where_earlier_channels_change_later_ones_do():
    """Whole places move together: `changes` makes both the still and the moving ones cheap."""
    rng = np.random.default_rng(1)
    plain, moving = (Contexts(inter=((*terms,),) * 3) for terms in ([reference(2)], [reference(2), changes(20, 90)]))
    pairs = []
    for held, other in zip(frames(30), frames(30, seed=5), strict=True):
        moved = rng.random((4, 4)).repeat(3, axis=0).repeat(3, axis=1) < 0.3
        pairs.append((held, np.where(moved, other, held)))
    sizes = []
    for contexts in (plain, moving):
        counter = TableCounter(LAYERS, 2, contexts)
        for held, symbols in pairs[:20]:
            counter.add(symbols, POINT, reference=held)
        test, references = [symbols for _, symbols in pairs[20:]], [held for held, _ in pairs[20:]]
        sizes.append(bytes_mean(contexts, counter, test, references))
    assert sizes[1] < 0.9 * sizes[0]


def test_skip_flags_appear_where_they_save():
    counter = TableCounter(LAYERS, 2, Contexts())
    for number, symbols in enumerate(frames(20)):
        if number % 2:
            symbols[4] = 0
        counter.add(symbols, POINT)
    skip = counter.model().intra.skip[POINT]
    assert skip.tolist() == [0, 0, 0, 0, 2048, 0]
    assert not counter.model(skips=False).intra.skip.any()
