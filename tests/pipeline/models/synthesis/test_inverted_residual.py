"""The inverted-residual blueprint learns; its geometry is tested with the codec, its weights with the bundle."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.models.synthesis.inverted_residual import InvertedResidualSynthesis  # noqa: E402
from tests.pipeline.models.synthesis.learning import loss_ratio  # noqa: E402


def test_learns() -> None:
    """The loss falls at least five-fold within 100 steps."""
    torch.manual_seed(0)
    assert loss_ratio(InvertedResidualSynthesis(24, latent_channels=48, width=32), 24) >= 5
