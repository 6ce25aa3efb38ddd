"""Evaluation on the way: which photos, which points, which rows."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from rich.console import Console  # noqa: E402

from pipeline.datasets.halves import in_half  # noqa: E402
from pipeline.models.backbones import load_backbone  # noqa: E402
from pipeline.models.feature_codec import CodecConfig  # noqa: E402
from pipeline.training.data import CropSampler, PhotoSource, build_photo_store  # noqa: E402
from pipeline.training.development import DevelopmentLog  # noqa: E402
from pipeline.training.evaluate import compare, load_labelled, reference_logits  # noqa: E402
from pipeline.training.loop import Trainer  # noqa: E402
from pipeline.training.recipes import Recipe  # noqa: E402
from tests.pipeline.training.photos import write_tar  # noqa: E402

TAGS = ("tf_efficientnet_lite0", "mobilenetv2_100")
NAMES = [f"{number}.png" for number in range(6)]


def test_rows(tmp_path: Path) -> None:
    """All points of the first backbone on the even half of the labelled photos, the middle one everywhere else; the
    figures are those of the average, and rows are appended.
    """
    labelled = write_tar(tmp_path / "labelled.tar", NAMES, labels=dict.fromkeys(NAMES, 1))
    held_out = write_tar(tmp_path / "held.tar", NAMES)
    store = build_photo_store([PhotoSource(held_out)], tmp_path / "store")
    torch.manual_seed(0)
    backbones = {tag: load_backbone(tag, stride=8, pretrained=False) for tag in TAGS}
    recipe = replace(Recipe(), codec=CodecConfig(analysis="conv_stem", backbones=TAGS))
    trainer = Trainer(recipe, backbones, CropSampler(store, seed=1), data_sha256="00", out=tmp_path, autocast=False)
    trainer.counters.step, trainer.counters.crops = 3, 72
    evaluate = DevelopmentLog(tmp_path / "dev.csv", labelled, held_out, Console(file=io.StringIO()))
    evaluate(trainer)
    evaluate(trainer)

    rows = list(csv.DictReader((tmp_path / "dev.csv").open()))
    first, second = TAGS
    places = [(row["photos"], row["backbone"], row["point"]) for row in rows]
    once = [("labelled", first, point) for point in ("low", "standard", "high")]
    once += [("held", first, "standard"), ("labelled", second, "standard"), ("held", second, "standard")]
    assert places == once * 2
    assert {(row["step"], row["crops"]) for row in rows} == {("3", "72")}
    assert [row["loss_points"] for row in rows if row["photos"] == "held"] == ["nan"] * 4

    photos = load_labelled(labelled, half="even")
    assert len(photos.pixels_NCHW) == sum(in_half(name, "even") for name in NAMES) < len(NAMES)
    frozen = trainer.frozen[first]
    expected = compare(trainer.average, frozen, photos, reference_logits(frozen, photos), point=2).row()
    assert float(rows[2]["bytes"]) == pytest.approx(expected["bytes"], rel=1e-4)
    assert float(rows[2]["kl"]) == pytest.approx(expected["kl"], rel=1e-3)
