"""Saliency maps: those of the ``grad-cam`` package on the same models, and what they are where there is nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.errors import ConfigError  # noqa: E402
from pipeline.models.backbones import CutBackbone, load_backbone  # noqa: E402
from pipeline.models.torchvision_guard import ensure_torchvision  # noqa: E402
from pipeline.models.weights import find_package_file  # noqa: E402
from pipeline.training import saliency  # noqa: E402

LITE0 = "tf_efficientnet_lite0"
# Tag and image side: small members of each family, with both forms of ConvNeXt's LayerNorm (over the first and the
# last axis). Swin is fixed to its size.
BACKBONES = [
    (LITE0, 96),
    ("resnet18", 96),
    ("convnext_atto", 96),
    ("convnext_tiny", 64),
    ("swin_tiny_patch4_window7_224", 224),
]


def backbone_of(tag: str) -> CutBackbone:
    torch.manual_seed(0)
    backbone = load_backbone(tag, stride=8, pretrained=tag == LITE0 and find_package_file(LITE0) is not None)
    for name, parameter in backbone.named_parameters():
        if name.endswith(".gamma"):
            # An untrained ConvNeXt's layer scale of 1e-6 makes gradients so small that only grad-cam's epsilon is left.
            parameter.fill_(1.0)
    return backbone


def images(count: int, side: int) -> torch.Tensor:
    """Smooth blobs: even a net with random weights finds more in some places than in others."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def reference_maps(backbone: CutBackbone, image: torch.Tensor, classes: list[int]) -> np.ndarray:
    """grad-cam's XGradCAM with eigen smoothing on our layers and grid, each layer's sign made that of its plain sum."""
    ensure_torchvision()
    package = pytest.importorskip("pytorch_grad_cam", reason="the reference needs the package grad-cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layers = saliency.saliency_layers(backbone)
    grid = (image.shape[3] // 8, image.shape[2] // 8)

    class Reference(package.XGradCAM):  # type: ignore[misc, name-defined]
        def get_cam_image(self, *arguments: Any, **keywords: Any) -> np.ndarray:
            *arguments, _smooth = arguments
            plain = super().get_cam_image(*arguments, False)
            smooth = super().get_cam_image(*arguments, True)
            axes = (1, 2)
            follows = ((plain - plain.mean(axis=axes, keepdims=True)) * smooth).sum(axis=axes, keepdims=True)
            return np.where(follows < 0, -smooth, smooth)

        def get_target_width_height(self, _image: torch.Tensor) -> tuple[int, int]:
            return grid

    def reshape(output: torch.Tensor) -> torch.Tensor:
        """Tokens or channels-last maps to channels first; told apart without our own code."""
        return output.permute(0, 3, 1, 2) if output.shape[1] == output.shape[2] != output.shape[3] else output

    with Reference(backbone, layers, reshape_transform=reshape) as cam:
        cam.compute_input_gradient = True  # the parameters are frozen
        result: np.ndarray = cam(image, [ClassifierOutputTarget(k) for k in classes], eigen_smooth=True)
    return result


@pytest.mark.parametrize(("tag", "side"), BACKBONES)
def test_maps_are_grad_cams(tag: str, side: int) -> None:
    """A batch of crops at once gives, for each crop and its class, the package's map (correlation of at least 0.99)."""
    backbone = backbone_of(tag)
    image, classes = images(2, side), [3, 700]
    expected = reference_maps(backbone, image, classes)
    actual = saliency.saliency_maps(backbone, image, torch.tensor(classes))
    assert actual.shape == (2, 1, side // 8, side // 8)
    for ours, theirs in zip(actual.numpy(), expected, strict=True):
        assert theirs.std() > 0.01
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] >= 0.99


def test_first_choice_is_explained_without_labels() -> None:
    """Without classes, each crop's own most likely class is explained."""
    backbone = backbone_of("resnet18")
    image = images(3, 64)
    with torch.no_grad():
        classes = backbone(image).argmax(dim=1)
    expected = saliency.saliency_maps(backbone, image, classes)
    assert torch.equal(saliency.saliency_maps(backbone, image), expected)


def test_map_belongs_to_the_crop() -> None:
    """A crop's map does not depend on the others in the batch, and fills [0, 1]."""
    backbone = backbone_of(LITE0)
    image, classes = images(3, 96), torch.tensor([1, 2, 3])
    together = saliency.saliency_maps(backbone, image, classes)
    alone = saliency.saliency_maps(backbone, image[1:2], classes[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-3, rtol=0)
    assert together.amin(dim=(1, 2, 3)).tolist() == pytest.approx([0.0] * 3)
    assert together.amax(dim=(1, 2, 3)).tolist() == pytest.approx([1.0] * 3)


def test_backbone_stays_as_it_was() -> None:
    """Under no_grad too maps are found; the image, the parameters and the modules keep no trace of it."""
    backbone = backbone_of("convnext_atto")
    image, before = images(1, 64), backbone.weights_hash()
    with torch.no_grad():
        made = saliency.saliency_maps(backbone, image)
    assert not made.requires_grad
    assert not image.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())
    assert not any(module._forward_hooks for module in backbone.modules())
    assert backbone.weights_hash() == before


def test_nothing_salient_is_neutral() -> None:
    """A classifier that ignores its input gives no gradient anywhere: 0.5 everywhere, not NaN."""
    backbone = backbone_of("resnet18")
    torch.nn.init.zeros_(backbone.classifier.weight)
    assert saliency.saliency_maps(backbone, images(2, 64)).unique().tolist() == [0.5]


def test_smoothing_follows_the_plain_sum() -> None:
    """An object that stands out in one corner stays on top, for either shape of the matrix (few or many channels)."""
    for channels in (4, 64):
        weighted = 0.01 * torch.rand(1, channels, 5, 5, generator=torch.Generator().manual_seed(0))
        weighted[:, :, 0, 0] += 1e-8 + torch.linspace(0.5, 1.0, channels)
        for sign in (1.0, -1.0):
            smooth = saliency._eigen_smoothed(sign * weighted)[0]
            assert int((sign * smooth).argmax()) == 0
            assert (sign * smooth)[0, 0] > 0 > (sign * smooth)[4, 4]


def test_tiny_weights_are_not_lost() -> None:
    """The map of weights of a millionth of a millionth is that of ordinary ones."""
    weighted = torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = saliency._eigen_smoothed(weighted)
    torch.testing.assert_close(saliency._eigen_smoothed(1e-12 * weighted), expected, atol=1e-4, rtol=1e-3)


def test_unknown_family() -> None:
    """A backbone whose layers we do not know is refused."""
    backbone = backbone_of("resnet18")
    backbone.model = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="Linear: known families are ConvNeXt, EfficientNet"):
        saliency.saliency_layers(backbone)
