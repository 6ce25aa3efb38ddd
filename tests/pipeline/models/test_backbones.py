"""Cut backbones: the parts together are the unmodified model, bit for bit."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.errors import ConfigError  # noqa: E402
from pipeline.models.backbones import CutBackbone, load_backbone  # noqa: E402

# Tag, image side, the cut feature's channels at 1/8 and 1/16. Small members of each family; random weights suffice for
# bit-exactness.
CUTS = [
    ("tf_efficientnet_lite0", 224, (40, 80)),
    ("tf_efficientnet_lite1", 64, (40, 80)),
    ("tf_efficientnet_lite2", 64, (48, 88)),
    ("resnet18", 64, (128, 256)),
    ("convnext_atto", 64, (80, 160)),
    ("swin_tiny_patch4_window7_224", 224, (192, 384)),  # fixed to its size, so the slowest here
]


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize(("tag", "side", "channels"), CUTS)
def test_parts_are_the_model(tag: str, side: int, channels: tuple[int, int], stride: int) -> None:
    """Head part, tail and classifier give the full model's logits exactly; the cut is where it was asked for, channels
    first.
    """
    torch.manual_seed(0)
    backbone = load_backbone(tag, stride=stride, pretrained=False)
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        feature = backbone.head_part(image)
        pooled = backbone.tail(feature)
        expected = backbone.model((image - backbone.mean) / backbone.std)
        assert feature.shape == (1, channels[stride == 16], side // stride, side // stride)
        assert pooled.shape == (1, backbone.pooled_features)
        assert torch.equal(backbone.classifier(pooled), expected)


def test_stays_frozen_and_in_eval_mode() -> None:
    """train() neither starts dropout nor lets BatchNorm statistics move, and nothing wants a gradient."""
    backbone = load_backbone("tf_efficientnet_lite0", pretrained=False)
    before = backbone.weights_hash()
    backbone.train()
    feature = backbone.head_part(torch.rand(2, 3, 64, 64)).requires_grad_()
    backbone.tail(feature).sum().backward()
    assert not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert feature.grad is not None
    assert feature.grad.abs().sum() > 0
    assert backbone.weights_hash() == before


def test_lite_normalisation() -> None:
    """EfficientNet-Lite wants mean = std = 0.5; ImageNet's values cost 6 to 10 points."""
    spec = load_backbone("tf_efficientnet_lite0", pretrained=False).image_spec
    assert (spec.mean, spec.std, spec.side, spec.interpolation) == ((0.5,) * 3, (0.5,) * 3, 224, "bicubic")


def test_unknown_tag() -> None:
    """A tag that timm does not know is refused."""
    with pytest.raises(ConfigError, match="no_such_net"):
        load_backbone("no_such_net")


def test_unknown_stride() -> None:
    """A resolution without a cut is refused with those that there are."""
    with pytest.raises(ConfigError, match="cannot be cut at 1/32 of the resolution, expected one of 1/8, 1/16"):
        load_backbone("resnet18", stride=32, pretrained=False)


def test_unknown_family() -> None:
    """A model of another family is refused with the families that there are."""
    with pytest.raises(ConfigError, match="EfficientNet"):
        CutBackbone(torch.nn.Linear(1, 1), tag="linear")
