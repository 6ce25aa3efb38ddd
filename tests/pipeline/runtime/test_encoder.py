"""The encoder on ONNX Runtime: what `auto` takes, and what it says when something does not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pipeline.bundle.manifest import AnalysisTable, EdgeSpec
from pipeline.errors import ConfigError, EngineError
from pipeline.runtime import encoder as module
from pipeline.runtime.encoder import Candidate, FrameEncoder
from tests.bundles import edge_spec, stem_onnx


class Files:
    """The edge half of a bundle, from bytes in memory."""

    def __init__(self, analysis: AnalysisTable | None = None, **files: bytes) -> None:
        spec = edge_spec()
        self.edge_spec: EdgeSpec = spec if analysis is None else msgspec.structs.replace(spec, analysis=analysis)
        self._files = {"analysis.onnx": stem_onnx(np.random.default_rng(0)), **files}

    def read_edge(self, name: str) -> bytes:
        return self._files[name]


def with_int8(extra_loss: float | None, *, extra_bytes: float = 0.0) -> Files:
    """An "int8" form, which for these tests is the same graph."""
    analysis = AnalysisTable(
        name="stem", int8="int8.onnx", int8_extra_loss_points=extra_loss, int8_extra_bytes_percent=extra_bytes
    )
    return Files(analysis, **{"int8.onnx": stem_onnx(np.random.default_rng(0))})


@pytest.fixture
def timings(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Milliseconds of each form, in place of a measurement; the order of loading is that of `_choose`."""
    table: dict[str, float] = {"fp32": 1.0, "int8": 0.5}

    def tried(loader: Any, provider: str, precision: str, file: str) -> tuple[Candidate, Any]:
        candidate = Candidate(provider, precision, table[precision])
        return candidate, loader.session(file, provider)

    monkeypatch.setattr(module, "_try", tried)
    return table


def test_a_frame_becomes_a_latent_of_the_bundles_shape() -> None:
    """(H, W, 3) uint8 in, (48, 28, 28) float32 out, on the processor of this machine."""
    encoder = FrameEncoder(Files())
    latent = encoder.analyse(encoder.preprocess(np.full((48, 64, 3), 128, np.uint8)))
    assert latent.shape == (48, 28, 28)
    assert latent.dtype == np.float32
    assert (encoder.provider, encoder.precision) == ("cpu", "fp32")


def test_int8_is_taken_where_it_is_faster_and_allowed(timings: dict[str, float]) -> None:
    """Within the bound of the manifest, the measurement decides; describe() says what it was measured against."""
    encoder = FrameEncoder(with_int8(0.05), provider="cpu")
    assert encoder.precision == "int8"
    assert encoder.describe() == "stem int8 on cpu, 1 thread, 0.50 ms (measured against cpu fp32 1.00 ms)"


def test_int8_is_not_taken_where_it_is_no_faster(timings: dict[str, float]) -> None:
    """It costs accuracy, so a tie goes to fp32."""
    timings["int8"] = 0.97
    assert FrameEncoder(with_int8(0.05), provider="cpu").precision == "fp32"


@pytest.mark.parametrize(("extra", "said"), [(0.3, "int8 costs 0.30 points, limit 0.1"), (None, "was not measured")])
def test_int8_is_left_out_where_it_costs_too_much_or_nobody_knows(
    timings: dict[str, float], extra: float | None, said: str
) -> None:
    """However fast it is."""
    encoder = FrameEncoder(with_int8(extra), provider="cpu")
    assert encoder.precision == "fp32"
    assert said in encoder.describe()


def test_int8_is_left_out_where_its_frames_are_larger(timings: dict[str, float]) -> None:
    """Its noise is coded too: beyond the bound on bytes, fp32 is used and the reason is said."""
    assert FrameEncoder(with_int8(0.0, extra_bytes=5.0), provider="cpu").precision == "int8"
    encoder = FrameEncoder(with_int8(0.0, extra_bytes=11.2), provider="cpu")
    assert encoder.precision == "fp32"
    assert "11.2 % of the bytes, limit 5" in encoder.describe()


def test_int8_can_be_demanded(timings: dict[str, float]) -> None:
    """Then the cost is named and the user has decided."""
    encoder = FrameEncoder(with_int8(0.3), provider="cpu", precision="int8")
    assert encoder.precision == "int8"
    assert "as asked; int8 costs 0.30 points" in encoder.describe()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"provider": "abacus"}, ConfigError, "encoder provider is 'abacus', expected auto, tensorrt, cuda, cpu"),
        ({"precision": "fp8"}, ConfigError, "encoder precision is 'fp8', expected auto, fp32, int8"),
        ({"precision": "int8"}, EngineError, "this bundle has no int8 form of stem"),
    ],
)
def test_what_cannot_be_had_is_one_line(options: dict[str, str], error: type[Exception], message: str) -> None:
    """Wrong names are settings, missing forms are the model's."""
    with pytest.raises(error, match=message):
        FrameEncoder(Files(), **options)


def test_a_provider_that_this_runtime_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what there is instead."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match=r"has no cuda \(it has cpu\): install onnxruntime-gpu"):
        FrameEncoder(Files(), provider="cuda")


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize(("provider", "built", "lines"), [("auto", False, 1), ("auto", True, 0), ("cpu", False, 0)])
def test_tensorrt_says_that_it_may_take_long(
    provider: str, built: bool, lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it begins, where it is tried and has built nothing yet. Here it then fails to load."""
    import onnxruntime

    providers = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setenv("FRANKENSTREAM_HOME", str(tmp_path))
    if built:
        (tmp_path / "cache" / "tensorrt").mkdir(parents=True)
        (tmp_path / "cache" / "tensorrt" / "g_a.engine").touch()
    said: list[str] = []
    assert FrameEncoder(Files(), provider=provider, progress=said.append).provider == "cpu"
    assert len(said) == lines
    assert all("TensorRT builds its engines" in line for line in said)


def test_a_damaged_graph_is_an_engine_error_of_one_line() -> None:
    """No traceback of the runtime's own."""
    with pytest.raises(
        EngineError, match=r"encoder stem runs on none of cpu: edge/analysis.onnx does not load"
    ) as info:
        FrameEncoder(Files(**{"analysis.onnx": b"not a graph"}), provider="cpu")
    assert "\n" not in str(info.value)


def test_a_graph_of_another_shape_is_refused() -> None:
    """Latents must be those that the tables are for."""
    files = Files()
    latent = msgspec.structs.replace(files.edge_spec.latent, stride=16)
    files.edge_spec = msgspec.structs.replace(files.edge_spec, latent=latent)
    with pytest.raises(EngineError, match=r"gives latents of \(48, 28, 28\), edge/spec.toml says \(48, 14, 14\)"):
        FrameEncoder(files)


def test_values_that_are_not_finite_are_an_engine_error() -> None:
    """A broken model costs a frame, not the stream."""
    encoder = FrameEncoder(Files())
    with pytest.raises(EngineError, match="not finite"):
        encoder.analyse(np.full((1, 3, 224, 224), np.nan, np.float32))


def test_an_input_of_the_wrong_shape_is_an_engine_error() -> None:
    """What ONNX Runtime says, in one line."""
    encoder = FrameEncoder(Files())
    with pytest.raises(EngineError, match="encoder stem failed on cpu fp32"):
        encoder.analyse(np.zeros((1, 4, 224, 224), np.float32))
