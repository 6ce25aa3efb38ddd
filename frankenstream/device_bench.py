"""What this edge can do: the encoder's forms, the entropy coder, whole frames; and what the edge would choose.

Steps take turns, so that whatever else the machine does hits all of them; figures are medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice

import msgspec
import numpy as np

from edge_node import open_source
from pipeline.bundle import EdgeBundle
from pipeline.codec import coder_in_use, quantise
from pipeline.runtime.encoder import FrameEncoder

REPEATS = 30
PYTHON_REPEATS = 2
"""The Python coder takes a hundred times as long."""
PICTURES = 8


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """One form of the encoder on this device."""

    provider: str
    precision: str
    threads: int
    ms: float | None
    """None: it does not run here, see `note`."""
    chosen: bool = False
    note: str = ""


class PointCost(msgspec.Struct, frozen=True, kw_only=True):
    """One operating point: bytes a frame (alone, and against the frame before) and milliseconds of the coder."""

    name: str
    payload_bytes: float
    referenced_bytes: float | None
    encode_ms: float
    decode_ms: float


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    forms: list[Form]
    preprocess_ms: float
    picture: str
    coders_ms: dict[str, float]
    """c and python → encode a frame."""
    points: list[PointCost]
    frame_ms: float
    """Preprocess, analysis and entropy encode with what is chosen."""
    describe: str
    coder: str

    @property
    def fps(self) -> float:
        """Frames a second that one core could encode."""
        return 1e3 / self.frame_ms


def measure_device(bundle: EdgeBundle, source: str, *, threads: int = 1) -> DeviceReport:
    """Measure on frames of `source`. Raises FrankenError."""
    encoder = FrameEncoder(bundle, threads=threads)
    pictures = [pixels for pixels, _ in islice(open_source(source), PICTURES)]
    pixels = pictures[0]
    codec = bundle.latent_codec()
    points = bundle.latent_spec.operating_points
    default = bundle.edge_spec.operating_point_index()
    image = encoder.preprocess(pixels)
    latents = [encoder.analyse(encoder.preprocess(one)) for one in pictures]

    def whole() -> None:
        symbols = quantise(encoder.analyse(encoder.preprocess(pixels)), points[default])
        codec.encode(symbols, default)

    took = medians_ms({"preprocess": lambda: encoder.preprocess(pixels), "frame": whole})
    return DeviceReport(
        forms=encoder_forms(bundle, encoder, image, threads=threads),
        preprocess_ms=took["preprocess"],
        picture=f"{pixels.shape[1]}×{pixels.shape[0]} → {encoder.spec.size}",
        coders_ms=_coders_ms(bundle, quantise(latents[0], points[default]), default),
        points=[_point_cost(bundle, latents, index) for index in range(len(points))],
        frame_ms=took["frame"],
        describe=encoder.describe(),
        coder=codec.coder,
    )


def encoder_forms(bundle: EdgeBundle, chosen: FrameEncoder, image: np.ndarray, *, threads: int) -> list[Form]:
    """Every provider in both precisions, those that `auto` may not take included, on the same picture in turns."""
    analysis = bundle.edge_spec.analysis
    tried = {(one.provider, one.precision): one for one in chosen.candidates}
    runs: dict[tuple[str, str], FrameEncoder] = {}
    failures: dict[tuple[str, str], str] = {}
    for provider in dict.fromkeys(provider for provider, _ in tried):
        for precision in ("fp32", *(("int8",) if analysis.int8 else ())):
            candidate = tried.get((provider, precision))
            if candidate is not None and candidate.ms is None:
                failures[provider, precision] = candidate.failure
                continue
            runs[provider, precision] = FrameEncoder(bundle, provider=provider, precision=precision, threads=threads)
    took = medians_ms({f"{p} {q}": partial(one.analyse, image) for (p, q), one in runs.items()})
    forms = [
        Form(
            provider=provider, precision=precision, threads=threads, ms=took[f"{provider} {precision}"],
            chosen=(provider, precision) == (chosen.provider, chosen.precision),
            note=_note(bundle, precision),
        )
        for provider, precision in runs
    ]  # fmt: skip
    forms += [
        Form(provider=provider, precision=precision, threads=threads, ms=None, note=why)
        for (provider, precision), why in failures.items()
    ]
    return forms


def medians_ms(steps: Mapping[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, float]:
    """Median milliseconds of each step, run in turns after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:
                times[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(taken) for name, taken in times.items()}


def _note(bundle: EdgeBundle, precision: str) -> str:
    analysis = bundle.edge_spec.analysis
    if precision != "int8" or analysis.int8_allowed:
        return ""
    extra = analysis.int8_extra_loss_points
    if extra is None:
        return "accuracy not measured"
    return f"not for auto: costs {extra:.2f} points of accuracy, {analysis.int8_extra_bytes_percent:.1f} % of the bytes"


def _coders_ms(bundle: EdgeBundle, symbols: np.ndarray, index: int) -> dict[str, float]:
    found = {}
    for coder in dict.fromkeys((coder_in_use(), "python")):
        codec = bundle.latent_codec(coder=coder)
        repeats = PYTHON_REPEATS if coder == "python" else REPEATS
        found[coder] = medians_ms({"encode": partial(codec.encode, symbols, index)}, repeats)["encode"]
    return found


def _point_cost(bundle: EdgeBundle, latents: list[np.ndarray], index: int) -> PointCost:
    codec = bundle.latent_codec()
    point = bundle.latent_spec.operating_points[index]
    symbols = [quantise(latent, point) for latent in latents]
    payloads = [codec.encode(one, index) for one in symbols]
    referenced = None
    if codec.takes_references:
        held = [codec.decode(payload).as_reference(epoch=1, frame=number) for number, payload in enumerate(payloads)]
        pairs = zip(symbols[1:], held, strict=False)
        referenced = statistics.fmean(len(codec.encode(one, index, reference=before)) for one, before in pairs)
    took = medians_ms({
        "encode": lambda: codec.encode(symbols[0], index), "decode": lambda: codec.decode(payloads[0]),
    })  # fmt: skip
    return PointCost(
        name=point.name, payload_bytes=statistics.fmean(map(len, payloads)), referenced_bytes=referenced,
        encode_ms=took["encode"], decode_ms=took["decode"],
    )  # fmt: skip
