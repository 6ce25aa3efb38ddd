"""Symbols that stay where the latent has hardly moved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.codec import OperatingPoint, quantise, quantise_sticky
from pipeline.errors import BundleError

SHAPE = (2, 3, 3)


def a_point(threshold: float = 0.0, refresh: float = 0.0) -> OperatingPoint:
    gain, offset = np.array([2.0, 0.5]), np.array([0.25, -1.0])
    return OperatingPoint("p", gain, offset, sticky_threshold=threshold, refresh_threshold=refresh)


def latent_of(in_symbols: list[float], point: OperatingPoint) -> np.ndarray:
    """A latent [2, 1, W] that lies at `in_symbols` in both channels."""
    scaled = np.tile(np.array(in_symbols, np.float32), (2, 1, 1))
    return ((scaled + point.offset[:, None, None]) / point.gain[:, None, None]).astype(np.float32)


def test_a_symbol_stays_within_the_threshold_and_moves_beyond_it() -> None:
    """At 0.8: 1.7 keeps 1 although 2 is nearer; 1.9 becomes 2."""
    point = a_point(0.8)
    held = np.ones((2, 1, 4), np.int16)
    symbols = quantise_sticky(latent_of([1.7, 1.9, 0.3, 0.1], point), point, held)
    np.testing.assert_array_equal([[1, 2, 1, 0]] * 2, symbols[:, 0])
    assert np.int16 == symbols.dtype


def test_the_threshold_of_the_call_wins_over_the_operating_points() -> None:
    """None: the operating point's; 0: off."""
    point = a_point(0.8)
    latent, held = latent_of([1.7], point), np.ones((2, 1, 1), np.int16)
    assert [quantise_sticky(latent, point, held, threshold=at)[0, 0, 0] for at in (None, 0.0, 1.0)] == [1, 2, 1]


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_off_is_plain_rounding(threshold: float) -> None:
    """Up to half a symbol rounding itself is as far away; ties go where they always go."""
    rng = np.random.default_rng(0)
    point = a_point()
    latent = latent_of([0.5, 1.5, *rng.normal(0, 2, 20)], point)
    held = rng.integers(-2, 3, latent.shape).astype(np.int16)
    np.testing.assert_array_equal(quantise(latent, point), quantise_sticky(latent, point, held, threshold=threshold))


def test_channels_that_the_reference_lacks_are_rounded() -> None:
    """There is nothing to stick to beyond the layers that both ends hold."""
    point = a_point(0.8)
    held = np.ones((1, 1, 1), np.int16)
    assert quantise_sticky(latent_of([1.7], point), point, held)[:, 0, 0].tolist() == [1, 2]


def test_what_is_no_number_is_not_kept() -> None:
    """NaN becomes 0 and large values are clipped, as without a reference."""
    point = a_point(4.0)
    latent = np.full((2, 1, 3), [[np.nan, np.inf, -1e9]], np.float32)
    symbols = quantise_sticky(latent, point, np.full((2, 1, 3), 3, np.int16))
    np.testing.assert_array_equal([[0, 4095, -4095]] * 2, symbols[:, 0])


def test_the_latent_and_the_reference_are_left_alone() -> None:
    """They belong to the caller: the reference is kept for later frames."""
    point = a_point(0.8)
    latent, held = np.full((2, 1, 1), 1.3, np.float32), np.zeros((2, 1, 1), np.int16)
    quantise_sticky(latent, point, held)
    assert (latent == np.float32(1.3)).all()
    assert (held == 0).all()


@pytest.mark.parametrize("threshold", [-0.1, 4.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    """Where the operating point is made."""
    with pytest.raises(BundleError, match="sticky threshold"):
        a_point(threshold)


@given(
    st.lists(arrays(np.float32, SHAPE, elements=st.floats(-3, 3, width=32)), min_size=1, max_size=40),
    st.floats(0.0, 4.0),
    st.integers(1, 3),
    st.integers(0, 2**16),
)
def test_errors_do_not_add_up(moves: list[np.ndarray], threshold: float, lag: int, seed: int) -> None:
    """However the latent moves and whichever earlier frame is the reference, a symbol is never further than the
    threshold (or rounding) from the present latent."""
    point = a_point(threshold)
    rng = np.random.default_rng(seed)
    sent: list[np.ndarray] = []
    latent = rng.normal(0, 1, SHAPE).astype(np.float32)
    for move in moves:
        latent = latent + move / 4
        reference = sent[-int(rng.integers(1, lag + 1)) :][:1]
        symbols = quantise_sticky(latent, point, reference[0]) if reference else quantise(latent, point)
        scaled = latent.astype(np.float64) * point.gain[:, None, None] - point.offset[:, None, None]
        assert np.abs(scaled - symbols).max() <= max(0.5, threshold) + 1e-4
        sent.append(symbols)


def test_a_slow_drift_is_followed() -> None:
    """A latent that creeps by a hundredth of a symbol a frame takes its symbol along."""
    point = a_point(0.8)
    held = np.zeros((2, 1, 1), np.int16)
    for frame in range(501):
        held = quantise_sticky(latent_of([frame / 100], point), point, held)
    assert np.abs(held - 5).max() <= 0.8


def test_noise_around_a_border_costs_nothing() -> None:
    """Without stickiness a latent between two symbols changes its symbol every other frame; with it, never."""
    point = a_point()
    rng = np.random.default_rng(0)
    changes = {}
    for threshold in (0.0, 0.8):
        held = quantise(latent_of([0.5], point), point)
        changes[threshold] = 0
        for noise in rng.normal(0, 0.05, 100):
            symbols = quantise_sticky(latent_of([0.5 + noise], point), point, held, threshold=threshold)
            changes[threshold] += int((symbols != held).any())
            held = symbols
    assert changes[0.0] > 20
    assert changes[0.8] == 0


# --- Places --------------------------------------------------------------------------------------------------------


def place(*in_symbols: float) -> np.ndarray:
    """A latent [2, 1, 1] that lies at these symbols of `a_point()`."""
    point = a_point()
    scaled = np.array(in_symbols, np.float32)[:, None, None]
    return ((scaled + point.offset[:, None, None]) / point.gain[:, None, None]).astype(np.float32)


def test_a_place_stays_as_a_whole_or_is_refreshed_symbol_by_symbol() -> None:
    """Root mean square 0.86 stays; 1.0 is refreshed, but for the symbol that lies within the sticky threshold."""
    point, held = a_point(0.6, 0.9), np.zeros((2, 1, 1), np.int16)
    assert quantise_sticky(place(1.2, 0.2), point, held).ravel().tolist() == [0, 0]
    assert quantise_sticky(place(1.3, 0.55), point, held).ravel().tolist() == [1, 0]


def test_both_thresholds_are_moved_by_one() -> None:
    """The refresh threshold keeps its proportion; 0 is plain rounding."""
    point, held = a_point(0.6, 0.9), np.zeros((2, 1, 1), np.int16)
    answers = {at: quantise_sticky(place(1.3, 0.7), point, held, threshold=at).ravel().tolist() for at in (0, 0.6, 0.8)}
    assert answers == {0: [1, 1], 0.6: [1, 1], 0.8: [0, 0]}


def test_a_place_with_what_is_no_number_is_refreshed() -> None:
    """NaN becomes 0 as ever, its neighbour in the next channel the nearest symbol."""
    point, held = a_point(0.6, 4.0), np.ones((2, 1, 1), np.int16)
    assert quantise_sticky(place(np.nan, 2.0), point, held).ravel().tolist() == [0, 2]


@pytest.mark.parametrize(("sticky", "refresh"), [(0.6, -0.1), (0.6, 4.1), (0.0, 0.5), (0.6, float("nan"))])
def test_a_refresh_threshold_needs_a_sticky_one(sticky: float, refresh: float) -> None:
    """And has the same range."""
    with pytest.raises(BundleError, match="refresh threshold"):
        a_point(sticky, refresh)


@given(
    st.lists(arrays(np.float32, SHAPE, elements=st.floats(-3, 3, width=32)), min_size=1, max_size=40),
    st.floats(0.1, 4.0),
    st.floats(0.0, 4.0),
    st.integers(0, 2**16),
)
def test_errors_of_places_do_not_add_up(moves: list[np.ndarray], threshold: float, refresh: float, seed: int) -> None:
    """However long the stream: a place lies within the refresh threshold in the mean, or each of its symbols within
    the sticky one."""
    point = a_point(threshold, refresh)
    latent = np.random.default_rng(seed).normal(0, 1, SHAPE).astype(np.float32)
    symbols = quantise(latent, point)
    for move in moves:
        latent = latent + move / 4
        symbols = quantise_sticky(latent, point, symbols)
        scaled = latent.astype(np.float64) * point.gain[:, None, None] - point.offset[:, None, None]
        distance = np.abs(scaled - symbols)
        kept = np.sqrt((distance**2).mean(axis=0)) <= refresh + 1e-4
        assert (kept | (distance.max(axis=0) <= max(0.5, threshold) + 1e-4)).all()
