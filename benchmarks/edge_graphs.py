"""Encoders for benchmarks.edge that the bundle does not carry: exact in shape and operations, with random weights.

    python -m benchmarks.edge_graphs OUT FRAMES.npy

Speed depends on neither weights nor training. Writes OUT/<analysis>-<precision>.onnx for every analysis, and the shapes
of their latents; FRAMES.npy (N, 3, S, S) float32 in [0, 1] calibrates int8. Needs torch, so it is a process of its own
and the measured one stays light. torch code is loaded by name, since all else here belongs to the light zone.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

LATENTS = "latents.json"
ANALYSES = ("stem", "conv_stem", "inverted_residual", "frankensplit")


def main(arguments: list[str]) -> int:
    """Export all."""
    out, frames = Path(arguments[0]), np.load(arguments[1])
    torch: Any = importlib.import_module("torch")
    analysis: Any = importlib.import_module("pipeline.models.analysis")
    export: Any = importlib.import_module("pipeline.models.export")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    shapes = {name: analysis.latent_shape(name) for name in ANALYSES}
    latents = {name: {**shape._asdict(), "layers": [shape.channels]} for name, shape in shapes.items()}
    (out / LATENTS).write_text(json.dumps(latents))
    for name in ANALYSES:
        module = analysis.build_analysis(name).eval()
        export.export_analysis(module, out / f"{name}-fp32.onnx", side=frames.shape[-1])
        export.quantise_analysis(
            out / f"{name}-fp32.onnx", out / f"{name}-int8.onnx", (frame[None] for frame in frames)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
