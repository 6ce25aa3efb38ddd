"""Cut points against timm's own account of its features: name of the module, channels, reduction, values."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.models.backbones import load_backbone  # noqa: E402
from pipeline.models.macs import shape_only_backbone  # noqa: E402

# Tag, the module that the cut at 1/8 follows, channels of its feature.
CUT_POINTS = [
    ("resnet18", "layer2", 128),
    ("resnet50", "layer2", 512),
    ("resnet101", "layer2", 512),
    ("resnet152", "layer2", 512),
    ("convnext_atto", "stages.1", 80),
    ("convnext_tiny", "stages.1", 192),
    ("convnext_base", "stages.1", 256),
    ("swin_tiny_patch4_window7_224", "layers.1", 192),
    ("swin_base_patch4_window7_224", "layers.1", 256),
    ("swin_s3_tiny_224", "layers.1", 192),
    ("swin_s3_base_224", "layers.1", 192),
    ("mobilenetv2_100", "blocks.2", 32),
    ("tf_efficientnet_lite0", "blocks.2", 40),
    ("tf_efficientnet_lite1", "blocks.2", 40),
    ("tf_efficientnet_lite2", "blocks.2", 48),
]

# The same at 1/16, where the cut lies within the module: behind its first block.
DEEPER = [
    ("resnet18", "layer3", 256),
    ("resnet50", "layer3", 1024),
    ("resnet101", "layer3", 1024),
    ("resnet152", "layer3", 1024),
    ("convnext_atto", "stages.2", 160),
    ("convnext_tiny", "stages.2", 384),
    ("convnext_base", "stages.2", 512),
    ("swin_tiny_patch4_window7_224", "layers.2", 384),
    ("swin_base_patch4_window7_224", "layers.2", 512),
    ("swin_s3_tiny_224", "layers.2", 384),
    ("swin_s3_base_224", "layers.2", 384),
]
# timm names the end of blocks.4 instead, which has more channels than blocks.3.
EFFICIENTNETS = [
    ("mobilenetv2_100", 64),
    ("tf_efficientnet_lite0", 80),
    ("tf_efficientnet_lite1", 80),
    ("tf_efficientnet_lite2", 88),
]


def timm_feature(model: Any, module: str, image: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor]:
    """What timm says about the feature after ``module``, and the feature itself [B, C, H, W]."""
    infos = [info for info in model.feature_info if info["module"] == module]
    assert len(infos) == 1, f"timm has no feature {module}"
    features = model.forward_intermediates(image, intermediates_only=True)
    return infos[0], [f for f in features if f.shape[2] * infos[0]["reduction"] == image.shape[2]][-1]


@pytest.mark.parametrize(
    ("stride", "tag", "module", "channels"), [(8, *cut) for cut in CUT_POINTS] + [(16, *cut) for cut in DEEPER]
)
def test_cut_is_timms_feature(stride: int, tag: str, module: str, channels: int) -> None:
    """The head part's output is as large as timm's feature of that name at this part of 224 pixels; the tail accepts
    it.
    """
    backbone = shape_only_backbone(tag, stride=stride)
    image = torch.empty(2, 3, 224, 224, device="meta")
    with torch.no_grad():
        info, expected = timm_feature(backbone.model, module, image)
        feature = backbone.head_part(image)
        pooled = backbone.tail(feature)
    assert (info["num_chs"], info["reduction"]) == (channels, stride)
    assert feature.shape == expected.shape == (2, channels, 224 // stride, 224 // stride)
    assert pooled.shape == (2, backbone.pooled_features)


@pytest.mark.parametrize(("tag", "channels"), EFFICIENTNETS)
def test_deeper_cut_of_efficientnets(tag: str, channels: int) -> None:
    """Behind the first block of blocks.3, before a second one that keeps its shape."""
    backbone = shape_only_backbone(tag, stride=16)
    with torch.no_grad():
        feature = backbone.head_part(torch.empty(2, 3, 224, 224, device="meta"))
    assert feature.shape == (2, channels, 14, 14)
    assert backbone.head_modules[-1] is backbone.model.blocks[3][0]
    assert backbone.tail_modules[0] is backbone.model.blocks[3][1]


@pytest.mark.parametrize(
    ("tag", "module", "side"),
    [
        ("resnet18", "layer2", 64),
        ("convnext_atto", "stages.1", 64),
        ("swin_tiny_patch4_window7_224", "layers.1", 224),
        ("mobilenetv2_100", "blocks.2", 64),
        ("tf_efficientnet_lite0", "blocks.2", 64),
    ],
)
def test_cut_has_timms_values(tag: str, module: str, side: int) -> None:
    """One member of each family with real arithmetic: the cut feature is timm's, value by value."""
    torch.manual_seed(0)
    backbone = load_backbone(tag, stride=8, pretrained=False)
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        _, expected = timm_feature(backbone.model, module, (image - backbone.mean) / backbone.std)
        torch.testing.assert_close(backbone.head_part(image), expected)
