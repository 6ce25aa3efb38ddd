"""What a frame costs on the edge: our encoders, JPEG and WebP, and the whole backbone run locally, on one core.

    python -m benchmarks.edge --json FILE

Claims: (1) from a 224x224 RGB frame, `stem` in int8 takes at most 1.5 ms in all (`frankensplit` was to take 4, and does
not); (2) the process stays below 200 MB and does not grow; (3) that is far less than running the backbone with its
heads right here. Where (3) does not hold on your machine, run the backbone there.

Everything is pinned to one core and takes turns frame by frame, so that whatever else the machine does hits all alike.
`_p50_ms` are medians of wall time; `whole_cpu_p50_ms` is processor time. Encoders that the bundle does not carry have
random weights (benchmarks.edge_graphs); the symbols that are coded are then the bundle's own.
JPEG wins on time by far: what it loses is rate and accuracy (benchmarks.server, docs).
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.edge_graphs import ANALYSES, LATENTS
from benchmarks.machine import pin_to_one_core, processor, rounded, rss_mb
from edge_node.media import VideoFile
from edge_node.payload import to_pixels
from pipeline.bundle import Bundle
from pipeline.bundle.manifest import AnalysisTable, EdgeSpec, LatentTable
from pipeline.codec import LatentCodec, coder_in_use
from pipeline.codec.quantisation import OperatingPoint, quantise
from pipeline.errors import EngineError, FrankenError
from pipeline.preprocess import Preprocessor
from pipeline.runtime.encoder import FrameEncoder, preprocess_spec
from recordings.samples import sample_path

PICTURES = 24
"""Different frames, taken from the sample clip."""
COLUMNS = {"": None, "640x480": (640, 480), "1280x720": (1280, 720)}
"""Name of the extra columns and their size (width, height); "" is the encoder's own square."""
RSS_FRAMES = 2_000
PRECISIONS = ("fp32", "int8")

Pixels = NDArray[np.uint8]


def main() -> int:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--bundle", type=Path, help="bundle folder or .zip; the default one if not given")
    parser.add_argument("--frames", type=int, default=300, help="timed frames a column")
    parser.add_argument("--no-local", action="store_true", help="leave out the backbones (their export needs torch)")
    parser.add_argument("--only", choices=("rss", "local"), help=argparse.SUPPRESS)
    parser.add_argument("--backbone", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    pin_to_one_core()
    try:
        bundle = Bundle.open(arguments.bundle)
        if arguments.only == "rss":
            print(json.dumps(measure_rss(bundle)))
            return 0
        if arguments.only == "local":
            print(json.dumps(measure_local(bundle, arguments.backbone, arguments.frames)))
            return 0
        return report(bundle, arguments)
    except FrankenError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def report(bundle: Bundle, arguments: argparse.Namespace) -> int:
    """Everything, as a table and as JSON."""
    if coder_in_use() != "c":
        print("the Python coder is in use, its times say nothing: sudo apt-get install gcc libc6-dev, then")
        print("python -m pipeline.codec.build")
        return 5
    figures = measure(bundle, arguments.frames)
    figures |= in_own_process(arguments.bundle, "rss")
    figures["local"] = {} if arguments.no_local else measure_locals(bundle, arguments)
    figures |= {
        "bundle_id": bundle.bundle_id,
        "codec_id": bundle.codec_id,
        "coder": coder_in_use(),
        "machine": platform.machine(),
        "processor": processor(),
        "python": platform.python_version(),
        "frames": arguments.frames,
    }
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(rounded(figures), indent=1) + "\n", encoding="utf-8")
    return 0


# --- The encoders, JPEG and WebP, in turns ------------------------------------------------------------------------


@dataclass
class Times:
    """Milliseconds of each step, a list entry a frame."""

    steps: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: str, seconds: float) -> None:
        self.steps.setdefault(step, []).append(seconds * 1e3)

    def percentile(self, step: str, share: float) -> float:
        return float(np.percentile(self.steps[step], share))


@dataclass
class Variant:
    """An encoder in one precision, and the symbols that it codes."""

    name: str
    encoder: FrameEncoder
    codec: LatentCodec
    point: OperatingPoint
    index: int
    own: bool
    """Whether it is the bundle's own; otherwise its latents mean nothing and `symbols` are coded in their place."""

    def run(self, pixels: Pixels, symbols: NDArray[np.int16], times: Times) -> None:
        """One frame."""
        cpu = time.process_time()
        started = time.perf_counter()
        image = self.encoder.preprocess(pixels)
        preprocessed = time.perf_counter()
        latent = self.encoder.analyse(image)
        analysed = time.perf_counter()
        made = quantise(latent, self.point) if self.own else symbols
        bitstream = self.codec.encode(made, self.index)
        ended = time.perf_counter()
        cpu = time.process_time() - cpu
        self.codec.decode(bitstream)
        decoded = time.perf_counter()
        times.add("preprocess", preprocessed - started)
        times.add("analysis", analysed - preprocessed)
        times.add("entropy_encode", ended - analysed)
        times.add("entropy_decode", decoded - ended)
        times.add("whole", ended - started)
        times.add("whole_cpu", cpu)
        times.steps.setdefault("payload_bytes", []).append(len(bitstream))


def measure(bundle: Bundle, frames: int) -> dict[str, Any]:
    """Variants, JPEG and WebP, over all columns."""
    pictures = {name: sample_pictures(size, bundle) for name, size in COLUMNS.items()}
    with tempfile.TemporaryDirectory() as folder:
        variants, left_out = make_variants(bundle, pictures[""], Path(folder))
    symbols = [coded_symbols(bundle, picture) for picture in pictures[""]]
    results: dict[str, dict[str, float]] = {variant.name: {} for variant in variants}
    rivals = {"jpeg_q90": jpeg(90), "webp_q80": webp(80)}
    figures: dict[str, Any] = {}
    for column, shown in pictures.items():
        suffix = f"_{column}" if column else ""
        times = {name: Times() for name in (*results, *rivals)}
        for number in range(-min(10, frames), frames):  # the first ones warm up
            if number == 0:
                times = {name: Times() for name in times}
            at = number % len(shown)
            for variant in variants:
                variant.run(shown[at], symbols[at], times[variant.name])
            for name, compress in rivals.items():
                started = time.perf_counter()
                size = len(compress(shown[at]))
                times[name].add("whole", time.perf_counter() - started)
                times[name].steps.setdefault("payload_bytes", []).append(size)
        for name, result in results.items():
            result |= steps_of(times[name], suffix)
        for name in rivals:
            figures[f"{name}{suffix}_p50_ms"] = times[name].percentile("whole", 50)
            figures[f"{name}{suffix}_bytes"] = float(np.mean(times[name].steps["payload_bytes"]))
    return {"variants": results, "left_out": left_out} | figures


def steps_of(times: Times, suffix: str) -> dict[str, float]:
    """The figures of one variant in one column."""
    found = {
        f"{step}{suffix}_p50_ms": times.percentile(step, 50)
        for step in ("preprocess", "analysis", "entropy_encode", "entropy_decode", "whole", "whole_cpu")
    }
    found[f"whole{suffix}_p99_ms"] = times.percentile("whole", 99)
    found[f"payload{suffix}_bytes"] = float(np.mean(times.steps["payload_bytes"]))
    return found


class _Files:
    """A bundle's edge half with another encoder."""

    def __init__(self, spec: EdgeSpec, graph: bytes, name: str, latent: LatentTable) -> None:
        self.edge_spec = msgspec.structs.replace(spec, analysis=AnalysisTable(name=name), latent=latent)
        self._graph = graph

    def read_edge(self, name: str) -> bytes:
        return self._graph


def make_variants(bundle: Bundle, pictures: Sequence[Pixels], folder: Path) -> tuple[list[Variant], str]:
    """An encoder for every analysis and precision; what had to be left out, and why."""
    spec, codec = bundle.edge_spec, bundle.latent_codec(coder="c")
    index = spec.operating_point_index()
    point = bundle.latent_spec.operating_points[index]
    carried = {"fp32": spec.analysis.fp32, "int8": spec.analysis.int8}
    graphs = {f"{spec.analysis.name}-{p}": bundle.read_edge(file) for p, file in carried.items() if file}
    own, left_out = set(graphs), ""
    latents = {spec.analysis.name: spec.latent}
    wanted = [f"{analysis}-{precision}" for analysis in ANALYSES for precision in PRECISIONS]
    if not set(wanted) <= own:
        left_out = export_missing(bundle, pictures, folder)
        if (folder / LATENTS).is_file():
            latents = msgspec.json.decode((folder / LATENTS).read_bytes(), type=dict[str, LatentTable]) | latents
        for name in wanted:
            made = folder / f"{name}.onnx"
            if name not in graphs and made.is_file():
                graphs[name] = made.read_bytes()
    variants = []
    for name in wanted:
        if name in graphs:
            files = _Files(spec, graphs[name], name, latents[name.rpartition("-")[0]])
            encoder = FrameEncoder(files, provider="cpu", precision="fp32")
            variants.append(Variant(name, encoder, codec, point, index, name in own))
    return variants, left_out


def export_missing(bundle: Bundle, pictures: Sequence[Pixels], folder: Path) -> str:
    """Make the encoders that the bundle lacks; "" or why that failed."""
    preprocess = Preprocessor(preprocess_spec(bundle.edge_spec))
    np.save(folder / "frames.npy", np.concatenate([preprocess(picture) for picture in pictures]))
    command = [sys.executable, "-m", "benchmarks.edge_graphs", str(folder), str(folder / "frames.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"
    return f"encoders that the bundle does not carry (needs frankenstream[train]): {reason}"


def coded_symbols(bundle: Bundle, picture: Pixels) -> NDArray[np.int16]:
    """The bundle's own symbols for a picture."""
    encoder = _encoder(bundle)
    point = bundle.latent_spec.operating_points[bundle.edge_spec.operating_point_index()]
    return quantise(encoder.analyse(encoder.preprocess(picture)), point)


_ENCODERS: dict[str, FrameEncoder] = {}


def _encoder(bundle: Bundle) -> FrameEncoder:
    if bundle.codec_id not in _ENCODERS:
        _ENCODERS[bundle.codec_id] = FrameEncoder(bundle, provider="cpu")
    return _ENCODERS[bundle.codec_id]


def jpeg(quality: int) -> Callable[[Pixels], bytes]:
    """simplejpeg, the fastest that we know (LIBS chapter 6)."""
    simplejpeg: Any = importlib.import_module("simplejpeg")
    return lambda pixels: simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420")


def webp(quality: int) -> Callable[[Pixels], bytes]:
    """Pillow's WebP at its usual effort."""
    image: Any = importlib.import_module("PIL.Image")

    def compress(pixels: Pixels) -> bytes:
        buffer = io.BytesIO()
        image.fromarray(pixels).save(buffer, "WEBP", quality=quality)
        return buffer.getvalue()

    return compress


def sample_pictures(size: tuple[int, int] | None, bundle: Bundle) -> list[Pixels]:
    """Frames spread over the sample clip, at `size` (width, height) or as the encoder's own square."""
    av: Any = importlib.import_module("av")
    frames = [pixels for number, (pixels, _) in enumerate(VideoFile(str(sample_path()))) if number % 29 == 0][:PICTURES]
    if size is None:
        preprocess = Preprocessor(preprocess_spec(bundle.edge_spec))
        return [to_pixels(preprocess(frame)) for frame in frames]
    scaled = (av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(*size) for frame in frames)
    return [frame.to_ndarray(format="rgb24") for frame in scaled]


# --- In processes of their own: memory, and the whole backbone ----------------------------------------------------


def measure_rss(bundle: Bundle) -> dict[str, float]:
    """Memory of an edge process that reads a video, encodes it and has its transport loaded."""
    importlib.import_module("edge_node")
    importlib.import_module("pipeline.transports.zeromq")
    encoder, codec = FrameEncoder(bundle), bundle.latent_codec(coder="c")
    index = bundle.edge_spec.operating_point_index()
    point = bundle.latent_spec.operating_points[index]
    seen = 0
    early = 0.0
    while True:
        for pixels, _ in VideoFile(str(sample_path())):
            codec.encode(quantise(encoder.analyse(encoder.preprocess(pixels)), point), index)
            seen += 1
            if seen == RSS_FRAMES // 10:
                early = rss_mb()
            if seen == RSS_FRAMES:
                return {"rss_mb": rss_mb(), "rss_early_mb": early}


def measure_locals(bundle: Bundle, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every backbone of the bundle, each in a process of its own."""
    found = {}
    for backbone in bundle.backbones:
        name = backbone.alias or backbone.tag
        found[name] = in_own_process(
            arguments.bundle, "local", "--backbone", name, "--frames", str(max(arguments.frames // 3, 20))
        )
    return found


def measure_local(bundle: Bundle, name: str, frames: int) -> dict[str, float]:
    """The unmodified backbone with all its heads on this core, in ONNX Runtime as well."""
    from pipeline.runtime.engine_cache import EngineCache
    from pipeline.runtime.onnx_engine import OnnxEngine
    from tasks import HeadStack, bundle_heads

    backbone = bundle.backbone(name)
    engine = OnnxEngine(EngineCache().exported(bundle, backbone), backbone.tag, threads=1)
    heads = HeadStack(bundle_heads(bundle, engine), backbone=backbone.tag)
    pictures = sample_pictures(None, bundle)
    preprocess = Preprocessor(preprocess_spec(bundle.edge_spec))
    times = Times()
    for number in range(frames + 5):
        started = time.perf_counter()
        pooled = engine.from_images(preprocess(pictures[number % len(pictures)])).pooled_BD
        heads.scores(pooled)
        if number >= 5:
            times.add("whole", time.perf_counter() - started)
    return {
        "p50_ms": times.percentile("whole", 50),
        "p99_ms": times.percentile("whole", 99),
        "rss_mb": rss_mb(),
        "heads": len(heads.names),
    }


def in_own_process(bundle: Path | None, only: str, *more: str) -> dict[str, Any]:
    """Run a part of this script by itself. Raises EngineError with the reason if it fails."""
    command = [sys.executable, "-m", "benchmarks.edge", "--only", only, *more]
    command += ["--bundle", str(bundle)] if bundle is not None else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"
        raise EngineError(f"measuring {only} {' '.join(more)} failed: {reason}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def show(figures: dict[str, Any]) -> None:
    """The table for people."""
    console = Console()
    console.width = max(console.width, 100)
    console.print(f"one core of {figures['processor']}, {figures['frames']} frames, medians in ms", highlight=False)
    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    for name in ("", "prep", "analysis", "encode", "decode", "whole", "p99", "cpu", "640x480", "1280x720"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    steps = ("preprocess", "analysis", "entropy_encode", "entropy_decode", "whole")
    keys = [f"{step}_p50_ms" for step in steps]
    keys += ["whole_p99_ms", "whole_cpu_p50_ms", "whole_640x480_p50_ms", "whole_1280x720_p50_ms"]
    for name, variant in figures["variants"].items():
        table.add_row(name, *(f"{variant[key]:.2f}" for key in keys))
    for name in ("jpeg_q90", "webp_q80"):
        whole = [f"{figures[f'{name}{column}_p50_ms']:.2f}" for column in ("", "_640x480", "_1280x720")]
        table.add_row(name, "", "", "", "", whole[0], "", "", *whole[1:])
    for name, local in figures["local"].items():
        label = f"{name} here, {local['heads']} heads"
        table.add_row(label, "", "", "", "", f"{local['p50_ms']:.2f}", f"{local['p99_ms']:.2f}")
    console.print(table)
    early, late = figures["rss_early_mb"], figures["rss_mb"]
    memory = f"edge process {late:.0f} MB after {RSS_FRAMES} frames ({early:.0f} MB after a tenth of them)"
    for name, local in figures["local"].items():
        memory += f", {name} here {local['rss_mb']:.0f} MB"
    console.print(memory, highlight=False)
    if figures["left_out"]:
        console.print(f"left out: {figures['left_out']}", style="yellow")


if __name__ == "__main__":
    sys.exit(main())
