"""The codec as a module: quantisation, layers, and where gradients go."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.codec import (  # noqa: E402
    LatentShape,
    OperatingPoint,
    dequantise,
    quantise,
)
from pipeline.errors import ConfigError  # noqa: E402
from pipeline.models.feature_codec import LAYERS, CodecConfig, FeatureCodec, drop_tail, keep_mask  # noqa: E402
from pipeline.models.synthesis import build_synthesis  # noqa: E402

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture
def codec() -> FeatureCodec:
    torch.manual_seed(0)
    made = FeatureCodec(CodecConfig(analysis="conv_stem", backbones=(LITE0,)))
    made.update_quantiles()
    return made


def latent() -> torch.Tensor:
    return 3 * torch.randn(2, 48, 4, 5, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("point", [0, 1, 2])
def test_quantises_like_the_edge(codec: FeatureCodec, point: int) -> None:
    """Symbols and dequantised latents are those of ``pipeline.codec.quantisation``, which edges run."""
    gain, offset = codec.gain_1C11(point).detach().flatten(), codec.median_1C11(point).flatten()
    edge = OperatingPoint("p", gain.numpy(), offset.numpy())
    symbols = codec.quantise(latent(), point)
    np.testing.assert_array_equal(symbols.numpy(), quantise(latent().numpy(), edge))
    expected = dequantise(symbols.numpy().astype(np.int16), edge)
    np.testing.assert_allclose(codec.dequantise(symbols, point).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_rounded_simulation_is_the_real_thing(codec: FeatureCodec) -> None:
    """With rounding, training shows the decoder exactly what a server would see."""
    layers = torch.tensor([LAYERS, 3])
    seen, _bits = codec.simulate(latent(), 1, noise_BCHW=torch.zeros(2, 48, 4, 5), rounded=True, layers_B=layers)
    expected = codec.dequantise(drop_tail(codec.quantise(latent(), 1), [LAYERS, 3]), 1)
    np.testing.assert_allclose(seen.detach().numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_tail_drop_keeps_a_prefix() -> None:
    """The first n layers stay, the others are the fill symbol."""
    symbols = torch.ones(1, 48, 2, 2, dtype=torch.int32)
    assert drop_tail(symbols, 2)[0, :, 0, 0].tolist() == [1] * 12 + [0] * 36
    assert keep_mask(torch.tensor([1, 8]), 48).sum(dim=1).flatten().tolist() == [6, 48]


def test_bits_count_dropped_layers(codec: FeatureCodec) -> None:
    """The sender pays for layers that the network drops later."""
    noise = torch.zeros(2, 48, 4, 5)
    bits = [
        codec.simulate(latent(), 0, noise_BCHW=noise, rounded=True, layers_B=torch.full((2,), n))[1].sum()
        for n in (1, LAYERS)
    ]
    assert bits[0] == bits[1]


@pytest.mark.parametrize("rounded", [False, True])
def test_gradients_reach_everything(codec: FeatureCodec, rounded: bool) -> None:
    """Distortion and rate together train encoder, gains, the prior in use and the decoder, and no other prior."""
    image = torch.rand(2, 3, 32, 32)
    noise = torch.rand(2, 48, 4, 4) - 0.5
    seen, bits = codec.simulate(
        codec.analysis(image), 1, noise_BCHW=noise, rounded=rounded, layers_B=torch.full((2,), LAYERS)
    )
    (codec.synthesis[LITE0].normalised(seen).square().mean() + bits.mean()).backward()
    used = [*codec.analysis.parameters(), *codec.bottleneck(1).parameters(), *codec.synthesis[LITE0].parameters()]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in used)
    assert codec.log_gain_PC.grad is not None
    assert (codec.log_gain_PC.grad.abs().sum(dim=1) > 0).tolist() == [False, True, False]
    assert all(p.grad is None for p in codec.bottleneck(0).parameters())


def test_an_encoder_that_does_not_pay(codec: FeatureCodec) -> None:
    """The same bits; their gradient reaches the point's gains and prior and stops before the encoder."""
    y, noise = latent().requires_grad_(), torch.zeros(2, 48, 4, 5)
    bits = [
        codec.simulate(
            y, 0, noise_BCHW=noise, rounded=True, layers_B=torch.full((2,), LAYERS), encoder_pays=encoder_pays
        )[1]
        for encoder_pays in (True, False)
    ]
    assert torch.equal(bits[0], bits[1])
    bits[1].mean().backward()
    assert y.grad is None
    assert codec.log_gain_PC.grad is not None
    assert (codec.log_gain_PC.grad.abs().sum(dim=1) > 0).tolist() == [True, False, False]


def test_gains_start_apart(codec: FeatureCodec) -> None:
    """Operating points begin at their configured gains."""
    gains = [float(codec.gain_1C11(point).detach().mean()) for point in range(3)]
    assert gains == pytest.approx(list(codec.config.initial_gains))


def test_tags_may_have_dots() -> None:
    """A decoder is found by its full timm tag, survives a state dict, and tags without a dot keep their keys."""
    tags = (LITE0, "tf_efficientnet_lite0.in1k")
    codec = FeatureCodec(CodecConfig(backbones=tags))
    assert tuple(codec.synthesis.keys()) == tags
    assert [tag for tag, _synthesis in codec.synthesis.items()] == list(tags)
    assert "tf_efficientnet_lite0.in1k" in codec.synthesis
    assert codec.synthesis[tags[1]] is not codec.synthesis[tags[0]]
    assert {key.split(".")[1] for key in codec.state_dict() if key.startswith("synthesis.")} == {
        LITE0, "tf_efficientnet_lite0:in1k",
    }  # fmt: skip
    FeatureCodec(CodecConfig(backbones=tags)).load_state_dict(codec.state_dict())


def test_synthesis_geometry_and_statistics() -> None:
    """g_s gives the cut feature at the latent's size, in the target's scale."""
    synthesis = build_synthesis(LITE0, LatentShape(48, 8)).eval()
    synthesis.set_target_statistics(torch.full((40,), 2.0), torch.full((40,), 3.0))
    latents = torch.randn(1, 48, 28, 28)
    with torch.no_grad():
        expected = synthesis.normalised(latents) * 3 + 2
        assert synthesis(latents).shape == (1, 40, 28, 28)
        assert torch.allclose(synthesis(latents), expected)


def test_no_blueprint() -> None:
    """A backbone without a decoder blueprint is refused with the known ones."""
    with pytest.raises(ConfigError, match="tf_efficientnet_lite0"):
        build_synthesis("vgg16", LatentShape(48, 8))
