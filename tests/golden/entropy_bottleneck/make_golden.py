"""Writes compressai-1.2.8.npz: what CompressAI's EntropyBottleneck computes, for tests/pipeline/models.

Run it in an environment of its own (CompressAI pins numpy < 2):  pip install compressai==1.2.8 "numpy<2"

    python make_golden.py
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import torch

CHANNELS, VALUES = 4, 64


def without_torchvision_operators() -> None:
    """CompressAI imports torchvision, whose PyPI wheel does not load beside a CPU torch (see torchvision_guard)."""
    # By path: the package around it needs more than this environment has.
    guard = runpy.run_path(str(Path(__file__).parents[3] / "pipeline" / "models" / "torchvision_guard.py"))
    guard["ensure_torchvision"]()


def main() -> None:
    """Make a prior with channels that differ, evaluate it, store state, inputs and results."""
    without_torchvision_operators()
    from compressai.entropy_models import EntropyBottleneck

    generator = torch.Generator().manual_seed(7)
    bottleneck = EntropyBottleneck(CHANNELS)
    with torch.no_grad():
        for parameter in bottleneck.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    values = 4 * torch.randn(CHANNELS, 1, VALUES, generator=generator)
    bottleneck.eval()
    state = {f"state/{key}": value.clone().numpy() for key, value in bottleneck.state_dict().items() if value.numel()}
    with torch.no_grad():
        # forward takes [B, C, ...]; rounded about its quantiles' medians in eval mode
        outputs, _ = bottleneck(values.permute(1, 0, 2))
        likelihoods = bottleneck.likelihood_lower_bound(bottleneck._likelihood(values)[0])
    bottleneck.update(force=True, update_quantiles=True)
    np.savez_compressed(
        Path(__file__).parent / "compressai-1.2.8.npz",
        values=values.numpy(),
        outputs=outputs.permute(1, 0, 2).numpy(),
        likelihoods=likelihoods.numpy(),
        medians_bisected=bottleneck.quantiles[:, 0, 1].detach().numpy(),
        **state,
    )


if __name__ == "__main__":
    main()
