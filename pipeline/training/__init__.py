"""Training, label-free: photos in, a bundle out. `frankenstream train` is the way in (codec, decoder, backbone).

A `Trainer` (loop) runs a `Recipe` (recipes) on a `PhotoStore` (data). It begins with what `start` finds or computes
(closed_form); what its phases compare is in objectives, what the frozen backbones say in teacher, kept with their crops
by pool. `pipeline.packing` makes a bundle of a checkpoint.
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
