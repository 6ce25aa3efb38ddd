"""Fast forms of frozen backbones are the same function."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.models.analysis import ANALYSES, build_analysis  # noqa: E402
from pipeline.models.backbones import load_backbone  # noqa: E402
from pipeline.training import fast_forms  # noqa: E402
from pipeline.training.fast_forms import training_form, use_fast_strided  # noqa: E402


@pytest.mark.parametrize("tag", ["tf_efficientnet_lite0", "resnet18"])
@pytest.mark.parametrize("side", [64, 72])
def test_training_form_is_equal(tag: str, side: int) -> None:
    """Folding and subsampling change nothing but float rounding, at even and odd feature sizes; the original stays."""
    torch.manual_seed(0)
    backbone = load_backbone(tag, pretrained=False)
    for module in backbone.modules():  # random weights leave BatchNorm trivial; make folding matter
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    before = backbone.weights_hash()
    image = torch.rand(1, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(training_form(backbone)(image), backbone(image), rtol=1e-3, atol=1e-4)
    assert backbone.weights_hash() == before


def test_training_form_has_no_batch_norm_left() -> None:
    """Every BatchNorm of an EfficientNet-Lite follows a convolution, so all of them fold."""
    fast = training_form(load_backbone("tf_efficientnet_lite0", pretrained=False))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
    assert not any(p.requires_grad for p in fast.parameters())


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_strided_convolutions_compute_as_before(name: str) -> None:
    """Outside autocast the encoder computes as before, and its state dict keeps its names."""
    analysis, plain = build_analysis(name), build_analysis(name)
    plain.load_state_dict(analysis.state_dict())
    use_fast_strided(analysis)
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(analysis(image), plain(image), rtol=1e-5, atol=1e-6)
    assert list(analysis.state_dict()) == list(plain.state_dict())


def test_strided_3x3_leaves_autocast() -> None:
    """oneDNN's bfloat16 gradient of them is slow."""
    analysis = build_analysis("stem")
    use_fast_strided(analysis)
    with torch.autocast("cpu", torch.bfloat16):
        assert analysis.blocks[0].conv1(torch.rand(1, 48, 8, 8)).dtype == torch.float32


def test_frankensplit_survives_a_backward_pass() -> None:
    """Its first skip, strided 1x1 on an image, ended the process in channels-last (torch 2.13)."""
    analysis = build_analysis("frankensplit").to(memory_format=torch.channels_last)
    use_fast_strided(analysis)
    image = torch.rand(24, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        analysis(image).float().square().mean().backward()
    assert analysis.blocks[0].skip.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("emulated", [True, False])
def test_bfloat16_is_taken_where_it_is_faster(emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors without its instructions emulate it, several times slower; accelerators have them."""
    seconds = {torch.float32: 1.0, torch.bfloat16: 5.0 if emulated else 0.3}
    monkeypatch.setattr(fast_forms, "_product_seconds", seconds.__getitem__)
    assert fast_forms.bfloat16_is_faster(torch.device("cpu")) != emulated
    assert fast_forms.bfloat16_is_faster(torch.device("cuda"))


def test_products_are_timed() -> None:
    """The real measurement gives times above zero for both."""
    assert min(fast_forms._product_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)) > 0
