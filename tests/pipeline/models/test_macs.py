"""Counted multiplications against those counted by hand."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.codec import LatentShape  # noqa: E402
from pipeline.models.analysis import ANALYSES, build_analysis  # noqa: E402
from pipeline.models.macs import count_macs, head_part_cost, shape_only_backbone, synthesis_macs  # noqa: E402


def test_convolutions_and_linear_layers() -> None:
    """Strides, groups and the batch count; normalisation and activations do not."""
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 5 * 5, 10),
    )
    expected = 2 * (16 * 5 * 5 * (8 // 4) * 9 + 16 * 5 * 5 * 10)
    assert count_macs(layers.to("meta"), torch.empty(2, 8, 10, 10, device="meta")) == expected


def test_encoders_cost_what_is_stated() -> None:
    """The encoders' figures at 224 x 224, which the documentation gives."""
    image = torch.empty(1, 3, 224, 224, device="meta")
    costs = {name: count_macs(build_analysis(name).to("meta"), image) for name in ANALYSES}
    expected = {"stem": 0.105e9, "conv_stem": 0.159e9, "inverted_residual": 0.139e9, "frankensplit": 0.53e9}
    assert costs == {name: pytest.approx(macs, rel=0.01) for name, macs in expected.items()}


def test_attention_is_counted() -> None:
    """Swin-T's head part: patch embedding, two blocks, patch merging, two blocks, with the products of attention."""

    def block(tokens: int, channels: int) -> int:
        return tokens * (12 * channels**2 + 2 * 49 * channels)

    expected = 56**2 * 48 * 96 + 2 * block(56**2, 96) + 28**2 * 384 * 192 + 2 * block(28**2, 192)
    cost = head_part_cost(shape_only_backbone("swin_tiny_patch4_window7_224", stride=8))
    assert (cost.side, cost.macs, cost.channels, cost.height, cost.width) == (224, expected, 192, 28, 28)


def test_models_of_one_size_are_counted_at_it() -> None:
    """A Swin for 384 pixels takes no 224, so its own size is counted; others are counted at 224 whatever their size."""
    swin, lite2 = (
        head_part_cost(shape_only_backbone(tag, stride=8))
        for tag in ("swin_base_patch4_window12_384", "tf_efficientnet_lite2")
    )
    assert (swin.side, swin.height, lite2.side, lite2.height) == (384, 48, 224, 28)


def test_synthesis_is_counted_on_the_latent_grid() -> None:
    """A g_s of one 1x1 convolution multiplies once for each weight and place."""
    project, latent = torch.nn.Conv2d(48, 40, 1).to("meta"), LatentShape(48, 8)
    assert synthesis_macs(project, latent) == 28 * 28 * 48 * 40
    assert synthesis_macs(project, latent, side=64) == 8 * 8 * 48 * 40


def test_shape_only_backbone_draws_no_random_numbers() -> None:
    """Asking for shapes leaves the random state of a training run alone."""
    before = torch.get_rng_state()
    head_part_cost(shape_only_backbone("resnet18"))
    assert torch.equal(torch.get_rng_state(), before)
