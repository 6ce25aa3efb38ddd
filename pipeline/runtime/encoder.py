"""The encoder on the edge: g_a as an ONNX graph, on the provider and in the precision that a measurement chose.

A small convolutional net at batch 1 is often faster on the processor than on a graphics card next to it, and int8 is
faster on some processors and slower on others. So `auto` loads every form that this machine can run, times each for a
moment on this machine, and keeps the fastest. int8 takes part only where the bundle says what it costs in accuracy and
that is within INT8_EXTRA_LOSS_POINTS_MAX and INT8_EXTRA_BYTES_PERCENT_MAX.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.bundle.home import home_folder
from pipeline.bundle.manifest import (
    INT8_EXTRA_BYTES_PERCENT_MAX,
    INT8_EXTRA_LOSS_POINTS_MAX,
    AnalysisTable,
    EdgeSpec,
)
from pipeline.clock import Clock, monotonic
from pipeline.errors import ConfigError, EngineError
from pipeline.preprocess import Box, Preprocessor, PreprocessSpec

PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""Our names for ONNX Runtime's, in the order in which `auto` tries them."""
PRECISIONS = ("fp32", "int8")

_WARM_UP_RUNS = 3
_TIMED_RUNS = 15
_TIMED_S_MAX = 0.5
_INT8_GAIN_MIN = 0.95
"""int8 is taken only below this share of fp32's time: it costs accuracy, so a tie goes to fp32."""


class EncoderFiles(Protocol):
    """What the encoder needs of a bundle; `EdgeBundle` has it."""

    edge_spec: EdgeSpec

    def read_edge(self, name: str) -> bytes:
        """The bytes of a file that edge/spec.toml names."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way of running g_a here: `ms` is the median of a few runs, or None where it did not load (`failure`)."""

    provider: str
    precision: str
    ms: float | None
    failure: str = ""

    @property
    def name(self) -> str:
        return f"{self.provider} {self.precision}"


class FrameEncoder:
    """Picture in, latent out. One thread at a time.

    `provider`: auto, tensorrt, cuda or cpu; `precision`: auto, fp32 or int8; `threads`: processor threads of one run;
    `progress` gets a line before something that may take minutes.
    Raises ConfigError for names that do not exist, EngineError where what was asked for does not run here.
    """

    def __init__(
        self,
        bundle: EncoderFiles,
        *,
        provider: str = "auto",
        precision: str = "auto",
        threads: int = 1,
        preprocess: PreprocessSpec | None = None,
        progress: Callable[[str], None] = lambda line: None,
        clock: Clock = monotonic,
    ) -> None:
        spec = bundle.edge_spec
        self.spec = preprocess_spec(spec) if preprocess is None else preprocess
        self.analysis = spec.analysis.name
        self._latent_shape = (
            spec.latent.channels,
            self.spec.size // spec.latent.stride,
            self.spec.size // spec.latent.stride,
        )
        self._preprocessor = Preprocessor(self.spec)
        self._threads = threads
        self._load = _Loader(bundle, threads, (1, 3, self.spec.size, self.spec.size), clock)
        if "tensorrt" in _providers(self._load.available, provider) and not any(_tensorrt_folder().glob("*.engine")):
            progress("TensorRT builds its engines once, which may take minutes: --provider cuda does without")
        self._session, self.chosen, self.candidates, self.why = _choose(self._load, spec.analysis, provider, precision)
        self._input = self._session.get_inputs()[0].name
        self._check_shape()

    @property
    def provider(self) -> str:
        return self.chosen.provider

    @property
    def precision(self) -> str:
        return self.chosen.precision

    def preprocess(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Picture (H, W, 3), uint8 -> encoder input (1, 3, S, S), float32 in [0, 1]. Raises InputError."""
        return self._preprocessor(pixels)

    def box(self, pixels: NDArray[np.uint8]) -> Box:
        """The part of `pixels` that the encoder sees."""
        return self._preprocessor.box(pixels)

    def analyse(self, image_13SS: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encoder input -> latent (C, H, W), float32, channels in order of importance. Raises EngineError."""
        try:
            latent: NDArray[np.float32] = self._session.run(None, {self._input: image_13SS})[0][0]
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise EngineError(f"encoder {self.analysis} failed on {self.chosen.name}: {_first_line(error)}") from None
        if not np.isfinite(latent.sum()):  # a sum is a tenth of the price of looking at each value
            raise EngineError(
                f"encoder {self.analysis} gave values that are not finite on {self.chosen.name}: try --precision fp32"
            )
        return latent

    def describe(self) -> str:
        """One line for people: what runs where, how fast, and why that was chosen."""
        assert self.chosen.ms is not None
        threads = "1 thread" if self._threads == 1 else f"{self._threads} threads"
        return f"{self.analysis} {self.precision} on {self.provider}, {threads}, {self.chosen.ms:.2f} ms ({self.why})"

    def _check_shape(self) -> None:
        image = np.zeros((1, 3, self.spec.size, self.spec.size), np.float32)
        shape = self.analyse(image).shape
        if shape != self._latent_shape:
            raise EngineError(
                f"encoder {self.analysis} gives latents of {shape}, edge/spec.toml says {self._latent_shape}: "
                "use an intact bundle"
            )


def preprocess_spec(spec: EdgeSpec) -> PreprocessSpec:
    """The preprocessing that a bundle asks for, in its live form (the whole centred square)."""
    table = spec.preprocess
    return PreprocessSpec(size=table.size, crop=table.crop, colour=table.colour, filter=table.filter)


class _Loader:
    """Makes and times ONNX Runtime sessions."""

    def __init__(self, bundle: EncoderFiles, threads: int, shape: tuple[int, ...], clock: Clock) -> None:
        import onnxruntime

        self._runtime: Any = onnxruntime
        self._bundle = bundle
        self._threads = threads
        self._image = np.random.default_rng(0).random(shape, np.float32)
        self._clock = clock
        self.available = {name for name, long in PROVIDERS.items() if long in onnxruntime.get_available_providers()}

    def session(self, file: str, provider: str) -> Any:
        """A session on exactly `provider`. Raises EngineError: ONNX Runtime by itself would quietly take another."""
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is in the exception; the rest is noise on a user's screen
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = PROVIDERS[provider]
        model = self._bundle.read_edge(file)
        try:
            session = self._runtime.InferenceSession(
                model, sess_options=options, providers=[(wanted, _provider_options(provider))]
            )
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise EngineError(f"edge/{file} does not load on {provider}: {_first_line(error)}") from None
        if session.get_providers()[0] != wanted:
            raise EngineError(
                f"{provider} was refused by ONNX Runtime: check its driver and libraries with `frankenstream doctor`"
            )
        return session

    def time_ms(self, session: Any) -> float:
        """Median milliseconds of a run, over at most _TIMED_RUNS runs and about _TIMED_S_MAX seconds."""
        feed = {session.get_inputs()[0].name: self._image}
        begin = self._clock()
        taken: list[float] = []
        for run in range(_WARM_UP_RUNS + _TIMED_RUNS):
            started = self._clock()
            session.run(None, feed)
            ended = self._clock()
            if run >= _WARM_UP_RUNS or ended - begin > _TIMED_S_MAX:
                taken.append((ended - started) * 1e3)
            if ended - begin > _TIMED_S_MAX:
                break
        return statistics.median(taken)


def _choose(
    loader: _Loader, analysis: AnalysisTable, provider: str, precision: str
) -> tuple[Any, Candidate, tuple[Candidate, ...], str]:
    """Load and time what `provider` and `precision` allow; (session, its candidate, all candidates, why)."""
    providers = _providers(loader.available, provider)
    files, note = _files(analysis, precision)
    sessions: dict[Candidate, Any] = {}
    candidates: list[Candidate] = []
    for name in providers:
        for form, file in files.items():
            candidate, session = _try(loader, name, form, file)
            candidates.append(candidate)
            if session is not None:
                sessions[candidate] = session
    if not sessions:
        reasons = "; ".join(dict.fromkeys(candidate.failure for candidate in candidates))
        raise EngineError(f"encoder {analysis.name} runs on none of {', '.join(providers)}: {reasons}")
    chosen = _fastest(sessions)
    return sessions[chosen], chosen, tuple(candidates), _why(chosen, candidates, note)


def _providers(available: set[str], wanted: str) -> list[str]:
    if wanted == "auto":
        return [name for name in PROVIDERS if name in available]
    if wanted not in PROVIDERS:
        raise ConfigError(f"encoder provider is {wanted!r}, expected auto, {', '.join(PROVIDERS)}")
    if wanted not in available:
        there = ", ".join(name for name in PROVIDERS if name in available)
        raise EngineError(
            f"this ONNX Runtime has no {wanted} (it has {there}): install onnxruntime-gpu, or use --provider auto"
        )
    return [wanted]


def _files(analysis: AnalysisTable, wanted: str) -> tuple[dict[str, str], str]:
    """Precision -> file of the forms to try, and what there is to say about those left out."""
    if wanted not in ("auto", *PRECISIONS):
        raise ConfigError(f"encoder precision is {wanted!r}, expected auto, {', '.join(PRECISIONS)}")
    if wanted == "fp32":
        return {"fp32": analysis.fp32}, "as asked"
    if wanted == "int8":
        if not analysis.int8:
            raise EngineError(f"this bundle has no int8 form of {analysis.name}: use --precision fp32")
        return {"int8": analysis.int8}, f"as asked; {_int8_cost(analysis)}"
    if analysis.int8_allowed:
        return {"fp32": analysis.fp32, "int8": analysis.int8}, ""
    return {
        "fp32": analysis.fp32
    }, f"int8 left out: {_int8_cost(analysis)}" if analysis.int8 else "the bundle has no int8 form"


def _int8_cost(analysis: AnalysisTable) -> str:
    if analysis.int8_extra_loss_points is None:
        return "what int8 costs in accuracy was not measured"
    points = f"{analysis.int8_extra_loss_points:.2f} points, limit {INT8_EXTRA_LOSS_POINTS_MAX}"
    share = f"{analysis.int8_extra_bytes_percent:.1f} % of the bytes, limit {INT8_EXTRA_BYTES_PERCENT_MAX:g}"
    return f"int8 costs {points}, and {share}"


def _try(loader: _Loader, provider: str, precision: str, file: str) -> tuple[Candidate, Any]:
    try:
        session = loader.session(file, provider)
        return Candidate(provider, precision, _timed(lambda: loader.time_ms(session), file, provider)), session
    except EngineError as error:
        return Candidate(provider, precision, None, str(error)), None


def _timed(measure: Callable[[], float], file: str, provider: str) -> float:
    try:
        return measure()
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise EngineError(f"edge/{file} does not run on {provider}: {_first_line(error)}") from None


def _fastest(candidates: Iterable[Candidate]) -> Candidate:
    """The fastest; int8 only where it is clearly faster than the best fp32."""

    def cost(candidate: Candidate) -> float:
        assert candidate.ms is not None
        return candidate.ms if candidate.precision == "fp32" else candidate.ms / _INT8_GAIN_MIN

    return min(candidates, key=cost)


def _why(chosen: Candidate, candidates: list[Candidate], note: str) -> str:
    others = [f"{c.name} {c.ms:.2f} ms" for c in candidates if c.ms is not None and c is not chosen]
    failed = [f"{c.name} did not load" for c in candidates if c.ms is None]
    parts = ([f"measured against {', '.join(others)}"] if others else []) + failed + ([note] if note else [])
    return "; ".join(parts) or "the only form"


def _provider_options(provider: str) -> dict[str, str]:
    if provider != "tensorrt":
        return {}
    folder = _tensorrt_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder), "trt_fp16_enable": "0"}


def _tensorrt_folder() -> Path:
    """Where TensorRT's engines are kept, since building one takes up to minutes."""
    return home_folder() / "cache" / "tensorrt"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
