"""Reports: figures through shipped files, and what a bundle is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.bundle.manifest import HeadEntry  # noqa: E402
from pipeline.bundle.writing import to_toml  # noqa: E402
from pipeline.codec import Contexts, LatentCodec  # noqa: E402
from pipeline.models.export import export_analysis  # noqa: E402
from pipeline.models.feature_codec import CodecConfig, FeatureCodec  # noqa: E402
from pipeline.packing import shipped  # noqa: E402
from pipeline.packing.pack import read_heads  # noqa: E402
from pipeline.packing.tables import count_symbols, entropy_model, latent_spec  # noqa: E402
from tests.pipeline.training.photos import photo  # noqa: E402


def test_inputs_are_the_evaluation_crop() -> None:
    """Photos of any shape become encoder inputs of 224 x 224, or of a backbone's native side."""
    photos = [photo(0, height=256, width=300), photo(1, height=300, width=256)]
    assert shipped.encoder_inputs(photos).shape == (2, 3, 224, 224)
    assert shipped.native_inputs(photos, side=260, crop_fraction=0.89).shape == (2, 3, 260, 260)


def test_through_codec_is_the_real_bitstream(tmp_path: Path) -> None:
    """Exported encoder, real bytes, decoded latents: within half a step of what went in."""
    torch.manual_seed(0)
    codec = FeatureCodec(
        CodecConfig(analysis="conv_stem", backbones=("tf_efficientnet_lite0",), initial_gains=(4.0, 8.0, 16.0))
    ).eval()
    codec.update_quantiles()
    export_analysis(codec.analysis, tmp_path / "analysis.onnx", side=32)
    images = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    counted = count_symbols(codec, [image[None] for image in images], Contexts())
    latents = LatentCodec(latent_spec(codec, Contexts()), entropy_model(codec, counted), coder="python")
    sent = shipped.latents_of(tmp_path / "analysis.onnx", images, threads=1)
    received, payload_bytes = shipped.through_codec(latents, sent, 1)
    assert payload_bytes.shape == (2,)
    assert payload_bytes.min() > 0
    assert np.abs(received - sent).max() <= 0.5 / 8.0 + 1e-4


def test_first_layers_are_what_arrived() -> None:
    """Channels of later layers hold the fill symbol's value, those before keep theirs; all layers: nothing changes."""
    codec = FeatureCodec(CodecConfig(analysis="conv_stem", backbones=("tf_efficientnet_lite0",))).eval()
    codec.update_quantiles()
    images = np.random.default_rng(1).random((2, 1, 3, 32, 32), np.float32)
    counted = count_symbols(codec, list(images), Contexts())
    latents = LatentCodec(latent_spec(codec, Contexts()), entropy_model(codec, counted), coder="python")
    received = np.random.default_rng(0).normal(size=(2, 48, 4, 4)).astype(np.float32)
    point = latents.spec.operating_points[1]
    cut = shipped.first_layers(latents, received, 1, 3)
    assert np.array_equal(cut[:, :18], received[:, :18])
    assert np.array_equal(cut[0, 18:, 0, 0], ((latents.fill + point.offset) / point.gain)[18:].astype(np.float32))
    assert np.array_equal(shipped.first_layers(latents, received, 1, 8), received)


def test_figures_name_their_units() -> None:
    """A row for manifests: bytes, loss with interval, agreement, KL."""
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]] * 5
    comparison = shipped.compare_arrays(logits, logits, np.array([0, 1, 2, 0]), np.array([10, 20, 30, 40]))
    figures = shipped.figures(comparison)
    assert figures["bytes_mean"] == 25.0
    assert (figures["loss_points"], figures["loss_interval"]) == (0.0, [0.0, 0.0])
    assert figures["agreement_percent"] == 100.0
    assert shipped.top1_percent(logits, np.array([0, 1, 2, 0])) == 75.0


def test_heads_are_read_from_a_folder(tmp_path: Path) -> None:
    """Entry, weight and bias come from the TOML and the safetensors beside it."""
    from safetensors.numpy import save_file

    entry = HeadEntry(task="pets", backbone="tf_efficientnet_lite0", classes=2, labels="pets")
    (tmp_path / "pets.tf_efficientnet_lite0.toml").write_bytes(to_toml(entry))
    arrays = {"weight": np.ones((2, 4), np.float32), "bias": np.zeros(2, np.float32)}
    save_file(arrays, tmp_path / "pets.tf_efficientnet_lite0.safetensors")
    ((found, weight, bias),) = read_heads(tmp_path)
    assert found == entry
    assert weight.shape == (2, 4)
    assert bias.shape == (2,)
