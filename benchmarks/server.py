"""What a frame costs on the server: heads, batch sizes, and latents against pictures on the same backend.

    python -m benchmarks.server --json FILE

Claims: (1) tasks are nearly free, four heads cost at most 1.03× one; (2) serving a latent (entropy decode, dequantise,
g_s, tail, heads) is no slower than serving a JPEG of quality 90 (decode, resize, the *unmodified* backbone, heads) on
the same engine, of a whole camera frame or of the encoder's own square. They are run in turns, so that whatever else
the machine does hits all of them; figures are medians of rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from analytics_server.pictures import decode_picture
from pipeline.bundle import Backbone, Bundle
from pipeline.clock import monotonic
from pipeline.codec import dequantise, quantise
from pipeline.preprocess import Preprocessor
from pipeline.runtime.encoder import FrameEncoder, preprocess_spec
from pipeline.runtime.engine import Engine
from pipeline.runtime.engines import choose_engine, usable_cores
from tasks import HeadStack, bundle_heads

BATCHES = (1, 2, 4, 8, 16, 32)
HEADS = (1, 2, 4)
COMPARED_BATCH = 8
"""Batch size at which heads, latents and pictures are compared."""
ROUNDS_MIN = 5
PICTURE = (480, 640)
SPECTRUM = 1.3
"""Exponent of the amplitude's fall with frequency; a JPEG of quality 90 then has about the bytes of a photograph's."""

Step = Callable[[], object]


def main() -> int:
    """Run, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--bundle", type=Path, help="bundle folder or .zip; the default one if not given")
    parser.add_argument("--backbones", default="", help="comma separated; all of the bundle if not given")
    parser.add_argument("--backends", default="auto", help="comma separated: auto, onnx, torch")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--threads", type=int, default=0, help="threads of an engine; 0: all cores")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each comparison")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    console = Console()
    results: dict[str, Any] = {}
    names = [name for name in options.backbones.split(",") if name] or [b.alias or b.tag for b in bundle.backbones]
    backends = options.backends.split(",")
    for name in names:
        for backend in backends:
            choice = choose_engine(
                bundle, name, backend=backend, device=options.device, threads=options.threads, progress=console.print
            )
            key = name if len(backends) == 1 else f"{name}/{backend}"
            console.print(f"[bold]{key}[/]: {choice.engine.backend} on {choice.engine.device} ({choice.why})")
            results[key] = Bench(bundle, bundle.backbone(name), choice.engine, options.seconds).run()
            show(console, key, results[key])
    figures = {"backbones": results, "device": describe_machine(options.threads or usable_cores())}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    return 0


class Bench:
    """All comparisons on one engine."""

    def __init__(self, bundle: Bundle, backbone: Backbone, engine: Engine, seconds: float) -> None:
        self.engine = engine
        self.seconds = seconds
        self.codec = bundle.latent_codec(coder="c")  # the Python coder would measure itself: refused
        self.point = bundle.operating_points[bundle.edge_spec.operating_point_index()]
        self.preprocess = Preprocessor(preprocess_spec(bundle.edge_spec))
        pixels = natural_picture(*PICTURE)
        side = self.preprocess.spec.size
        self.jpeg = simplejpeg.encode_jpeg(pixels, quality=90, colorsubsampling="420")  # as edges send them
        self.small_jpeg = simplejpeg.encode_jpeg(natural_picture(side, side), quality=90, colorsubsampling="420")
        encoder = FrameEncoder(bundle, precision="fp32")
        symbols = quantise(encoder.analyse(encoder.preprocess(pixels)), self.point)
        self.bitstream = self.codec.encode(symbols, bundle.edge_spec.operating_point_index())
        heads = bundle_heads(bundle, engine)
        self.stacks = {
            count: HeadStack(heads[:count], backbone=backbone.tag, feature_width=engine.feature_width)
            for count in HEADS
            if count <= len(heads)
        }
        self.heads = self.stacks[max(self.stacks)]

    def run(self) -> dict[str, Any]:
        """Every figure of this engine."""
        batch = COMPARED_BATCH
        heads = in_turns([self.latents(batch, stack) for stack in self.stacks.values()], self.seconds)
        sizes = in_turns([self.latents(size, self.heads) for size in BATCHES], 2 * self.seconds)
        parts = self.parts(batch)
        return {
            "backend": self.engine.backend,
            "device": self.engine.device,
            "heads": {str(count): 1e3 * cost.wall_s / batch for count, cost in zip(self.stacks, heads, strict=True)},
            "heads_cpu": {str(count): 1e3 * cost.cpu_s / batch for count, cost in zip(self.stacks, heads, strict=True)},
            "batch": {str(size): size / cost.wall_s for size, cost in zip(BATCHES, sizes, strict=True)},
            **self.ways(batch),
            "parts_ms": parts,
            "payload_bytes": len(self.bitstream),
            "jpeg_bytes": len(self.jpeg),
            "jpeg_square_bytes": len(self.small_jpeg),
        }

    def ways(self, batch: int) -> dict[str, float]:
        """Latents against pictures."""
        steps = {
            "latent": self.latents(batch, self.heads),
            "jpeg": self.pictures(batch, self.heads, self.jpeg),
            "jpeg_square": self.pictures(batch, self.heads, self.small_jpeg),
        }
        costs = dict(zip(steps, in_turns(list(steps.values()), self.seconds), strict=True))
        figures = {f"{way}_frames_per_s": batch / cost.wall_s for way, cost in costs.items()}
        figures |= {f"{way}_cpu_ms": 1e3 * cost.cpu_s / batch for way, cost in costs.items()}
        for way in ("jpeg", "jpeg_square"):
            figures[f"latent_over_{way}"] = costs[way].wall_s / costs["latent"].wall_s
            figures[f"latent_over_{way}_cpu"] = costs[way].cpu_s / costs["latent"].cpu_s
        return figures

    def latents(self, batch: int, heads: HeadStack) -> Step:
        """A batch of bitstreams to labels."""

        def run() -> None:
            latents = [dequantise(self.codec.decode(self.bitstream).symbols, self.point) for _ in range(batch)]
            heads.top(self.engine.from_latents(np.stack(latents)).pooled_BD)

        return run

    def pictures(self, batch: int, heads: HeadStack, jpeg: bytes) -> Step:
        """A batch of JPEGs to labels, through the unmodified backbone."""

        def run() -> None:
            images = [self.image(jpeg) for _ in range(batch)]
            heads.top(self.engine.from_images(np.stack(images)).pooled_BD)

        return run

    def image(self, jpeg: bytes) -> NDArray[np.float32]:
        return self.preprocess(decode_picture(jpeg, side=self.preprocess.spec.size))[0]

    def parts(self, batch: int) -> dict[str, float]:
        """Milliseconds a frame of each part, for the curious."""
        latents = np.stack([dequantise(self.codec.decode(self.bitstream).symbols, self.point)] * batch)
        images = np.stack([self.image(self.jpeg)] * batch)
        pooled = self.engine.from_latents(latents).pooled_BD
        from_latents = [self.engine.from_latents(latents) for _ in range(ROUNDS_MIN)]
        from_images = [self.engine.from_images(images) for _ in range(ROUNDS_MIN)]
        steps: list[Step] = [
            lambda: self.codec.decode(self.bitstream),
            lambda: self.image(self.jpeg),
            lambda: self.heads.top(pooled),
        ]
        decode, picture, top = (cost.wall_s for cost in in_turns(steps, 1.0))
        a_frame = 1e3 / batch
        return {
            "entropy_decode": 1e3 * decode,
            "jpeg_decode_resize": 1e3 * picture,
            "synthesis": a_frame * statistics.median(f.synthesis_s for f in from_latents),
            "head_part": a_frame * statistics.median(f.synthesis_s for f in from_images),
            "tail": a_frame * statistics.median(f.tail_s for f in from_latents),
            "heads": a_frame * top,
        }


@dataclass(frozen=True)
class Cost:
    """Median seconds of a step: on the clock, and of processor time in all threads (steadier on a shared machine)."""

    wall_s: float
    cpu_s: float


def in_turns(steps: Sequence[Step], seconds: float) -> list[Cost]:
    """Cost of each step; they are run in turns for about `seconds` in all, after one round of warm-up."""
    for step in steps:
        step()
    taken: list[list[tuple[float, float]]] = [[] for _ in steps]
    began = monotonic()
    while monotonic() - began < seconds or len(taken[0]) < ROUNDS_MIN:
        for step, times in zip(steps, taken, strict=True):
            started = monotonic(), time.process_time()
            step()
            times.append((monotonic() - started[0], time.process_time() - started[1]))
    return [Cost(*(statistics.median(column) for column in zip(*times, strict=True))) for times in taken]


def natural_picture(height: int, width: int) -> NDArray[np.uint8]:
    """Coloured noise with a spectrum like that of photographs, so that codecs meet what they are made for."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0

    def plane() -> NDArray[np.float64]:
        noise = np.fft.rfft2(rng.normal(size=(height, width)))
        shaped: NDArray[np.float64] = np.fft.irfft2(noise / frequency**SPECTRUM, s=(height, width))
        return shaped

    grey = plane()
    picture = np.stack([grey + 0.15 * plane() for _ in range(3)], axis=-1)
    scaled = 128 + 50 * (picture - picture.mean()) / picture.std()
    return np.ascontiguousarray(np.clip(scaled, 0, 255).astype(np.uint8))


def describe_machine(threads: int) -> str:
    """Processor, cores and versions, for the table's caption."""
    import onnxruntime

    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    model = names[0] if names else platform.machine()
    return f"{model}, {threads} threads, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def show(console: Console, name: str, figures: dict[str, Any]) -> None:
    """The figures of one engine as tables."""
    heads = Table("heads", "ms a frame", "cpu-ms", title=f"{name}: heads (batch {COMPARED_BATCH})")
    for count, ms in figures["heads"].items():
        heads.add_row(count, f"{ms:.2f}", f"{figures['heads_cpu'][count]:.2f}")
    batches = Table("batch", "frames/s", title="batch size")
    for size, rate in figures["batch"].items():
        batches.add_row(size, f"{rate:.1f}")
    ways = Table("way", "frames/s", "cpu-ms", "latent is", title=f"batch {COMPARED_BATCH}, same engine, in turns")
    latent = f"{figures['latent_frames_per_s']:.1f}", f"{figures['latent_cpu_ms']:.2f}"
    ways.add_row(f"latent ({figures['payload_bytes']} bytes)", *latent)
    for key, what in (("jpeg", f"JPEG q90 {PICTURE[1]}×{PICTURE[0]}"), ("jpeg_square", "JPEG q90 of the square")):
        way = f"{what} ({figures[f'{key}_bytes']} bytes), unmodified"
        ratios = f"{figures[f'latent_over_{key}']:.2f}×, cpu {figures[f'latent_over_{key}_cpu']:.2f}×"
        ways.add_row(way, f"{figures[f'{key}_frames_per_s']:.1f}", f"{figures[f'{key}_cpu_ms']:.2f}", ratios)
    parts = Table("part", "ms a frame", title="parts")
    for part, ms in figures["parts_ms"].items():
        parts.add_row(part, f"{ms:.3f}")
    for table in (heads, batches, ways, parts):
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
