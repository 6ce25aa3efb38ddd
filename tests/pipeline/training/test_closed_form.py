"""A codec that begins in closed form sees what the classifier sees, and restores it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.errors import ConfigError  # noqa: E402
from pipeline.models.analysis import BAND_CHANNELS, InvertedResidualAnalysis  # noqa: E402
from pipeline.models.backbones import CutBackbone, load_backbone  # noqa: E402
from pipeline.models.feature_codec import CodecConfig, FeatureCodec  # noqa: E402
from pipeline.models.synthesis import begins_linear, build_synthesis  # noqa: E402
from pipeline.training.closed_form import (  # noqa: E402
    Sensitivity,
    begin_points,
    begin_prior,
    begin_transform,
    copy_trunk,
    least_squares,
    places,
    restore_linearly,
    sensitivity,
)


@pytest.fixture(scope="module")
def lite0() -> CutBackbone:
    torch.manual_seed(0)
    backbone = load_backbone("tf_efficientnet_lite0", pretrained=False)
    for module in backbone.modules():  # random weights leave BatchNorm trivial; make folding matter
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
            module.bias.normal_(0, 0.1)
    return backbone


@pytest.fixture(scope="module")
def crops() -> list[torch.Tensor]:
    """Smooth pictures: neighbouring pixels are alike, as in photos."""
    torch.manual_seed(1)
    return [torch.nn.functional.interpolate(torch.rand(8, 3, 12, 12), 96, mode="bicubic").clamp(0, 1) for _ in range(4)]


def begun(lite0: CutBackbone, crops: list[torch.Tensor]) -> InvertedResidualAnalysis:
    """An encoder in closed form for a metric that knows no direction: as many random gradients."""
    analysis = InvertedResidualAnalysis()
    copy_trunk(analysis, lite0)
    with torch.no_grad():
        feature = torch.cat([analysis.shallow(crop) for crop in crops])
    begin_transform(analysis, crops, [Sensitivity(feature, torch.randn(64, *feature.shape[1:]))])
    return analysis


@pytest.mark.parametrize(("height", "width"), [(224, 224), (64, 96)])
def test_trunk_is_the_head_part(lite0: CutBackbone, height: int, width: int) -> None:
    """The same feature up to rounding, borders and TensorFlow's padding included."""
    analysis = InvertedResidualAnalysis()
    copy_trunk(analysis, lite0)
    image = torch.rand(2, 3, height, width)
    with torch.no_grad():
        torch.testing.assert_close(analysis.shallow(image), lite0.head_part(image), rtol=1e-3, atol=1e-4)


def test_the_backbone_stays(lite0: CutBackbone) -> None:
    """It is copied from, not shared."""
    before = lite0.weights_hash()
    analysis = InvertedResidualAnalysis()
    copy_trunk(analysis, lite0)
    with torch.no_grad():
        for parameter in analysis.parameters():
            parameter.zero_()
    assert lite0.weights_hash() == before


@pytest.mark.parametrize(
    ("tag", "words"), [("tf_efficientnet_lite1", "does not fit"), ("mobilenetv2_100", "mean and deviation")]
)
def test_other_backbones_are_refused(tag: str, words: str) -> None:
    """Those with other layers, and those that want other pixels; nothing is copied then."""
    analysis = InvertedResidualAnalysis()
    before = [parameter.clone() for parameter in analysis.parameters()]
    with pytest.raises(ConfigError, match=words):
        copy_trunk(analysis, load_backbone(tag, pretrained=False))
    assert all(map(torch.equal, before, analysis.parameters()))


def test_no_backbone_is_refused() -> None:
    """A run that has not loaded it says so."""
    with pytest.raises(ConfigError, match="no such backbone is loaded"):
        copy_trunk(InvertedResidualAnalysis(), None)


def test_bands_are_uncorrelated_and_in_order(lite0: CutBackbone, crops: list[torch.Tensor]) -> None:
    """What is sent: within a band no channel tells of another, and over all bands the strongest come first."""
    analysis = begun(lite0, crops)
    with torch.no_grad():
        latent = torch.cat([analysis(crop) for crop in crops])
        bands = analysis.transform
        for band, transform in bands.pairs():
            sent = places(transform(band(torch.cat([analysis.shallow(crop) for crop in crops]))))
            second = sent.T @ sent / len(sent)
            strong = second.diagonal() > 1e-3 * second.diagonal().max()
            scaled = second / second.diagonal().sqrt().outer(second.diagonal().sqrt())
            apart = scaled[strong][:, strong] - torch.eye(int(strong.sum()))
            if band is not bands.pairs()[0][0]:  # the smooth band's borders meet padding
                assert apart.abs().max() < 0.05
    power = latent.square().mean((0, 2, 3))
    assert power[:32].mean() > power[32:128].mean() > power[128:].mean()
    assert sorted(bands.order_C.tolist()) == list(range(sum(BAND_CHANNELS)))


def test_directions_that_the_answer_reads_get_finer_steps(lite0: CutBackbone, crops: list[torch.Tensor]) -> None:
    """Rounding the latent disturbs the feature least where the gradients are largest."""
    analysis = InvertedResidualAnalysis()
    copy_trunk(analysis, lite0)
    with torch.no_grad():
        feature = torch.cat([analysis.shallow(crop) for crop in crops])
    gradient = torch.randn(400, *feature.shape[1:]) * 0.03
    gradient[:, :8] *= 100  # the answer reads the first 8 channels only
    begin_transform(analysis, crops, [Sensitivity(feature, gradient)])
    with torch.no_grad():
        latent = torch.cat([analysis(crop) for crop in crops])
        seen = torch.cat([places(latent), torch.ones(latent[:, 0].numel(), 1)], dim=1)
        cells = places(torch.nn.functional.pixel_unshuffle(feature, 2))
        back = least_squares(places(latent), cells)
        noise = torch.rand(len(seen), latent.shape[1]) - 0.5
        error = (noise @ back[:-1]).square().mean(0) / cells.var(0).clamp_min(1e-6)
    assert error[: 8 * 4].mean() < 0.2 * error[8 * 4 :].mean()


def test_decoder_begins_as_the_inverse(lite0: CutBackbone, crops: list[torch.Tensor]) -> None:
    """Nothing but the channels that are not sent is lost on the way back."""
    analysis = begun(lite0, crops)
    synthesis = build_synthesis("tf_efficientnet_lite0", analysis.latent)
    with torch.no_grad():
        feature = torch.cat([analysis.shallow(crop) for crop in crops])
        synthesis.set_target_statistics(feature.mean((0, 2, 3)), feature.std((0, 2, 3)).clamp_min(1e-3))
        latent = torch.cat([analysis(crop) for crop in crops])
        restore_linearly(synthesis, latent, feature)
        target = (feature - synthesis.target_mean) / synthesis.target_std
        error = (synthesis.eval().normalised(latent) - target).square().mean() / target.square().mean()
    assert error < 0.1


@pytest.mark.parametrize(
    ("tag", "linear"),
    [
        ("tf_efficientnet_lite0", True), ("tf_efficientnet_lite2", True), ("mobilenetv2_100", True),
        ("tf_efficientnet_lite4", False), ("resnet18", False), ("convnext_atto", False),
    ],
)  # fmt: skip
def test_which_decoders_begin_linear(tag: str, linear: bool) -> None:
    """Those with a linear path that is wide enough for the feature: lite4's has 112 channels, the planes are 96."""
    assert begins_linear(tag, CodecConfig().latent) is linear


def test_sensitivity_is_that_of_the_answer(lite0: CutBackbone, crops: list[torch.Tensor]) -> None:
    """Two gradients a picture, of one power, and none of the backbone's weights gets any."""
    width = lite0.pooled_features
    with torch.no_grad():
        feature = lite0.head_part(torch.cat(crops[:2]))
    asked = sensitivity(lite0, feature, pooled_std=torch.ones(width), batch=6, seed=3)
    assert len(asked.gradient_NDHW) == 2 * len(asked.feature_BDHW) == 32
    for kind in asked.gradient_NDHW.chunk(2):
        assert kind.square().mean().item() == pytest.approx(1.0, rel=1e-3)
    assert all(parameter.grad is None for parameter in lite0.parameters())
    again = sensitivity(lite0, feature, pooled_std=torch.ones(width), batch=6, seed=3)
    assert torch.equal(asked.gradient_NDHW, again.gradient_NDHW)


def test_priors_begin_near_the_truth() -> None:
    """Bits by the priors are within a tenth of the entropy of logistic symbols, at every operating point."""
    torch.manual_seed(0)
    codec = FeatureCodec(CodecConfig(backbones=()))
    channels = codec.config.latent.channels
    uniform = torch.rand(64, channels, 8, 8).clamp(1e-4, 1 - 1e-4)
    latent = torch.logit(uniform) * torch.linspace(0.2, 4, channels).view(1, -1, 1, 1) + 0.3
    for point in range(len(codec.bottlenecks)):
        begin_prior(codec, latent, point)
        symbols = codec.quantise(latent, point)
        bits = codec.symbol_bits(symbols, point).mean((0, 2, 3))
        for channel in range(0, channels, 16):
            share = torch.unique(symbols[:, channel], return_counts=True)[1] / symbols[:, channel].numel()
            entropy = float(-(share * share.log2()).sum())
            assert bits[channel].item() == pytest.approx(entropy, rel=0.1)


def test_points_begin_at_their_bytes() -> None:
    """Gains are chosen so that frames of 224 take what was asked for, whatever the size of the crops."""
    torch.manual_seed(0)
    codec = FeatureCodec(CodecConfig(backbones=()))
    latent = torch.randn(12, codec.config.latent.channels, 5, 5) * 3
    wanted = (1500.0, 2500.0, 4000.0)
    begin_points(codec, latent, wanted)
    for point, target in enumerate(wanted):
        bits = codec.symbol_bits(codec.quantise(latent, point), point).sum() / len(latent)
        assert bits.item() / 8 * (224 / 160) ** 2 == pytest.approx(target, rel=0.01)
