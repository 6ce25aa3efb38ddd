"""Crop, resize and colour: the numbers that every edge must compute alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BundleError, InputError
from pipeline.preprocess import FILTERS, Box, Preprocessor, PreprocessSpec, as_rgb

SIDES = st.integers(1, 90)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("filter_name", FILTERS)
@given(height=SIDES, width=SIDES, size=st.integers(1, 40), value=st.integers(0, 255), evaluation=st.booleans())
def test_a_plain_colour_stays_that_colour(
    filter_name: str, height: int, width: int, size: int, value: int, evaluation: bool
) -> None:
    """Any size, odd ones and 1x1 included: weights sum to one, so a plain picture stays plain, in [0, 1]."""
    spec = PreprocessSpec(size=size, filter=filter_name)
    pixels = np.full((height, width, 3), value, np.uint8)
    image = Preprocessor(spec.evaluation() if evaluation else spec)(pixels)
    assert image.shape == (1, 3, size, size)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, value / 255, atol=2e-6)


def test_the_same_size_is_only_scaled_to_the_unit_range() -> None:
    """A square of the right size is not resampled: planes of pixel / 255."""
    pixels = picture(32, 32)
    expected = pixels.transpose(2, 0, 1).astype(np.float32) / 255
    np.testing.assert_allclose(Preprocessor(PreprocessSpec(size=32))(pixels)[0], expected, atol=1e-7)


def test_area_with_an_integer_ratio_is_the_mean_of_the_covered_pixels() -> None:
    """96 to 32: means of 3x3 pixels."""
    pixels = picture(96, 96)
    expected = pixels.reshape(32, 3, 32, 3, 3).mean(axis=(1, 3)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(Preprocessor(PreprocessSpec(size=32))(pixels)[0], expected, atol=1e-6)


@pytest.mark.parametrize(("filter_name", "pillow_filter"), [("bilinear", 2), ("bicubic", 3)])
def test_shrinking_agrees_with_pillow(filter_name: str, pillow_filter: int) -> None:
    """Pillow's antialiased filters at an odd ratio, but for its rounding to 8 bits between the passes."""
    image_module = pytest.importorskip("PIL.Image")
    pixels = picture(101, 101)
    expected = np.asarray(image_module.fromarray(pixels).resize((37, 37), pillow_filter))
    found = Preprocessor(PreprocessSpec(size=37, filter=filter_name))(pixels)[0].transpose(1, 2, 0) * 255
    assert np.abs(found - expected).max() <= 1.5


@pytest.mark.parametrize("side", [480, 333, 101])
def test_area_agrees_with_opencv(side: int) -> None:
    """INTER_AREA at ratios that are no integers, but for its rounding to 8 bits."""
    cv2 = pytest.importorskip("cv2")
    pixels = picture(side, side)
    expected = cv2.resize(pixels, (96, 96), interpolation=cv2.INTER_AREA)
    found = Preprocessor(PreprocessSpec(size=96))(pixels)[0].transpose(1, 2, 0) * 255
    assert np.abs(found - expected).max() <= 0.51


def test_evaluation_sees_what_timm_sees() -> None:
    """Short side to 256 with bicubic, centre crop of 224: as Pillow's resize of that box."""
    image_module = pytest.importorskip("PIL.Image")
    pixels = picture(300, 300)
    side = 300 * 224 / 256
    box = ((300 - side) / 2, (300 - side) / 2, (300 + side) / 2, (300 + side) / 2)
    expected = np.asarray(image_module.fromarray(pixels).resize((224, 224), 3, box=box))
    found = Preprocessor(PreprocessSpec().evaluation())(pixels)[0].transpose(1, 2, 0) * 255
    assert np.abs(found - expected).mean() <= 0.4


def test_shrinking_does_not_alias() -> None:
    """The finest chequer pattern becomes grey instead of a moire."""
    chequer = (np.indices((450, 450)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = Preprocessor(PreprocessSpec(size=64))(chequer)
    assert np.abs(image - 0.5).max() < 0.08


def test_live_crop_is_the_largest_centred_square() -> None:
    """640x480 shows its middle 480 pixels; what is outside has no influence."""
    assert PreprocessSpec().box(480, 640) == Box(80, 0, 480, 480)
    assert PreprocessSpec().box(1281, 720) == Box(0, 280, 720, 720)
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :8] = pixels[:, 56:] = 255
    assert Preprocessor(PreprocessSpec(size=24))(pixels).max() == 0


def test_colours_are_red_green_blue_planes() -> None:
    """The first plane is red, whatever form the picture came in."""
    red = np.zeros((8, 8, 4), np.uint8)
    red[:, :, 0] = 255
    red[:, :, 3] = 7  # alpha is left out
    means = Preprocessor(PreprocessSpec(size=4))(red).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(means, (1, 0, 0), atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 2)])
def test_grey_becomes_three_equal_channels(shape: tuple[int, ...]) -> None:
    """Grey with or without alpha: the first channel, three times."""
    grey = picture(5, 7)[:, :, 0]
    pixels = grey if len(shape) == 2 else np.stack([grey] * shape[2], axis=2)
    np.testing.assert_array_equal(as_rgb(pixels), np.stack([grey] * 3, axis=2))


def test_rgb_is_not_copied() -> None:
    """Full frames are large: RGB goes through as it is."""
    pixels = picture(5, 7)
    assert np.shares_memory(as_rgb(pixels), pixels)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "picture has float32 pixels, expected uint8"),
        (np.zeros((4, 4, 5), np.uint8), r"picture has shape \(4, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"picture has shape \(0, 4, 3\)"),
        (np.zeros((4,), np.uint8), r"picture has shape \(4,"),
        (np.broadcast_to(np.uint8(0), (9000, 9000, 3)), "picture is 9000x9000, 81000000 pixels, limit 40000000"),
    ],
)
def test_what_is_no_picture_is_refused(pixels: np.ndarray, message: str) -> None:
    """One line with what came and what is expected."""
    with pytest.raises(InputError, match=message):
        as_rgb(pixels)


def test_8k_works() -> None:
    """7680x4320 is within the limit and comes out at the encoder's size."""
    pixels = np.broadcast_to(np.array([10, 20, 30], np.uint8), (4320, 7680, 3))
    image = Preprocessor(PreprocessSpec())(pixels)
    np.testing.assert_allclose(image.mean(axis=(0, 2, 3)), np.array([10, 20, 30]) / 255, atol=1e-5)


def test_changing_sizes_keep_only_a_few_plans() -> None:
    """A folder of differently sized pictures does not grow memory, and the results are those of a fresh one."""
    one = Preprocessor(PreprocessSpec(size=16))
    for side in range(20, 40):
        pixels = picture(side, side + 3)
        np.testing.assert_array_equal(one(pixels), Preprocessor(PreprocessSpec(size=16))(pixels))
    assert len(one._plans) <= 4


def test_results_are_not_overwritten_by_the_next_picture() -> None:
    """Each call gives memory of its own."""
    one = Preprocessor(PreprocessSpec(size=16))
    first = one(picture(20, 20))
    kept = first.copy()
    one(picture(20, 20, seed=1))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "wrong", [{"filter": "sharp"}, {"crop": "left"}, {"colour": "yuv"}, {"size": 0}, {"size": 5000}, {"fraction": 0.0}]
)
def test_a_spec_that_this_version_does_not_know_is_refused(wrong: dict[str, object]) -> None:
    """A newer bundle's preprocessing is a BundleError, not a wrong picture."""
    with pytest.raises(BundleError, match="preprocess"):
        PreprocessSpec(**wrong)  # type: ignore[arg-type]
