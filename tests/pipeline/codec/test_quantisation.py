"""Latents to symbols and back."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.codec import OperatingPoint, dequantise, quantise
from pipeline.errors import BundleError

POINT = OperatingPoint("p", np.array([2.0, 0.5]), np.array([0.25, -1.0]))


def test_symbols_are_gain_times_latent_minus_offset_rounded():
    latent = np.array([[[1.0, -1.0]], [[4.0, 5.0]]], np.float32)
    assert quantise(latent, POINT).tolist() == [[[2, -2]], [[3, 4]]]
    assert np.int16 == quantise(latent, POINT).dtype


def test_ties_round_to_even_and_large_values_are_clipped():
    point = OperatingPoint("p", np.ones(1), np.zeros(1))
    latent = np.array([[[0.5, 1.5, 1e9, -1e9, np.nan]]], np.float32)
    assert quantise(latent, point).tolist() == [[[0, 2, 4095, -4095, 0]]]


def test_dequantise_is_symbol_plus_offset_over_gain():
    symbols = np.array([[[2]], [[-3]]], np.int16)
    np.testing.assert_array_equal([[[1.125]], [[-8.0]]], dequantise(symbols, POINT))
    assert np.float32 == dequantise(symbols, POINT).dtype


def test_leading_axes_are_batches():
    latent = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
    one_by_one = np.stack([quantise(one, POINT) for one in latent])
    np.testing.assert_array_equal(one_by_one, quantise(latent, POINT))
    np.testing.assert_array_equal(dequantise(one_by_one, POINT)[1], dequantise(one_by_one[1], POINT))


def test_the_latent_is_left_alone():
    latent = np.ones((2, 1, 1), np.float32)
    quantise(latent, POINT)
    assert (latent == 1).all()


def test_half_a_step_is_the_largest_error():
    latent = np.random.default_rng(1).normal(0, 3, (2, 8, 8)).astype(np.float32)
    error = np.abs(dequantise(quantise(latent, POINT), POINT) - latent)
    assert (error <= 0.5 / POINT.gain[:, None, None] + 1e-5).all()


@pytest.mark.parametrize(
    ("gain", "offset", "word"),
    [
        ([1.0, 0.0], [0.0, 0.0], "positive"),
        ([1.0, -2.0], [0.0, 0.0], "positive"),
        ([1.0, np.nan], [0.0, 0.0], "finite"),
        ([1.0], [0.0, 0.0], "offsets"),
        ([], [], "shape"),
        ([[1.0]], [0.0], "shape"),
    ],
)
def test_unsound_points_are_refused(gain, offset, word):
    with pytest.raises(BundleError, match=word):
        OperatingPoint("p", np.array(gain), np.array(offset))
