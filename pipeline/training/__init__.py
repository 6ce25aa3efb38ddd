"""Training, label-free: photos in, a bundle out. `python -m pipeline.training` trains, `….package_default` packs.

`Trainer` (loop) runs a `Recipe` (recipes) on a `PhotoStore` (data); `evaluate` compares with the unmodified backbone.
"""

from __future__ import annotations

from pipeline.training.checkpoints import load_codec
from pipeline.training.data import CropSampler, PhotoSource, PhotoStore, build_photo_store
from pipeline.training.loop import Trainer
from pipeline.training.recipes import Phase, Recipe

__all__ = [
    "CropSampler",
    "Phase",
    "PhotoSource",
    "PhotoStore",
    "Recipe",
    "Trainer",
    "build_photo_store",
    "load_codec",
]
