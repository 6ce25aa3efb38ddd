"""Counted tables: right counts, smooth where data is thin, and no worse than the learned prior on what was counted."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.codec import Contexts, LatentCodec, Reference, Term, stream_symbols  # noqa: E402
from pipeline.models.feature_codec import LAYERS, CodecConfig, FeatureCodec  # noqa: E402
from pipeline.packing.tables import (  # noqa: E402
    MAGNITUDE_MAX,
    SymbolCounts,
    Thresholds,
    count_symbols,
    default_contexts,
    entropy_model,
    latent_of,
    latent_spec,
    operating_points,
    smoothed_pmf,
    symbols_of,
)

BOARD = Contexts(intra=((Term("checkerboard", thresholds=(1,)),),) * LAYERS)


@pytest.fixture(scope="module")
def codec() -> FeatureCodec:
    torch.manual_seed(0)
    # Fresh weights of the default encoder give next to no signal: it begins with a backbone's (closed_form).
    made = FeatureCodec(
        CodecConfig(analysis="conv_stem", backbones=("tf_efficientnet_lite0",), initial_gains=(4.0, 8.0, 16.0))
    ).eval()
    made.update_quantiles()
    return made


def images(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).random((1, 3, 32, 32), np.float32) for n in range(count)]


def test_counts_are_counts() -> None:
    """Every symbol is counted once, in its context; those beyond the range at its ends."""
    counts = SymbolCounts(BOARD, "intra", points=1, channels=48)
    symbols = np.zeros((48, 2, 2), np.int16)
    symbols[0] = [[2, 0], [-MAGNITUDE_MAX - 50, 0]]
    counts.add(symbols, 0)
    first = counts.of(0, 0)
    assert first.shape == (3, 2 * MAGNITUDE_MAX + 1)
    assert first.sum() == 4
    assert first[0, MAGNITUDE_MAX + 2] == 1  # an even place
    assert first[2, 0] == 1  # an odd place beside a magnitude above the threshold, clipped
    assert counts.skip_probabilities_PC()[0, 1] == 0.98


def test_smoothing_follows_the_data_where_there_is_some() -> None:
    """A context with many symbols has its own table, an empty one the channel's; both sum to one with escape."""
    counts = np.zeros((2, 2 * MAGNITUDE_MAX + 1))
    counts[0, MAGNITUDE_MAX], counts[0, MAGNITUDE_MAX + 1] = 9000, 1000
    pmf = smoothed_pmf(counts, np.ones(2 * MAGNITUDE_MAX + 1))
    weights = np.asarray(pmf.weights)
    zero = -pmf.low
    np.testing.assert_allclose(weights[:, zero], 0.9, atol=0.01)
    np.testing.assert_allclose(weights.sum(axis=1) + np.asarray(pmf.escape), 1.0, atol=1e-4)


def test_tables_serve_the_codec(codec: FeatureCodec) -> None:
    """Bitstreams made with counted tables decode, and cost no more than the learned prior says."""
    contexts = default_contexts(with_references=False)
    model = entropy_model(codec, count_symbols(codec, images(12), contexts))
    latents = LatentCodec(latent_spec(codec, contexts), model, coder="python")
    symbols = symbols_of(codec, images(1)[0])[1]
    bitstream = latents.encode(symbols, 1)
    np.testing.assert_array_equal(latents.decode(bitstream).symbols, symbols)
    learned = float(codec.symbol_bits(torch.from_numpy(symbols)[None].float(), 1).detach().sum()) / 8
    assert latents.estimate_bits(symbols, 1) / 8 < learned + 60


def test_references_make_still_scenes_cheap(codec: FeatureCodec) -> None:
    """Counted on a still clip, a frame with its predecessor as reference costs a fraction of one without."""
    contexts = default_contexts(with_references=True)
    clip = [images(1)[0]] * 4
    counted = count_symbols(codec, images(6), contexts, clips=[clip])
    latents = LatentCodec(latent_spec(codec, contexts), entropy_model(codec, counted), coder="python")
    symbols = symbols_of(codec, clip[0])[1]
    alone = latents.decode(latents.encode(symbols, 1))
    reference = alone.as_reference(epoch=0, frame=0)
    assert len(latents.encode(symbols, 1, reference=reference)) < 0.3 * len(latents.encode(symbols, 1))


def test_one_set_of_tables_serves_sticky_streams_and_others(codec: FeatureCodec) -> None:
    """Clips are counted at several thresholds: a frame that sticks costs less than one that does not."""
    random = np.random.default_rng(5)
    clip = [np.clip(images(1)[0] + random.normal(0, 0.02, (1, 3, 32, 32)), 0, 1).astype(np.float32) for _ in range(6)]
    counted = count_symbols(codec, images(6), default_contexts(), clips=[clip])
    latents = LatentCodec(latent_spec(codec, default_contexts()), entropy_model(codec, counted), coder="python")
    frames = [latent_of(codec, image) for image in clip]
    sizes = []
    for sticky in (0.0, 1.25):
        *_, (symbols, held) = stream_symbols(frames, latents.spec.operating_points[1], lag=1, threshold=sticky)
        assert held is not None
        sizes.append(latents.estimate_bits(symbols, 1, reference=Reference(0, 0, LAYERS, held)))
    assert sizes[1] < 0.9 * sizes[0]


def test_operating_points_have_their_thresholds(codec: FeatureCodec) -> None:
    """Those that were chosen, by name; a point that none were chosen for keeps every symbol."""
    points = operating_points(codec, {"low": Thresholds(0.8, 0.3), "high": Thresholds(0.65, 0.1)})
    assert [(one.sticky_threshold, one.refresh_threshold) for one in points] == [(0.8, 0.3), (0.0, 0.0), (0.65, 0.1)]
