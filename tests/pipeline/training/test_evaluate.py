"""Comparisons with the unmodified backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.errors import InputError  # noqa: E402
from pipeline.models.backbones import load_backbone  # noqa: E402
from pipeline.models.feature_codec import CodecConfig, FeatureCodec  # noqa: E402
from pipeline.training.evaluate import (  # noqa: E402
    bootstrap_loss,
    compare,
    compare_logits,
    in_half,
    load_labelled,
    reference_logits,
)
from tests.pipeline.training.photos import write_tar  # noqa: E402

LITE0 = "tf_efficientnet_lite0"


def comparison(answers: list[int], reference: list[int], labels: list[int] | None):
    """A Comparison of one-hot logits."""
    one_hot = torch.eye(4) * 9
    return compare_logits(
        one_hot[answers],
        one_hot[reference],
        None if labels is None else torch.tensor(labels),
        payload_bytes_N=torch.full((len(answers),), 100.0),
    )


def test_loss_is_in_points_below_the_reference() -> None:
    """Of four photos the reference has three right and the codec two: 25 points lost, 75 % agreement."""
    row = comparison([0, 1, 0, 0], [0, 1, 2, 0], [0, 1, 2, 3]).row()
    assert row["loss_points"] == 25.0
    assert row["agreement"] == 75.0
    assert row["bytes"] == 100.0


def test_without_labels_there_is_no_loss() -> None:
    """Agreement and KL need no labels; the loss is then not a number and its interval refused."""
    made = comparison([0, 1], [0, 1], None)
    assert np.isnan(made.row()["loss_points"])
    with pytest.raises(InputError, match="labelled"):
        bootstrap_loss(made)


def test_interval_is_paired() -> None:
    """Equal answers have no uncertainty in their difference, however uncertain the accuracy is."""
    assert bootstrap_loss(comparison([0, 1, 2, 0], [0, 1, 2, 0], [0, 0, 2, 3])) == (0.0, 0.0)
    low, high = bootstrap_loss(comparison([0] * 50 + [1] * 50, [0] * 100, [0] * 100))
    assert low < 50.0 < high


def test_halves_are_stable_and_disjoint(tmp_path: Path) -> None:
    """Each photo is in exactly one half, whatever else is in the archive."""
    names = [f"{number}.png" for number in range(20)]
    archive = write_tar(tmp_path / "photos.tar", names, labels=dict.fromkeys(names, 7))
    even, odd = (load_labelled(archive, half=half) for half in ("even", "odd"))
    assert len(even.pixels_NCHW) + len(odd.pixels_NCHW) == 20
    assert all(in_half(name, "even") != in_half(name, "odd") for name in names)
    assert len(load_labelled(archive, limit=3).pixels_NCHW) == 3


def test_labels_are_needed(tmp_path: Path) -> None:
    """An archive without labels.csv is an InputError."""
    with pytest.raises(InputError, match=r"labels\.csv"):
        load_labelled(write_tar(tmp_path / "photos.tar", ["a.png"]))


def test_compare_runs_the_codec(tmp_path: Path) -> None:
    """One row for each photo; bytes do not depend on how many layers arrive, answers do."""
    torch.manual_seed(0)
    archive = write_tar(tmp_path / "photos.tar", ["a.png", "b.png"], labels={"a.png": 1, "b.png": 2})
    photos = load_labelled(archive)
    backbone = load_backbone(LITE0, pretrained=False)
    codec = FeatureCodec(CodecConfig(backbones=(LITE0,), initial_gains=(8.0, 16.0, 32.0))).eval()
    reference = reference_logits(backbone, photos)
    whole, part = (compare(codec, backbone, photos, reference, point=1, layers=n) for n in (8, 1))
    assert len(whole.kl) == 2
    np.testing.assert_array_equal(whole.payload_bytes, part.payload_bytes)
    assert not np.array_equal(whole.kl, part.kl)
