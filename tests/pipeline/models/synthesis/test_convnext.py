"""The ConvNeXt blueprint: timm's block, any size, and that it learns."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.models.synthesis.convnext import ConvNeXtBlock, ConvNeXtSynthesis  # noqa: E402
from tests.pipeline.models.synthesis.learning import loss_ratio  # noqa: E402


def test_learns() -> None:
    """The loss falls at least five-fold within 100 steps."""
    torch.manual_seed(0)
    assert loss_ratio(ConvNeXtSynthesis(24, latent_channels=48, width=24, blocks=2), 24) >= 5


@pytest.mark.parametrize("width", [16, 24])
def test_geometry(width: int) -> None:
    """Height and width are the latent's, whatever they are; a narrower restoration is projected to the target."""
    synthesis = ConvNeXtSynthesis(24, latent_channels=48, width=width, blocks=1)
    assert synthesis(torch.rand(2, 48, 5, 9)).shape == (2, 24, 5, 9)


def test_block_is_timms() -> None:
    """With timm's weights, a block computes what timm's block computes."""
    from pipeline.models.torchvision_guard import ensure_torchvision

    ensure_torchvision()
    from timm.models.convnext import ConvNeXtBlock as TimmBlock

    torch.manual_seed(0)
    theirs, ours = TimmBlock(16, ls_init_value=0.3).eval(), ConvNeXtBlock(16).eval()
    names = {"depthwise": "conv_dw", "norm": "norm", "expand": "mlp.fc1", "reduce": "mlp.fc2"}
    for mine, timms in names.items():
        getattr(ours, mine).load_state_dict(theirs.get_submodule(timms).state_dict())
    with torch.no_grad():
        ours.scale_C.copy_(theirs.gamma)
        x = torch.rand(2, 16, 9, 8)
        torch.testing.assert_close(ours(x), theirs(x))
