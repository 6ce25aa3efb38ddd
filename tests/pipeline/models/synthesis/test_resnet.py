"""The ResNet blueprint: both kinds of block, features that are never negative, and that it learns."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.models.synthesis.resnet import ResNetBlock, ResNetSynthesis  # noqa: E402
from tests.pipeline.models.synthesis.learning import loss_ratio  # noqa: E402


@pytest.mark.parametrize("bottleneck", [False, True])
def test_learns(bottleneck: bool) -> None:
    """The loss falls at least five-fold within 200 steps."""
    torch.manual_seed(0)
    synthesis = ResNetSynthesis(64, latent_channels=48, width=32, blocks=2, bottleneck=bottleneck)
    assert loss_ratio(synthesis, 64, rectified=True, steps=200) >= 5


def test_feature_is_never_negative() -> None:
    """A rectified feature is cut off at zero, in the feature's own units; an unrectified one is not."""
    latent = torch.randn(2, 48, 6, 5, generator=torch.Generator().manual_seed(0))
    for rectified in (True, False):
        torch.manual_seed(0)
        synthesis = ResNetSynthesis(16, latent_channels=48, width=8, blocks=2, bottleneck=True, rectified=rectified)
        synthesis.set_target_statistics(torch.full((16,), 0.3), torch.full((16,), 0.5))
        feature = synthesis(latent)
        assert feature.shape == (2, 16, 6, 5)
        assert (float(feature.detach().min()) >= -1e-6) == rectified
        assert float(feature.detach().max()) > 0.3


@pytest.mark.parametrize("bottleneck", [False, True])
def test_block_is_timms(bottleneck: bool) -> None:
    """With timm's weights, a block computes what timm's block computes."""
    from pipeline.models.torchvision_guard import ensure_torchvision

    ensure_torchvision()
    from timm.models.resnet import BasicBlock, Bottleneck

    torch.manual_seed(0)
    theirs = (Bottleneck(32, 8) if bottleneck else BasicBlock(32, 32)).eval()
    ours = ResNetBlock(32, 32, bottleneck=bottleneck, activation=torch.nn.ReLU()).eval()
    parts = ["conv1", "bn1", "conv2", "bn2", *(["conv3", "bn3"] if bottleneck else [])]
    mine = [layer for layer in ours.layers if not isinstance(layer, torch.nn.ReLU)]
    for name, layer in zip(parts, mine, strict=True):
        layer.load_state_dict(getattr(theirs, name).state_dict())
    x = torch.rand(2, 32, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))
