"""`frankenstream tasks test`: a picture through the codec, as an edge would send it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.datasets import read_image
from pipeline.errors import ConfigError
from pipeline.runtime.engines import build_engine
from tasks.head import HeadStack
from tasks.head_file import check_made_for, read_head, read_head_entry
from tasks.store import HeadStore
from tasks.through_codec import CodecRoute


def ask(
    name: str,
    images: Annotated[list[Path], Parameter(negative=())],
    *,
    version: int = 0,
    backbone: str = "",
    bundle: Path | None = None,
    quality: str = "",
    top_k: int = 3,
) -> None:
    """Ask a task of yours about pictures: encoded, decoded and answered as a server would.

    Parameters
    ----------
    name:
        The task.
    images:
        Picture files.
    version:
        Which; the current one if not given.
    backbone:
        Backbone; the first that the task has a head on if not given.
    bundle:
        Bundle folder or .zip; the default one if not given.
    quality:
        Operating point; the bundle's default if not given.
    top_k:
        Labels.
    """
    if not 1 <= top_k <= limits.TOP_K_MAX:
        raise ConfigError(f"top_k is {top_k}, expected 1 to {limits.TOP_K_MAX}")
    console, opened = Console(highlight=False), Bundle.open(bundle)
    files = HeadStore().load(name, version)
    entries = [read_head_entry(one.toml) for one in files]
    tag = opened.backbone(backbone).tag if backbone else entries[0].backbone
    chosen = next((one for one, entry in zip(files, entries, strict=True) if entry.backbone == tag), None)
    if chosen is None:
        raise ConfigError(f"task {name} has no head on {tag}: it has {', '.join(entry.backbone for entry in entries)}")
    check_made_for(read_head_entry(chosen.toml), opened)
    engine = build_engine(opened, tag, backend="onnx", progress=lambda line: console.print(line, style="dim"))
    head = read_head(chosen, backbone=tag, feature_width=engine.feature_width)
    heads = HeadStack([head], backbone=tag, feature_width=engine.feature_width)
    route = CodecRoute(opened, operating_point=quality)
    table = Table("picture", "bytes", "answer", box=None, pad_edge=False)
    for path in images:
        bitstream = route.bitstream(route.encoder.preprocess(read_image(path)))
        features = engine.from_latents(route.latent(bitstream)[None])
        result = heads.top(features.pooled_BD, top_k, feature_BFhw=features.feature_BFhw)[0][0]
        answer = ", ".join(f"{label.name} {label.score:.0%}" for label in result.labels)
        table.add_row(path.name, str(len(bitstream)), answer or result.error)
    console.print(table, markup=False)
