"""Features of unmodified backbones on disk.

They depend on no codec, so heads for a bundle that is trained again need not wait for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline.datasets import Item
from tasks.through_codec import FeatureSet, View


class FeatureCache:
    """One .npz for each backbone (by its weights), data set (by the names of its pictures) and choice of views."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def place(self, backbone: str, weights_sha256: str, items: Sequence[Item], views: Sequence[View]) -> Path:
        """Where these features lie or would lie."""
        made_of = [backbone, weights_sha256, [(i.name, i.label) for i in items], [asdict(view) for view in views]]
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
        return self._folder / f"{backbone}-{key}.npz"

    def load(self, place: Path, backbone: str) -> FeatureSet | None:
        """The features at `place`, or None: not there, or not readable, which is no reason to stop."""
        try:
            with np.load(place, allow_pickle=False) as arrays:
                pooled, labels, pictures = (arrays[name] for name in ("pooled", "labels", "pictures"))
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        return FeatureSet(backbone, pooled, labels, pictures, np.zeros(len(labels), np.int64))

    def save(self, place: Path, features: FeatureSet) -> None:
        """Write in one step, so that a stopped run leaves nothing half written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f".{os.getpid()}-{place.name}")
        np.savez(fresh, pooled=features.pooled_MD, labels=features.labels_M, pictures=features.pictures_M)
        fresh.replace(place)
