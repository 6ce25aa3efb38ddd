"""Which decoder a backbone gets: of its family's kind, of its feature's shape, within the cost that it replaces."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.codec import LatentShape  # noqa: E402
from pipeline.errors import ConfigError  # noqa: E402
from pipeline.models import synthesis  # noqa: E402
from pipeline.models.backbones import cut_stride  # noqa: E402
from pipeline.models.feature_codec import CodecConfig  # noqa: E402
from pipeline.models.macs import HeadPartCost, head_part_cost, shape_only_backbone, synthesis_macs  # noqa: E402

RESNET, CONVNEXT = synthesis.ResNetSynthesis, synthesis.ConvNeXtSynthesis
SWIN, INVERTED = synthesis.SwinSynthesis, synthesis.InvertedResidualSynthesis

# Tag, blueprint, MACs of g_s over MACs of the head part, for each latent. The EfficientNet-Lite decoders are budgeted
# by time, which dense convolutions on the latent grid take less of for each multiplication.
BLUEPRINTS = [
    ("resnet18", RESNET, (0.86, 0.73, 0.74)),
    ("resnet50", RESNET, (1.03, 1.01, 1.02)),
    ("resnet101", RESNET, (1.03, 1.01, 1.02)),
    ("resnet152", RESNET, (0.82, 0.72, 0.73)),
    ("convnext_atto", CONVNEXT, (1.01, 0.98, 1.00)),
    ("convnext_tiny", CONVNEXT, (1.00, 0.96, 0.96)),
    ("convnext_base", CONVNEXT, (0.99, 0.96, 0.96)),
    ("swin_tiny_patch4_window7_224", SWIN, (0.92, 0.60, 0.60)),
    ("swin_base_patch4_window7_224", SWIN, (0.92, 0.60, 0.61)),
    ("swin_s3_tiny_224", SWIN, (0.92, 0.62, 0.62)),
    ("swin_s3_base_224", SWIN, (0.92, 0.62, 0.62)),
    ("mobilenetv2_100", INVERTED, (0.97, 0.89, 0.93)),
    ("tf_efficientnet_lite0", INVERTED, (1.43, 1.28, 1.32)),
    ("tf_efficientnet_lite1", INVERTED, (1.02, 0.94, 0.97)),
    ("tf_efficientnet_lite2", INVERTED, (1.29, 0.99, 1.02)),
]
BUDGETED_BY_TIME = {"tf_efficientnet_lite0", "tf_efficientnet_lite2"}
LATENTS = [LatentShape(48, 8), LatentShape(96, 16), LatentShape(256, 32)]
# Further members, by nothing but their tag: shallow, wide, of another window, of another size.
OTHERS = [
    ("resnet10t", RESNET),
    ("resnet14t", RESNET),
    ("seresnext50_32x4d", RESNET),
    ("convnext_femto", CONVNEXT),
    ("convnextv2_nano", CONVNEXT),
    ("swin_s3_small_224", SWIN),
    ("swin_base_patch4_window12_384", SWIN),
]


def shape_only(tag: str, latent: LatentShape) -> torch.nn.Module:
    with torch.device("meta"):
        made = synthesis.build_synthesis(tag, latent)
    return made.to("meta").eval()


def grid_of(cost: HeadPartCost, latent: LatentShape) -> tuple[int, int]:
    """Height and width of a latent whose decoder gives a feature of the head part's size."""
    factor = latent.stride // cut_stride(latent)
    return cost.height // factor, cost.width // factor


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize(("tag", "blueprint", "ratios"), BLUEPRINTS)
def test_budget_and_shape(tag: str, blueprint: type, ratios: tuple[float, ...], latent: LatentShape) -> None:
    """g_s costs at most 1.05 of the head part's multiplications at 224, and its output has the cut feature's shape."""
    g_s, cost = shape_only(tag, latent), head_part_cost(shape_only_backbone(tag, stride=cut_stride(latent)))
    measured = synthesis_macs(g_s, latent) / cost.macs
    assert type(g_s) is blueprint
    assert measured == pytest.approx(ratios[LATENTS.index(latent)], abs=0.01)
    assert measured <= 1.05 or tag in BUDGETED_BY_TIME
    with torch.no_grad():
        feature = g_s(torch.empty(2, latent.channels, *grid_of(cost, latent), device="meta"))
    assert feature.shape == (2, cost.channels, cost.height, cost.width)


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize(("tag", "blueprint"), OTHERS)
def test_any_member(tag: str, blueprint: type, latent: LatentShape) -> None:
    """Members that nobody listed get a decoder within the budget too."""
    g_s, cost = shape_only(tag, latent), head_part_cost(shape_only_backbone(tag, stride=cut_stride(latent)))
    assert type(g_s) is blueprint
    assert synthesis_macs(g_s, latent, side=cost.side) <= 1.05 * cost.macs
    with torch.no_grad():
        feature = g_s(torch.empty(1, latent.channels, *grid_of(cost, latent), device="meta"))
    assert feature.shape == (1, cost.channels, cost.height, cost.width)


def test_pretrained_tags_share_their_architectures_decoder() -> None:
    """The part of a tag after the dot names weights, not shapes."""
    names = [
        [(k, v.shape) for k, v in shape_only(tag, LATENTS[0]).state_dict().items()]
        for tag in ("resnet50", "resnet50.a1_in1k", "resnet50.tv_in1k")
    ]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("tag", ["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "mobilenetv2_100"])
def test_every_parameter_learns(tag: str, latent: LatentShape) -> None:
    """As training runs it (bfloat16 autocast, channels-last), every parameter gets a finite gradient."""
    torch.manual_seed(0)
    g_s = synthesis.build_synthesis(tag, latent).to(memory_format=torch.channels_last)
    latent_BCHW = torch.randn(2, latent.channels, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        feature = g_s.normalised(latent_BCHW)
    (feature.float() - torch.randn(feature.shape)).square().mean().backward()
    without = [
        n for n, p in g_s.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]
    assert without == []


@pytest.mark.parametrize(
    ("tag", "out_channels", "width"), [("tf_efficientnet_lite0", 80, 160), ("tf_efficientnet_lite2", 88, 176)]
)
def test_default_decoders_stay_what_they_are(tag: str, out_channels: int, width: int) -> None:
    """Decoders of bundles with 96 channels at 1/16: same names, same shapes, same first weights from the same seed."""
    torch.manual_seed(7)
    actual = synthesis.build_synthesis(tag, LATENTS[1]).state_dict()
    torch.manual_seed(7)
    expected = INVERTED(out_channels, latent_channels=96, width=width).state_dict()
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    shapes = {name: tuple(value.shape) for name, value in actual.items()}
    assert shapes["target_mean"] == (1, out_channels, 1, 1)
    assert shapes["restore.conv1.weight"] == (width, 96, 3, 3)
    assert shapes["blocks.1.layers.0.weight"] == (4 * width, width, 1, 1)
    assert shapes["project.weight"] == (out_channels, width, 1, 1)


def test_unknown_family_and_tag() -> None:
    """One line says which families there are, or that timm knows no such model."""
    with pytest.raises(ConfigError, match=r"no decoder blueprint for 'vgg16'.*ConvNeXt, EfficientNet, ResNet, Swin"):
        synthesis.build_synthesis("vgg16", LATENTS[0])
    with pytest.raises(ConfigError, match="timm knows no model 'no_such_net'"):
        synthesis.build_synthesis("no_such_net", LATENTS[0])


def test_budget_that_nothing_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head part so light that no width fits is refused in one line, with both figures."""
    tight = synthesis.Blueprint(synthesis.BLUEPRINTS["ResNet"].design, width_step=16, macs_ratio_max=0.1)
    monkeypatch.setitem(synthesis.BLUEPRINTS, "ResNet", tight)
    with pytest.raises(ConfigError, match=r"resnet26 costs at most \d+ million multiplications, 0.1 of its head part"):
        synthesis.build_synthesis("resnet26", LATENTS[0])


@pytest.mark.parametrize(("latent", "blocks"), [(LATENTS[0], 2), (LATENTS[2], 4)])
def test_deep_decoder(latent: LatentShape, blocks: int) -> None:
    """Twice the blocks on coarse grids, as wide as before; its weights say how many it has."""
    tag = "tf_efficientnet_lite2"
    analysis = {LATENTS[0]: "conv_stem", LATENTS[2]: "inverted_residual"}[latent]
    with torch.device("meta"):
        usual, deep = synthesis.build_synthesis(tag, latent), CodecConfig(analysis=analysis).build_synthesis(tag)
    assert synthesis.blocks_in(usual.state_dict()) == 2
    assert synthesis.blocks_in(deep.state_dict()) == blocks
    assert deep.project.in_channels == usual.project.in_channels
