"""The cache of features: what does not read is computed again, never a reason to stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.feature_cache import FeatureCache


def test_a_file_that_was_cut_short_is_none(tmp_path: Path) -> None:
    """Whole it starts like a zip file, its table of contents is gone."""
    place = tmp_path / "x.npz"
    np.savez(place, pooled=np.ones((100, 10)), labels=np.ones(3), pictures=np.ones(3))
    place.write_bytes(place.read_bytes()[:500])
    assert FeatureCache(tmp_path).load(place, "x") is None
