"""Every blueprint has an ONNX form that servers can run: fixed size, free batch."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytestmark = pytest.mark.torch

from pipeline.models import export, synthesis  # noqa: E402

TINY = {
    "resnet": lambda: synthesis.ResNetSynthesis(16, latent_channels=48, width=8, blocks=2, bottleneck=True),
    "convnext": lambda: synthesis.ConvNeXtSynthesis(16, latent_channels=48, width=8, blocks=1),
    "swin": lambda: synthesis.SwinSynthesis(64, latent_channels=48, width=32, window=7),
    "inverted_residual": lambda: synthesis.InvertedResidualSynthesis(16, latent_channels=48, width=8),
}


@pytest.mark.parametrize("family", sorted(TINY))
def test_graph_is_the_module(tmp_path: Path, family: str) -> None:
    """Exported for one batch size and run with another, the graph computes what torch computes (windows padded)."""
    torch.manual_seed(0)
    g_s = TINY[family]().eval().requires_grad_(False)
    latent, file = torch.randn(3, 48, 10, 10), tmp_path / "synthesis.onnx"
    export._export(g_s, latent[:2], file, names=("latent", "feature"), dynamic={0: "batch"})
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    actual = torch.from_numpy(session.run(None, {"latent": latent.numpy()})[0])
    torch.testing.assert_close(actual, g_s(latent), atol=1e-4, rtol=1e-3)
