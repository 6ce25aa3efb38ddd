"""The encoders: sizes are a promise to phones and browsers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.errors import ConfigError  # noqa: E402
from pipeline.models.analysis import ANALYSES, ResidualBlock, build_analysis, latent_shape  # noqa: E402

PARAMETERS_MAX = 141_696


def macs_of(module, image) -> int:
    """Multiplications of all convolutions in one forward pass."""
    total = 0

    def count(conv, _inputs, output) -> None:
        nonlocal total
        total += output.numel() * conv.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        module(image)
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(
    ("name", "parameters", "giga_macs"),
    [
        ("frankensplit", 141_696, 0.53),
        ("stem", 123_024, 0.105),
        ("conv_stem", 141_576, 0.159),
        ("inverted_residual", 112_192, 0.139),
    ],
)
def test_size(name: str, parameters: int, giga_macs: float) -> None:
    """Parameters and multiplications at 224 x 224 are those that the documentation states."""
    analysis = build_analysis(name)
    assert sum(p.numel() for p in analysis.parameters()) == parameters <= PARAMETERS_MAX
    assert macs_of(analysis, torch.zeros(1, 3, 224, 224)) / 1e9 == pytest.approx(giga_macs, abs=0.005)


@pytest.mark.parametrize("name", sorted(ANALYSES))
@pytest.mark.parametrize(("height", "width"), [(224, 224), (160, 240)])
def test_latent_geometry(name: str, height: int, width: int) -> None:
    """The latent has the shape that the encoder states: 48 channels at an eighth of the resolution, or 256 at 1/32."""
    latent = build_analysis(name)(torch.rand(2, 3, height, width))
    shape = latent_shape(name)
    assert shape == ((256, 32) if name == "inverted_residual" else (48, 8))
    assert latent.shape == (2, shape.channels, height // shape.stride, width // shape.stride)


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_latent_is_signed(name: str) -> None:
    """Nothing follows the last sum, so latents have both signs."""
    latent = build_analysis(name)(torch.rand(1, 3, 64, 64))
    assert latent.min() < 0 < latent.max()


def test_both_activations_act() -> None:
    """The residual branch goes through the activation twice (FrankenSplit's released code loses the first)."""
    calls = []
    block = ResidualBlock(4, 4, activation=torch.nn.ReLU())
    block.activation.register_forward_hook(lambda *_: calls.append(1))
    block(torch.rand(1, 4, 8, 8))
    assert len(calls) == 2


def test_input_range_is_0_to_1() -> None:
    """The affine map to [-1, 1] is inside: mid-grey is a zero input of the first convolution."""
    stem = build_analysis("stem")
    seen = []
    stem.stem.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    stem(torch.full((1, 3, 32, 32), 0.5))
    assert torch.equal(seen[0], torch.zeros(1, 3, 32, 32))


def test_unknown_name() -> None:
    """An unknown encoder is refused with the known ones."""
    with pytest.raises(ConfigError, match="conv_stem, frankensplit, inverted_residual, stem"):
        build_analysis("resnet")
