"""One claim: cutting a frame into layers, so that any prefix decodes, costs few bytes.

    python -m benchmarks.layers --data 'GLOB' [--bundle NAME] [--limit N] [--json FILE]

The bundle's own symbols of each picture, coded with the bundle's own tables in its own layers, and in as few as the
contexts allow (layers that come together have to have the same): real bitstreams with their header, exact bytes. Frames
stand alone. What training for missing layers costs is not seen here.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.evaluation_pictures import read_pictures
from benchmarks.report import report
from pipeline.bundle import Bundle
from pipeline.codec import Contexts, LatentCodec, quantise
from pipeline.errors import ConfigError
from pipeline.runtime.encoder import FrameEncoder, preprocess_spec
from tasks.catalogue import load_catalogue


def main() -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="GLOB", help="tar shards, folders, pictures or videos")
    parser.add_argument("--bundle", type=Path, help="bundle folder or .zip; the default one if not given")
    parser.add_argument("--limit", type=int, default=200, help="this many pictures, evenly spread")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return report(parser.parse_args(), run=run, show=show)


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All figures, ready for JSON. Raises FrankenError."""
    bundle = Bundle.open(options.bundle)
    classes = load_catalogue("imagenet1k").keys  # labels are not looked at, but have to make sense
    spec = preprocess_spec(bundle.edge_spec).evaluation()
    pictures = read_pictures(options.data, spec, classes=classes, limit=options.limit)
    encoder = FrameEncoder(bundle, provider="cpu", precision="fp32")
    latents = [encoder.analyse(encoder.preprocess(square)) for square in pictures.squares_NSS3]
    points = []
    for layers in layer_counts(bundle):
        codec = with_layers(bundle, layers)
        for number, point in enumerate(codec.spec.operating_points):
            sizes = [len(codec.encode(quantise(latent, point), number)) for latent in latents]
            points.append({"operating_point": point.name, "layers": layers, "bytes_mean": mean(sizes)})
    return {"bundle": bundle.bundle_id, "images": len(pictures), "points": points}


def layer_counts(bundle: Bundle) -> list[int]:
    """As few layers as contexts allow, and the bundle's own number."""
    return sorted({len(_runs(bundle)), len(bundle.latent_spec.layers)})


def with_layers(bundle: Bundle, layers: int) -> LatentCodec:
    """The bundle's codec for frames that stand alone, with its channels in ``layers`` layers, the tables untouched.

    Raises ConfigError for other numbers than ``layer_counts`` gives: those would mean other tables.
    """
    codec = bundle.latent_codec()
    if layers == len(codec.spec.layers):
        return codec
    runs = _runs(bundle)
    if layers != len(runs):
        raise ConfigError(f"the bundle's contexts differ between layers: they can be {len(runs)}, not {layers}")
    own = codec.spec.layers
    channels = tuple(sum(own[number] for number in run) for run in runs)
    intra = tuple(codec.spec.contexts.terms("intra", run[0]) for run in runs)
    alone = replace(codec.model, inter=None)
    return LatentCodec(replace(codec.spec, layers=channels, contexts=Contexts(intra=intra)), alone)


def _runs(bundle: Bundle) -> list[list[int]]:
    """The numbers of layers that follow each other and have the same contexts, where frames stand alone."""
    numbers = range(len(bundle.latent_spec.layers))
    return [list(run) for _, run in groupby(numbers, lambda number: bundle.contexts.terms("intra", number))]


def show(console: Console, figures: dict[str, Any]) -> None:
    """A table for people: bytes of each operating point at each number of layers."""
    table = Table(title=f"{figures['images']} pictures, mean bytes a frame")
    names = list(dict.fromkeys(point["operating_point"] for point in figures["points"]))
    table.add_column("layers", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for layers in dict.fromkeys(point["layers"] for point in figures["points"]):
        row = [point["bytes_mean"] for point in figures["points"] if point["layers"] == layers]
        table.add_row(str(layers), *(f"{size:,.0f}" for size in row))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
