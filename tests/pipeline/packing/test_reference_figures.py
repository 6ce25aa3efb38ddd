"""Reference distributions: deciles of what was measured, and a manifest that old and new versions read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from pipeline.bundle import Bundle, add_reference
from pipeline.errors import BundleError
from pipeline.packing.reference_figures import distribution, reference_figures, top_scores
from pipeline.runtime.engine import NullEngine
from tests.bundles import backbone, random_bundle


def test_ten_bins_of_the_same_share() -> None:
    found = distribution(np.arange(1000))
    assert len(found.edges) == 9
    assert found.shares == [0.1] * 10


def test_values_that_are_equal_share_a_bin() -> None:
    """Scores that saturate at 1 would give edges twice."""
    found = distribution([0.5] * 10 + [1.0] * 90)
    assert (len(found.edges), found.edges[-1]) == (2, 1.0)
    assert sum(found.shares) == pytest.approx(1.0)


def test_top_scores_are_softmax() -> None:
    pooled, weight = np.eye(2, dtype=np.float32), np.log(np.array([[3.0, 1.0], [1.0, 1.0]], np.float32))
    assert top_scores(pooled, weight, np.zeros(2, np.float32)) == pytest.approx([0.75, 0.5])


def test_a_bundle_gets_its_reference_and_keeps_its_codec_id(tmp_path: Path) -> None:
    """Every operating point and every task; only the bundle id changes."""
    folder = tmp_path / "bundle"
    before = random_bundle(folder, backbones=(backbone("null", alias="", pooled_width=8, default=True),))
    photos = list(np.random.default_rng(0).integers(0, 256, (4, 60, 80, 3), np.uint8))
    figures = reference_figures(before, [NullEngine("null")], photos, name="noise")
    after = add_reference(folder, figures)
    assert (after.codec_id == before.codec_id, after.bundle_id == before.bundle_id) == (True, False)
    reference = Bundle.open(folder).manifest.reference
    assert reference is not None
    assert reference == figures
    assert set(reference.payload_bytes) == {"low", "standard", "high"}
    assert set(reference.confidence["null"]) == {"imagenet1k", "food101", "cifar100", "flowers102"}
    assert before.manifest.reference is None


def test_a_reference_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    random_bundle(folder, backbones=(), tasks=())
    file = folder / "manifest.toml"
    broken = ["[reference]", 'photos = "x"', "count = 1", "[reference.payload_bytes.low]", "edges = [2.0, 1.0]"]
    file.write_text("\n".join([file.read_text(), *broken, "shares = [1.0, 0.0, 0.0]"]))
    with pytest.raises(BundleError, match=r"reference payload_bytes\.low"):
        Bundle.open(folder)
