"""`frankenstream try`: the comparison, the JPEG at the same bytes, and its errors."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from frankenstream.try_image import TryReport, best_jpeg, compare_ways, print_report, try_image
from pipeline.bundle import Bundle
from pipeline.errors import BundleError, ConfigError, InputError
from pipeline.runtime.engine import NullEngine
from tasks.through_codec import CodecRoute
from tests.bundles import backbone, random_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    only = backbone("null", alias="", pooled_width=8, default=True)
    return random_bundle(tmp_path_factory.mktemp("try") / "bundle", backbones=(only,))


def picture(side: int = 224) -> np.ndarray:
    """Smooth, with a little texture: an ordinary photograph's spectrum."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse, int) + rng.integers(-6, 7, (side, side, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("bytes_max", [1_200, 3_000, 6_000, 20_000])
def test_jpeg_is_no_larger_than_the_bitstream(bytes_max: int) -> None:
    fit, pixels = best_jpeg(picture(), bytes_max) or pytest.fail("none fits")
    assert fit.payload_bytes <= bytes_max
    assert pixels.shape == (224, 224, 3)


def test_more_bytes_make_a_better_jpeg() -> None:
    """And at few bytes a smaller picture wins, as it does in practice."""
    fits = [best_jpeg(picture(), size)[0] for size in (1_500, 4_000, 16_000)]  # type: ignore[index]
    assert sorted(fit.psnr_db for fit in fits) == [fit.psnr_db for fit in fits]
    assert fits[0].side < 224 == fits[-1].side


def test_no_jpeg_fits_into_nothing() -> None:
    assert best_jpeg(picture(), 100) is None


def report(bundle: Bundle, *, tasks: Sequence[str] = (), top_k: int = 3) -> TryReport:
    route = CodecRoute(bundle)
    return compare_ways("[red].png", picture(), bundle, route, NullEngine(), tasks=tasks, top_k=top_k)


def test_report_has_all_tasks_three_ways(bundle: Bundle) -> None:
    result = report(bundle)
    tasks = ["imagenet1k", "cifar100", "flowers102", "food101"]
    assert result.jpeg is not None
    assert [tasks] * 3 == [list(way.tasks) for way in (result.direct, result.codec, result.jpeg)]
    assert {3} == {len(labels) for labels in result.codec.tasks.values()}
    assert result.jpeg.payload_bytes <= result.codec.payload_bytes < result.direct.payload_bytes == 224 * 224 * 3
    json.dumps(result.as_dict())


def test_report_reads_well(bundle: Bundle) -> None:
    """File names with brackets stay as they are; the bytes are in the headings."""
    result = report(bundle, tasks=["food101"], top_k=1)
    console = Console(record=True, width=140, file=io.StringIO())
    print_report(result, console)
    text = console.export_text()
    for part in ("[red].png (224×224) on null", "food101", f"{result.codec.payload_bytes} bytes", "JPEG at the same"):
        assert part in text
    assert "imagenet1k" not in text


def test_errors_are_one_line_each(bundle: Bundle, tmp_path: Path) -> None:
    good = tmp_path / "p.png"
    Image.fromarray(picture(32)).save(good)
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    for path in (tmp_path / "none.jpg", tmp_path / "bad.jpg", tmp_path):
        with pytest.raises(InputError):
            try_image(path, bundle=bundle)
    with pytest.raises(BundleError, match="operating point 'best'"):
        try_image(good, bundle=bundle, quality="best")
    with pytest.raises(BundleError, match="backbone 'vgg'"):
        try_image(good, bundle=bundle, backbone="vgg")
    with pytest.raises(ConfigError, match="top_k is 0, expected 1 to 20"):
        report(bundle, top_k=0)
    with pytest.raises(ConfigError, match="no task 'birds' on null: choose from imagenet1k"):
        report(bundle, tasks=["birds"])
