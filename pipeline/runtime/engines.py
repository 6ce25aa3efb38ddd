"""Which engine serves a backbone: `auto` measures ONNX Runtime and torch on this machine and says what it took.

backend   onnx    graphs exported once, no torch in this process; several times faster than eager torch on CPUs
          torch   the modules themselves; the one for CUDA where ONNX Runtime has no GPU build
          auto    the faster of the two, by milliseconds a frame for a lone frame and in a batch of eight
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bundle import Backbone, Bundle
from pipeline.errors import ConfigError, EngineError
from pipeline.runtime.engine import Engine
from pipeline.runtime.engine_cache import EngineCache, Measure, Progress
from pipeline.runtime.measurement import cost_ms, measure_engine
from pipeline.runtime.onnx_engine import PROVIDERS, OnnxEngine

BACKENDS = ("auto", "onnx", "torch")


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine and, in a line for people, why it is this one."""

    engine: Engine
    why: str


def build_engine(
    bundle: Bundle,
    backbone: str = "",
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int = 0,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Engine:
    """The engine for `backbone` (tag or alias; empty: the bundle's default); see choose_engine."""
    return choose_engine(
        bundle, backbone, backend=backend, device=device, threads=threads, cache_dir=cache_dir, progress=progress
    ).engine


def choose_engine(
    bundle: Bundle,
    backbone: str = "",
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int = 0,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> EngineChoice:
    """Build the engine for `backbone` and say why it is this one.

    `device`: auto, cpu, cuda or cuda:N; `threads` of one run, 0: all cores; `progress` gets a line where something
    takes longer than two seconds. Raises ConfigError for names that do not exist, EngineError with what to install,
    BundleError if the bundle's decoder does not fit.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"backend is {backend!r}, expected {', '.join(BACKENDS)}")
    if device != "auto" and device.partition(":")[0] not in PROVIDERS:
        raise ConfigError(f"device is {device!r}, expected auto, cpu, cuda or cuda:N")
    entry = bundle.backbone(backbone)
    maker = _Maker(bundle, entry, EngineCache(cache_dir, progress), threads or usable_cores())
    match backend:
        case "onnx":
            return EngineChoice(_checked(maker.onnx(_onnx_device(device)), entry), "as asked")
        case "torch":
            return EngineChoice(_checked(maker.torch(_torch_device(device)), entry), "as asked")
        case _:
            return _measured(maker, entry, device)


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Maker:
    bundle: Bundle
    backbone: Backbone
    cache: EngineCache
    threads: int

    @property
    def latent_CHW(self) -> tuple[int, int, int]:
        spec = self.bundle.edge_spec
        side = spec.preprocess.size // spec.latent.stride
        return (spec.latent.channels, side, side)

    def onnx(self, device: str) -> OnnxEngine:
        folder = self.cache.exported(self.bundle, self.backbone)
        return OnnxEngine(folder, self.backbone.tag, device=device, threads=self.threads)

    def torch(self, device: str) -> Engine:
        try:
            module: Any = importlib.import_module("pipeline.runtime.torch_engine")
        except ImportError as error:
            raise EngineError(f"{error}: backend torch needs it: pip install 'frankenstream[server]'") from None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(self.backbone.synthesis_path).name
            path.write_bytes(self.bundle.read(self.backbone.synthesis_path))
            engine: Engine = module.TorchEngine(
                path,
                self.backbone.tag,
                latent=self.bundle.edge_spec.latent.shape,
                weights_sha256=self.backbone.weights_sha256,
                device=device,
                threads=self.threads,
            )
        return engine


def _measured(maker: _Maker, entry: Backbone, device: str) -> EngineChoice:
    """The faster of ONNX Runtime here and torch as measured in a process of its own (imported here only if it wins)."""
    measure = Measure(device, maker.threads)
    try:
        torch = maker.cache.torch_measured(maker.bundle, entry, measure)
    except EngineError as error:
        # Whatever keeps torch from running may keep the export from running too; then this raises it.
        return EngineChoice(_checked(maker.onnx(_onnx_device(device)), entry), f"torch does not run here: {error}")
    onnx = maker.onnx(_onnx_device(device))
    place = maker.cache.place(maker.bundle, entry)
    onnx_ms = maker.cache.onnx_measured(place, measure, lambda: measure_engine(onnx, maker.latent_CHW))
    ours, theirs = cost_ms(onnx_ms), cost_ms(torch["ms"])
    figures = f"onnx on {onnx.device} {ours:.2f} ms a frame, torch on {torch['device']} {theirs:.2f} ms"
    if ours <= theirs:
        return EngineChoice(_checked(onnx, entry), f"measured: {figures}")
    return EngineChoice(_checked(maker.torch(torch["device"]), entry), f"measured: {figures}")


def _checked(engine: Engine, entry: Backbone) -> Engine:
    if engine.feature_width != entry.pooled_width:
        raise EngineError(
            f"{entry.tag} gives {engine.feature_width} features, the bundle says {entry.pooled_width}: other weights"
        )
    return engine


def _onnx_device(device: str) -> str:
    """`auto`: CUDA where ONNX Runtime was built for it and loads."""
    if device != "auto":
        return device
    import onnxruntime

    return "cuda" if PROVIDERS["cuda"] in onnxruntime.get_available_providers() else "cpu"


def _torch_device(device: str) -> str:
    if device != "auto":
        return device
    with contextlib.suppress(ImportError):
        if importlib.import_module("torch").cuda.is_available():
            return "cuda"
    return "cpu"
