"""The video benchmark: its keys are a contract, its comparisons are fair, its rivals are what they say."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("simplejpeg")
pytest.importorskip("PIL")

from benchmarks import video, video_contexts, video_equal, video_plot
from benchmarks.video_clips import find_clips, read_clips
from benchmarks.video_codecs import spread, video_codecs
from benchmarks.video_ours import Way, send, ways
from pipeline.bundle import Bundle
from pipeline.codec import Contexts, LatentSpec, quantise
from pipeline.errors import ConfigError, InputError
from pipeline.preprocess import PreprocessSpec
from pipeline.runtime.engines import EngineChoice
from recordings.samples import sample_path
from tests.benchmarks.test_rate_accuracy import MosaicEngine
from tests.bundles import backbone, random_bundle

KEYS = {"clip", "codec", "setting", "lag", "bytes_mean", "kbps", "kl", "agreement"}
POINT_NAMES = ("low", "standard", "high")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    one = backbone("tf_efficientnet_lite0", pooled_width=192, default=True)
    return random_bundle(tmp_path_factory.mktemp("bundle") / "b", backbones=(one,), tasks=())


@pytest.fixture(scope="module")
def figures(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The whole benchmark on ten frames of the bundled clips, with few settings."""
    patch = pytest.MonkeyPatch()
    patch.setattr(video.Bundle, "open", lambda path: bundle)
    patch.setattr(video, "choose_engine", lambda *a, **k: EngineChoice(MosaicEngine(), "fake"))
    options = argparse.Namespace(
        clips=[], frames=10, bundle=None, backbone="", task="imagenet1k", codecs="x264,jpeg", settings=2, lags="1",
        sticky="0,own,1.25", contexts=False, precision="fp32", threads=1, json=None, plot=None,
    )  # fmt: skip
    try:
        return video.run(options, Console(file=io.StringIO()))
    finally:
        patch.undo()


def latents(frames: int, *, seed: int = 0) -> list[np.ndarray]:
    """A still scene that trembles."""
    rng = np.random.default_rng(seed)
    still = rng.laplace(0, 0.3, (48, 8, 8))
    return [(still + rng.normal(0, 0.02, still.shape)).astype(np.float32) for _ in range(frames)]


def test_every_way_gives_every_key_for_each_clip_and_the_mean(figures: dict) -> None:
    """Ours alone and at each lag and threshold, and each quality of the rivals."""
    points = figures["points"]
    assert all(point.keys() >= KEYS for point in points)
    assert {point["clip"] for point in points} == {"tour", "walk", "mean"}
    mean = {(p["codec"], p["setting"], p["lag"]) for p in points if p["clip"] == "mean"}
    assert {("frankenstream", name, 0) for name in POINT_NAMES} <= mean
    assert {("frankenstream", f"{name}, sticky 1.25", 1) for name in POINT_NAMES} <= mean
    assert {("frankenstream", f"{name}, own sticky{c}", 1) for name in POINT_NAMES for c in ("", ", chosen")} <= mean
    assert {("x264", "crf 8", None), ("x264", "crf 42", None), ("jpeg", "q10", None), ("jpeg", "q75", None)} <= mean
    assert len(points) == 3 * len(mean)
    assert json.loads(json.dumps(figures)) == figures


def test_references_change_bytes_and_not_answers(figures: dict) -> None:
    """Without stickiness the symbols are the same; with it fewer bytes are needed."""
    ours = [p for p in figures["points"] if (p["clip"], p["codec"]) == ("mean", "frankenstream")]
    mean = {(p["setting"], p["lag"]): p for p in ours}
    for name in POINT_NAMES:
        assert mean[name, 0]["kl"] == mean[name, 1]["kl"]
        assert mean[f"{name}, sticky 1.25", 1]["bytes_mean"] <= mean[name, 1]["bytes_mean"]


def test_rates_are_bytes_at_the_clips_own_frame_rate(figures: dict) -> None:
    """kbit/s = 8 · bytes · frames a second / 1000."""
    for point in (point for point in figures["points"] if point["clip"] != "mean"):
        fps = figures["clips"][point["clip"]]["fps"]
        assert point["kbps"] == pytest.approx(8e-3 * point["bytes_mean"] * fps, rel=1e-3, abs=0.02)


def test_tables_and_picture_are_drawn(figures: dict, tmp_path: Path) -> None:
    """Of the means, and of each clip."""
    out = io.StringIO()
    video.show(Console(file=out, width=80), figures)
    assert "bytes at equal mean KL" in out.getvalue()
    assert "…" not in out.getvalue()
    pytest.importorskip("matplotlib")
    video_plot.draw(figures, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_stream_is_what_an_edge_sends(bundle: Bundle) -> None:
    """Lag 0 stands alone; with a lag the first frames do, and a scene that trembles is worth a reference."""
    codec, frames = bundle.latent_codec(), latents(6)
    alone = send(codec, frames, Way(1, "standard", 0, 0.0))
    assert (len(alone.payload_bytes), alone.referring) == (6, 0)
    np.testing.assert_array_equal(quantise(frames[2], codec.spec.operating_points[1]), alone.symbols_NCHW[2])
    sticky = send(codec, frames, Way(1, "standard", 2, 1.5))
    np.testing.assert_array_equal(sticky.symbols_NCHW[0], sticky.symbols_NCHW[4])


def test_with_frame_choice_a_frame_that_hardly_changed_is_not_sent(bundle: Bundle) -> None:
    """It costs nothing, and shows what the frame shows whose answer is repeated."""
    codec = bundle.latent_codec()
    still = latents(1) * 5
    sent = send(codec, still, Way(1, "standard", 1, None, True))
    assert sent.payload_bytes[0] > 0
    assert sent.payload_bytes[1:] == [0] * 4
    assert sent.unsent == 4
    np.testing.assert_array_equal(sent.symbols_NCHW[0], sent.symbols_NCHW[4])
    moving = [frame for number in range(4) for frame in latents(1, seed=number)]
    assert send(codec, moving, Way(1, "standard", 1, None, True)).unsent == 0


def test_ways_are_all_combinations() -> None:
    """Stickiness is nothing without a reference."""
    found = ways(["low", "high"], [1, 3], [0.0, 0.8])
    assert len(found) == 2 + 2 * 2 * 2
    assert Way(1, "high", 3, 0.8).setting == "high, sticky 0.8"
    assert all(way.sticky == 0 for way in found if way.lag == 0)
    assert [way.setting for way in ways(["low"], [1], [None])] == ["low", "low, own sticky", "low, own sticky, chosen"]


def test_video_codecs_do_not_reorder_and_later_frames_are_cheap() -> None:
    """Each frame is one packet; what is seen is close to what went in; those that are missing are named."""
    codecs, left_out = video_codecs(["x264", "x265", "svt-av1"], settings=1)
    assert len(codecs) + len(left_out) == 3
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).repeat(4, axis=0).repeat(4, axis=1)
    squares = np.stack([np.roll(noise, shift, axis=0) for shift in range(4)]).astype(np.uint8)
    for codec in codecs:
        sizes, seen = codec.run(squares, 30.0)
        assert seen.shape == squares.shape
        assert min(sizes) > 0
        assert sum(sizes[1:]) / 3 < sizes[0]
        assert np.abs(seen.astype(int) - squares).mean() < 30


def test_qualities_are_spread_evenly() -> None:
    """The first and the last are always there."""
    assert spread((1, 2, 3, 4, 5), 3) == [1, 3, 5]
    assert spread((1, 2, 3), None) == [1, 2, 3]


def test_equal_kl_is_read_off_a_codecs_best_points() -> None:
    """Logarithmically between them, without what others beat; where the curve ends it is said on which side."""
    sizes, kls = np.array([100.0, 400.0, 500.0]), np.array([0.4, 0.1, 0.3])
    assert video_equal.bytes_at(sizes, kls, 0.2) == (pytest.approx(200), "")
    assert video_equal.bytes_at(sizes, kls, 0.5) == (100, "fewest")
    assert video_equal.bytes_at(sizes, kls, 0.05) == (400, "none")


def test_ratios_have_intervals_over_clips() -> None:
    """Three clips that agree give a narrow one, one clip none; a rival that was not measured is none."""
    points = []
    for clip, scale in (("a", 1.0), ("b", 1.1), ("c", 0.9)):
        points.append({"clip": clip, "codec": "us", "setting": "low", "lag": 1, "bytes_mean": 100 * scale, "kl": 0.2})
        for size, kl in ((200, 0.4), (800, 0.1)):
            rival = {"codec": "x264", "setting": str(size), "lag": None, "bytes_mean": size * scale, "kl": kl}
            points.append({"clip": clip} | rival)
    (row,) = video_equal.at_equal_kl(points, ours="us", rivals=["x264", "x265"])
    assert (row["setting"], row["lag"], row["bytes_mean"], row["kl"]) == ("low", 1, 100, 0.2)
    assert (row["x264"], row["x264_bound"], row["x264_ratio"]) == (400, "", 4.0)
    assert row["x264_ratio_ci95"] == [4.0, 4.0]
    assert (row["x265"], row["x265_bound"]) == (None, "none")
    one = [point for point in points if point["clip"] == "a"]
    assert video_equal.at_equal_kl(one, ours="us", rivals=["x264"])[0]["x264_ratio_ci95"] is None


def test_clips_of_one_name_stay_apart(tmp_path: Path) -> None:
    """tour.mp4 and tour.mkv are two clips."""
    for name in ("tour.mkv", "tour.mp4"):
        (tmp_path / name).write_bytes(sample_path("tour").read_bytes())
    clips, _ = read_clips(find_clips([tmp_path]), PreprocessSpec(32), frames=8)
    assert [clip.name for clip in clips] == ["tour", "tour.mp4"]


def test_unknown_things_are_one_line(tmp_path: Path) -> None:
    """Rivals by name, and clips that are not there or too short."""
    with pytest.raises(ConfigError, match="h266"):
        video._rivals(argparse.Namespace(codecs="h266", settings=None))
    with pytest.raises(InputError, match="no video"):
        find_clips([tmp_path])
    with pytest.raises(InputError, match="at least 8"):
        read_clips(find_clips([]), PreprocessSpec(32), frames=4)


def test_the_ablation_counts_on_other_clips(bundle: Bundle) -> None:
    """A reference helps a still scene, and `changes` beside it; a single clip has no others."""
    small = LatentSpec(48, 8, (6,) * 8, bundle.operating_points[:1], Contexts())
    clips = {name: latents(5, seed=seed) for seed, name in enumerate(("a", "b"))}
    rows = video_contexts.ablation(small, clips, lags=[1], thresholds=[0.0, 1.5])
    sizes = {(row["contexts"], row["lag"], row["sticky"]): row["bytes_mean"] for row in rows}
    assert sizes["reference", 1, 0.0] < sizes["no reference", 1, 0.0]
    assert sizes["reference + changes", 1, 1.5] < sizes["reference", 1, 0.0]
    assert ("reference + changes, counted without", 1, 1.5) in sizes
    out = io.StringIO()
    video_contexts.show(Console(file=out, width=120), rows, "title")
    assert "reference + neighbourhood + changes" in out.getvalue()
    with pytest.raises(ConfigError, match="1 clip"):
        video_contexts.ablation(small, {"a": latents(5)}, lags=[1], thresholds=[0.0])
