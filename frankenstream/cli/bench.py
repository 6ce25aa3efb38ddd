"""`frankenstream bench`: what this device can do. The documentation's claims come from `python -m benchmarks.…`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cyclopts import App
from rich.console import Console
from rich.table import Table

from edge_node import open_source
from pipeline.bundle import Bundle
from pipeline.codec import quantise
from pipeline.runtime.encoder import FrameEncoder
from recordings.samples import sample_path

app = App(name="bench", help="Measure this device.")

REPEATS = 50


@app.command
def device(*, bundle: Path | None = None, threads: int = 1) -> None:
    """Measure the encoder's forms and the entropy coder on this device, and say what the edge would choose.

    Parameters
    ----------
    bundle:
        Bundle folder or .zip; the default one if not given.
    threads:
        Threads of the encoder.
    """
    console = Console(highlight=False)
    opened = Bundle.open(bundle)
    encoder = FrameEncoder(opened, threads=threads)
    pixels = next(iter(open_source(str(sample_path()))))[0]
    codec = opened.latent_codec()
    index = opened.edge_spec.operating_point_index()
    point = opened.latent_spec.operating_points[index]
    image = encoder.preprocess(pixels)
    symbols = quantise(encoder.analyse(image), point)
    payload = codec.encode(symbols, index)

    table = Table("step", "median ms", box=None, pad_edge=False)
    table.add_row(
        f"preprocess {pixels.shape[1]}×{pixels.shape[0]} → {encoder.spec.size}",
        _median_ms(lambda: encoder.preprocess(pixels)),
    )
    table.add_row("analysis", _median_ms(lambda: encoder.analyse(image)))
    table.add_row(
        "quantise and entropy encode",
        _median_ms(
            lambda: codec.encode(quantise(encoder.analyse(image), point), index), minus=lambda: encoder.analyse(image)
        ),
    )
    table.add_row(f"entropy decode ({len(payload)} bytes)", _median_ms(lambda: codec.decode(payload)))
    console.print(table)
    console.print("\nforms of the encoder, measured at start:")
    for candidate in encoder.candidates:
        mark = "→" if candidate == encoder.chosen else " "
        console.print(f" {mark} {candidate.name}  {'-' if candidate.ms is None else f'{candidate.ms:.2f} ms'}")
    console.print(f"\nthe edge would use: {encoder.describe()}; entropy coder: {codec.coder}")


def _median_ms(run: Callable[[], object], *, minus: Callable[[], object] | None = None) -> str:
    took = _median_s(run) - (_median_s(minus) if minus else 0.0)
    return f"{1e3 * max(took, 0.0):.3f}"


def _median_s(run: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return float(np.median(times))
