"""The rate and accuracy benchmark: its keys are a contract, its comparisons are fair, its failures are one line."""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("simplejpeg")
pytest.importorskip("PIL")

from benchmarks import rate_accuracy
from benchmarks.evaluation_pictures import Pictures, read_pictures
from benchmarks.judge import Judge
from benchmarks.picture_codecs import PictureCodec, picture_codecs
from benchmarks.rate_accuracy import Point, drop_useless_sides
from benchmarks.rate_plot import check_plotting, draw, make_figure, merged
from pipeline.bundle import Bundle
from pipeline.datasets.halves import in_half
from pipeline.errors import ConfigError, InputError
from pipeline.preprocess import PreprocessSpec
from pipeline.runtime.engine import Features
from pipeline.runtime.engines import EngineChoice
from recordings.samples import sample_path
from tasks.head import TaskHead
from tests.bundles import backbone, random_bundle

KEYS = {
    "codec", "setting", "bytes_mean", "bytes_p95", "top1", "top1_direct", "loss_points", "loss_ci95", "agreement", "kl",
}  # fmt: skip
SIZE = 224
SPEC = PreprocessSpec(SIZE).evaluation()
CLASSES = tuple(f"class{i}" for i in range(1000))


class MosaicEngine:
    """Features are an 8×8 mosaic of a picture, and the means of a latent's channels; counts its batches."""

    backbone, backend, device, feature_width = "tf_efficientnet_lite0", "fake", "cpu", 192

    def __init__(self) -> None:
        self.image_batches = 0

    def from_images(self, images_B3HW: np.ndarray) -> Features:
        self.image_batches += 1
        tiles = images_B3HW.reshape(len(images_B3HW), 3, 8, SIZE // 8, 8, SIZE // 8)
        return Features(tiles.mean(axis=(3, 5)).reshape(len(tiles), -1), 0.0, 0.0)

    def from_latents(self, latents_BCHW: np.ndarray) -> Features:
        return Features(np.tile(latents_BCHW.mean(axis=(2, 3)), 4), 0.0, 0.0)

    def classifier(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        return rng.normal(0, 1, (1000, self.feature_width)).astype(np.float32), np.zeros(1000, np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    one = backbone("tf_efficientnet_lite0", pooled_width=192, default=True)
    return random_bundle(tmp_path_factory.mktemp("bundle") / "b", backbones=(one,), tasks=())


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    """Smooth colours with a little noise, not square."""
    rng = np.random.default_rng(1)
    made = []
    for _ in range(5):
        coarse = rng.integers(0, 256, (6, 8, 3)).repeat(40, axis=0).repeat(40, axis=1)
        made.append(np.clip(coarse + rng.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8))
    return made


@pytest.fixture
def shard(tmp_path: Path, photos: list[np.ndarray]) -> Path:
    """A tar with a labels.csv inside."""
    rows = "".join(f"{i}.png,{7 * i}\n" for i in range(len(photos)))
    members = {f"{i}.png": png(photo) for i, photo in enumerate(photos)}
    return write_tar(tmp_path / "shard.tar", members | {"labels.csv": f"filename,imagenet_index\n{rows}".encode()})


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def write_folder(folder: Path, photos: list[np.ndarray], names: list[str]) -> Path:
    for name, photo in zip(names, photos, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(photo))
    return folder


def squares(count: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def options(**changed: object) -> argparse.Namespace:
    asked = {
        "data": "", "bundle": None, "backbone": "", "task": "imagenet1k", "codecs": "jpeg,png", "half": "all",
        "split": "test", "limit": None, "precision": "fp32", "device": "auto", "threads": 1, "json": None, "plot": None,
    }  # fmt: skip
    return argparse.Namespace(**asked | changed)


def run(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, **changed: object) -> dict:
    monkeypatch.setattr(rate_accuracy.Bundle, "open", lambda path: bundle)
    monkeypatch.setattr(rate_accuracy, "choose_engine", lambda *a, **k: EngineChoice(MosaicEngine(), "fake"))
    monkeypatch.setattr(
        rate_accuracy, "picture_codecs",
        lambda names, size: ([c for c in picture_codecs(names, size)[0] if c.quality in (10, 90, 100)], []),
    )  # fmt: skip
    return rate_accuracy.run(options(**changed), Console(file=io.StringIO()))


# --- The whole ----------------------------------------------------------------------------------------------------


def test_labelled_shards_give_every_key(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, shard: Path) -> None:
    """For each operating point and each rival; PNG loses nothing, to the last digit (of five pictures)."""
    figures = run(monkeypatch, bundle, data=str(shard))
    assert (figures["bundle"], figures["images"]) == ("random", 5)
    points = {(point["codec"], point["setting"]): point for point in figures["points"]}
    assert {setting for codec, setting in points if codec == "frankenstream"} == {"low", "standard", "high"}
    assert {("jpeg", "q10"), ("jpeg", "q90"), ("png", "lossless")} <= points.keys()
    assert all(point.keys() >= KEYS for point in points.values())
    lossless = points["png", "lossless"]
    assert (lossless["loss_points"], lossless["loss_ci95"], lossless["agreement"], lossless["kl"]) == (
        0,
        [-39.6, 39.6],
        100,
        0,
    )
    assert points["jpeg", "q10"]["kl"] > points["jpeg", "q90"]["kl"] > 0
    assert json.loads(json.dumps(figures)) == figures


def test_without_labels_there_are_agreement_and_kl_only(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, tmp_path: Path, photos: list[np.ndarray]
) -> None:
    """The other keys are there, and null."""
    write_folder(tmp_path / "loose", photos[:2], ["a.png", "b.png"])
    point = run(monkeypatch, bundle, data=str(tmp_path / "loose" / "*.png"), codecs="")["points"][0]
    assert {point[key] for key in ("top1", "top1_direct", "loss_points")} == {None}
    assert point["loss_ci95"] is None
    assert 0 <= point["agreement"] <= 100
    assert point["kl"] > 0


@pytest.mark.parametrize("labelled", [True, False])
def test_the_table_fits_a_small_terminal(labelled: bool) -> None:
    """Nothing is cut off at 80 columns."""
    judge = make_judge(squares(2), np.array([1, 2]) if labelled else None)
    row = judge.figures("jpeg-optimised", "q10, 160 px", judge.direct_NK, [123456, 123456])
    if labelled:
        row |= {"top1": 100.0, "top5": 100.0, "loss_ci95": [-10.0, 15.0]}
    out = io.StringIO()
    figures = {
        "bundle": "b", "encoder": "stem fp32", "backbone": "lite0", "images": 2, "left_out": ["avif"],
        "notes": [f"{i}.jpg: broken" for i in range(9)], "points": [row],
        "reach": rate_accuracy.reach([row]),
    }  # fmt: skip
    rate_accuracy.show(Console(file=out, width=80), figures)
    assert "123,456" in out.getvalue()
    assert ("top-5" in out.getvalue()) == labelled
    assert ("bytes a frame at a loss of" in out.getvalue()) == labelled
    assert "4 more" in out.getvalue()
    assert "…" not in out.getvalue().replace("-10.0…15.0", "").replace("… and", "")


def test_bytes_are_those_of_the_bitstreams(bundle: Bundle, photos: list[np.ndarray]) -> None:
    """Header included; finer steps take more of them."""
    from pipeline.codec import quantise
    from pipeline.runtime.encoder import FrameEncoder

    judge = make_judge(squares(2))
    encoder, codec = FrameEncoder(bundle, provider="cpu", precision="fp32"), bundle.latent_codec()
    rows = rate_accuracy.measure_bundle(codec, encoder, judge)
    images = judge.images(slice(0, 2))
    sizes = [
        len(codec.encode(quantise(encoder.analyse(image[None]), codec.spec.operating_points[0]), 0)) for image in images
    ]
    assert rows[0]["bytes_mean"] == pytest.approx(np.mean(sizes), abs=0.06)
    assert rows[0]["bytes_mean"] < rows[1]["bytes_mean"] < rows[2]["bytes_mean"]


def test_a_missing_bundle_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And the exit code of its error."""
    monkeypatch.setattr(sys, "argv", ["rate_accuracy", "--data", "x", "--bundle", "no-such-bundle"])
    assert rate_accuracy.main() == 5
    assert "no-such-bundle" in capsys.readouterr().err


# --- Judging ------------------------------------------------------------------------------------------------------


def make_judge(squares_NSS3: np.ndarray, labels_N: np.ndarray | None = None) -> Judge:
    engine = MosaicEngine()
    head = TaskHead("imagenet1k", engine.backbone, *engine.classifier(), CLASSES)
    return Judge(engine, head, Pictures(squares_NSS3, labels_N))


def test_the_unmodified_backbone_runs_once() -> None:
    """And not again for files that change no pixel."""
    judge = make_judge(squares(3))
    rate_accuracy.measure_rival(picture_codecs(["png"], SIZE)[0][0], judge)
    assert judge.engine.image_batches == 1
    rate_accuracy.measure_rival(picture_codecs(["jpeg"], SIZE)[0][0], judge)
    assert judge.engine.image_batches == 2


def test_figures_of_answers_that_are_known() -> None:
    """One of four pictures lost, two answers changed."""
    judge = make_judge(squares(4), np.array([0, 1, 2, 3]))
    judge.direct_NK = 10 * np.eye(4, 10, dtype=np.float32)
    logits = judge.direct_NK.copy()
    judge.pictures.labels_N[3] = 9  # wrong either way
    logits[2:] = np.roll(logits[2:], 1, axis=1)
    row = judge.figures("jpeg", "q1", logits, [100, 100, 100, 300])
    assert (row["top1"], row["top1_direct"], row["loss_points"], row["agreement"]) == (50, 75, 25, 50)
    assert row["loss_ci95"][0] <= 25 <= row["loss_ci95"][1]
    assert (row["bytes_mean"], row["bytes_p95"]) == (150, 270)


def test_a_smaller_side_stays_only_where_it_helps() -> None:
    """By KL, against the full side at equal bytes; codecs are not mixed."""

    def point(codec: str, setting: str, size: float, kl: float, full: bool = True) -> Point:
        return Point({"codec": codec, "setting": setting, "bytes_mean": size, "kl": kl}, full)

    points = [
        point("jpeg", "q10", 1000, 1.0), point("jpeg", "q90", 4000, 0.25), point("webp", "q10", 1000, 0.01),
        point("jpeg", "better", 2000, 0.4, False), point("jpeg", "worse", 2000, 0.6, False),
        point("jpeg", "smallest", 500, 3.0, False),
    ]  # fmt: skip
    kept, dropped = drop_useless_sides(points)
    assert [p.setting for p in dropped] == ["worse"]
    assert len(kept) == 5


# --- Picture codecs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jpeg", "jpeg-optimised", "webp", "avif", "png"])
def test_every_codec_gives_back_about_what_it_got(name: str, photos: list[np.ndarray]) -> None:
    """At its best quality."""
    codecs, left_out = picture_codecs([name], SIZE)
    if left_out:
        pytest.skip(left_out[0])
    best = max((codec for codec in codecs if codec.full_size), key=lambda codec: codec.quality)
    square = np.ascontiguousarray(photos[0][:SIZE, :SIZE])
    seen = best.expand(best.compress(square))
    assert seen.shape == (1, 3, SIZE, SIZE)
    assert np.abs(seen[0].transpose(1, 2, 0) - square / 255).mean() < 0.03


def test_a_smaller_side_is_sent_smaller_and_seen_at_full_size(photos: list[np.ndarray]) -> None:
    """The setting says so."""
    codec = next(codec for codec in picture_codecs(["jpeg"], SIZE)[0] if codec.side == SIZE // 2)
    full = PictureCodec("jpeg", codec.quality, SIZE, SIZE, codec.encode)
    square = np.ascontiguousarray(photos[0][:SIZE, :SIZE])
    assert codec.setting == f"q{codec.quality}, 112 px"
    assert len(codec.compress(square)) < len(full.compress(square))
    assert codec.expand(codec.compress(square)).shape == (1, 3, SIZE, SIZE)


def test_unknown_codecs_are_refused() -> None:
    with pytest.raises(ConfigError, match="jpeg2000"):
        picture_codecs(["jpeg2000"], SIZE)


# --- Pictures -----------------------------------------------------------------------------------------------------


def test_class_folders_of_the_task_carry_its_indices(tmp_path: Path, photos: list[np.ndarray]) -> None:
    """Whichever of the classes are there."""
    folder = write_folder(tmp_path / "data", photos, ["class9/a.png", "class30/b.png"])
    assert read_pictures(str(folder), SPEC, classes=CLASSES).labels_N.tolist() == [30, 9]


def test_class_folders_of_another_task_count_as_unlabelled(tmp_path: Path, photos: list[np.ndarray]) -> None:
    """With a note that names one."""
    folder = write_folder(tmp_path / "data", photos, ["apple_pie/a.png", "sushi/b.png"])
    pictures = read_pictures(str(folder), SPEC, classes=CLASSES)
    assert pictures.labels_N is None
    assert "apple_pie" in pictures.notes[0]


def test_videos_give_their_frames(tmp_path: Path) -> None:
    """As many as asked for, evenly spread, without labels."""
    pictures = read_pictures(str(sample_path()), SPEC, classes=CLASSES, limit=3)
    assert pictures.squares_NSS3.shape == (3, SIZE, SIZE, 3)
    assert pictures.labels_N is None


def test_a_half_is_told_by_the_file_name(shard: Path) -> None:
    """Even and odd together are all."""
    names = [f"{i}.png" for i in range(5)]
    even = [7 * i for i, name in enumerate(names) if in_half(name, "even")]
    assert read_pictures(str(shard), SPEC, classes=CLASSES, half="even").labels_N.tolist() == even
    odd = read_pictures(str(shard), SPEC, classes=CLASSES, half="odd").labels_N.tolist()
    assert sorted(even + odd) == [7 * i for i in range(5)]


def test_a_limit_is_spread_over_everything(shard: Path) -> None:
    """Not the first ones: those of class folders would be one class."""
    assert read_pictures(str(shard), SPEC, classes=CLASSES, limit=2).labels_N.tolist() == [0, 14]


def test_broken_pictures_are_noted(tmp_path: Path, photos: list[np.ndarray]) -> None:
    """And the others go on; with nothing left it is an error."""
    folder = write_folder(tmp_path / "data", photos, ["a.png"])
    (folder / "b.png").write_bytes(b"no picture")
    pictures = read_pictures(f"{folder}/*", SPEC, classes=CLASSES)
    assert len(pictures) == 1
    assert "b.png" in pictures.notes[0]
    with pytest.raises(InputError, match="gives no pictures"):
        read_pictures(f"{folder}/b*", SPEC, classes=CLASSES)


def test_labels_beyond_the_task_are_refused(shard: Path) -> None:
    with pytest.raises(InputError, match="label 28"):
        read_pictures(str(shard), SPEC, classes=CLASSES[:10])


def test_a_glob_without_matches_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing matches"):
        read_pictures(f"{tmp_path}/*.tar", SPEC, classes=CLASSES)


# --- The plot -----------------------------------------------------------------------------------------------------


def finished(*, encoder: str = "stem fp32", labelled: bool = True, **changed: object) -> dict:
    """Figures as the benchmark writes them: one operating point, two qualities of JPEG."""
    rows = [("frankenstream", "low", 2000, 3.0), ("jpeg", "q10", 3000, 9.0), ("jpeg", "q90", 15000, 0.2)]
    points = [
        {
            "codec": codec, "setting": setting, "bytes_mean": size, "kl": loss / 20, "top1_direct": 90.0,
            "loss_points": loss if labelled else None, "loss_ci95": [loss - 1, loss + 1] if labelled else None,
        }
        for codec, setting, size, loss in rows
    ]  # fmt: skip
    same = {"backbone": "lite0", "task": "imagenet1k", "data": "x.tar", "half": "even", "images": 3}
    return {"points": points, "encoder": encoder, "bundle": "b", "codec_id": "0123456789ab"} | same | changed


@pytest.mark.parametrize("labelled", [True, False])
def test_the_plot_names_every_codec(tmp_path: Path, labelled: bool) -> None:
    """And our operating points, and qualities; also where nothing has labels."""
    pytest.importorskip("matplotlib")
    figures = finished(labelled=labelled)
    named = {text.get_text() for text in make_figure(figures).axes[0].texts}
    assert named == {"frankenstream", "jpeg", "low", "q10", "q90"}
    draw(figures, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_several_bundles_in_one_plot() -> None:
    """Each by the name of its encoder, where those differ; picture codecs once; by KL where that is asked for."""
    pytest.importorskip("matplotlib")
    both = merged([finished(encoder="stem fp32"), finished(encoder="conv_stem fp32")])
    axes = make_figure(both, "kl").axes[0]
    named = [text.get_text() for text in axes.texts]
    assert sorted(named) == ["conv_stem", "jpeg", "low", "low", "q10", "q90", "stem"]
    assert "KL" in axes.get_ylabel()
    alike = merged([finished(), finished(codec_id="ba9876543210")])
    assert alike["ours"] == ["stem, b 012345", "stem, b ba9876"]


@pytest.mark.parametrize("key", ["backbone", "task", "data", "half", "images"])
def test_figures_of_other_pictures_are_not_mixed(key: str) -> None:
    """One line says what differs."""
    with pytest.raises(ConfigError, match=key):
        merged([finished(), finished(**{key: "another"})])


def test_a_plot_that_cannot_be_drawn_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.png"):
        check_plotting(tmp_path / "plot.gif")
