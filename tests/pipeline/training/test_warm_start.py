"""An encoder that begins with a classifier's shallow layers sees what the classifier sees."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.errors import ConfigError  # noqa: E402
from pipeline.models.analysis import InvertedResidualAnalysis  # noqa: E402
from pipeline.models.backbones import CutBackbone, load_backbone  # noqa: E402
from pipeline.training.warm_start import warm_start  # noqa: E402


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


@pytest.mark.parametrize(("height", "width"), [(224, 224), (64, 96)])
def test_trunk_is_the_head_part(lite0: CutBackbone, height: int, width: int) -> None:
    """The same feature up to rounding, borders and TensorFlow's padding included."""
    analysis = InvertedResidualAnalysis()
    warm_start(analysis, lite0)
    image = torch.rand(2, 3, height, width)
    with torch.no_grad():
        torch.testing.assert_close(analysis.shallow(image), lite0.head_part(image), rtol=1e-3, atol=1e-4)


def test_the_backbone_stays(lite0: CutBackbone) -> None:
    """It is copied from, not shared."""
    before = lite0.weights_hash()
    analysis = InvertedResidualAnalysis()
    warm_start(analysis, lite0)
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
        warm_start(analysis, load_backbone(tag, pretrained=False))
    assert all(map(torch.equal, before, analysis.parameters()))


def test_no_backbone_is_refused() -> None:
    """A run that has not loaded it says so."""
    with pytest.raises(ConfigError, match="no such backbone is loaded"):
        warm_start(InvertedResidualAnalysis(), None)
