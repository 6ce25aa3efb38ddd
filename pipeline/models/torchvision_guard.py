"""Makes ``import torchvision`` work where its compiled operators do not load.

The PyPI wheel of torchvision is a CUDA build. Beside a CPU-only torch its ``_C`` library cannot be loaded, and the
Python part then stops with ``RuntimeError: operator torchvision::nms does not exist`` (pytorch/vision #9077, #9085);
timm, which needs torchvision's transforms, stops with it. Only the *schemas* of two operators are missing at import
time, so defining them is enough; ``torchvision.ops.nms`` itself stays unusable.
"""

from __future__ import annotations

import importlib
import sys

import torch

# A torch.library.Library takes its definitions back when it is collected, so it lives as long as the process.
_schemas: list[torch.library.Library] = []


def ensure_torchvision() -> None:
    """Import torchvision; define the schemas of ``nms`` and ``qnms`` first, but only if that import fails for want of
    them.

    Call it before importing timm. Where torchvision's operators load (CUDA torch) nothing is defined: a second
    definition would be an error. An absent torchvision raises ImportError as usual; any other RuntimeError passes
    through.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _schemas.append(_define_schemas())
        importlib.import_module("torchvision")


def _define_schemas() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
