"""`frankenstream try IMAGE`: one picture, three ways, side by side.

    direct     the unmodified backbone on the picture
    codec      what a server answers for the same picture as a frame: encoder, bitstream, decoder, the backbone's tail
    JPEG       the best JPEG that is no larger than that bitstream, through the unmodified backbone

All three see the same square. The codec shows what the method costs, the JPEG what its bytes would buy otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.datasets import decode_image, read_image
from pipeline.errors import ConfigError, EngineError, FrankenError
from pipeline.runtime.encoder import FrameEncoder
from pipeline.runtime.engine import Engine
from pipeline.runtime.engines import build_engine
from pipeline.wire.messages import TaskResult
from tasks import HeadStack, bundle_heads
from tasks.through_codec import CodecRoute

Pixels = NDArray[np.uint8]

JPEG_SIDES = (1.0, 0.75, 0.5, 0.375, 0.25)
"""Scales that the JPEG may be sent at; it is enlarged again before the backbone."""
JPEG_QUALITIES = range(1, 96)


@dataclass(frozen=True)
class JpegFit:
    """The JPEG that was found: its bytes, quality, side in pixels, and its likeness to the original in dB."""

    payload_bytes: int
    quality: int
    side: int
    psnr_db: float


@dataclass(frozen=True)
class Way:
    """One way of looking at the picture: bytes sent, and the labels of each task (name, score), best first."""

    name: str
    payload_bytes: int
    tasks: dict[str, list[tuple[str, float]]]
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TryReport:
    """What `frankenstream try` shows; `as_dict` for `--json`."""

    image: str
    width: int
    height: int
    backbone: str
    bundle_id: str
    operating_point: str
    coder: str
    encoder: str
    direct: Way
    codec: Way
    jpeg: Way | None
    jpeg_fit: JpegFit | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def try_image(
    path: str | Path,
    *,
    bundle: Bundle | str | Path | None = None,
    backbone: str = "",
    quality: str = "",
    tasks: Sequence[str] = (),
    top_k: int = 3,
    backend: str = "auto",
    provider: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> TryReport:
    """Label the picture at `path` directly, through the codec, and from a JPEG of the same size.

    `bundle`: opened, a path, or None for the default; `backbone`: tag or alias; `quality`: an operating point; empty:
    the bundle's default. `backend` is the engine's; `provider`, `precision`, `threads` the encoder's. Raises
    InputError, BundleError, ConfigError or EngineError, one line each.
    """
    pixels = read_image(path)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    say = progress or (lambda line: None)
    encoder = FrameEncoder(opened, provider=provider, precision=precision, threads=threads, progress=say)
    route = CodecRoute(opened, operating_point=quality, encoder=encoder)
    engine = build_engine(opened, backbone, backend=backend, progress=progress)
    return compare_ways(str(path), pixels, opened, route, engine, tasks=tasks, top_k=top_k)


def compare_ways(
    name: str,
    pixels: Pixels,
    bundle: Bundle,
    route: CodecRoute,
    engine: Engine,
    *,
    tasks: Sequence[str] = (),
    top_k: int = 3,
) -> TryReport:
    """The comparison itself, on what is already loaded."""
    if not 1 <= top_k <= limits.TOP_K_MAX:
        raise ConfigError(f"top_k is {top_k}, expected 1 to {limits.TOP_K_MAX}")
    heads = HeadStack(bundle_heads(bundle, engine), backbone=engine.backbone, feature_width=engine.feature_width)
    wanted = _wanted(tasks, heads)
    image_13SS = route.encoder.preprocess(pixels)
    bitstream = route.bitstream(image_13SS)
    square = np.rint(image_13SS[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    found = best_jpeg(square, len(bitstream))

    def way(title: str, payload_bytes: int, pooled: NDArray[np.float32]) -> Way:
        return _way(title, payload_bytes, heads.top(pooled, top_k, [wanted])[0])

    jpeg = None
    if found is not None:
        jpeg_13SS = found[1].transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
        jpeg = way("JPEG", found[0].payload_bytes, engine.from_images(jpeg_13SS).pooled_BD)
    return TryReport(
        image=name,
        width=int(pixels.shape[1]),
        height=int(pixels.shape[0]),
        backbone=engine.backbone,
        bundle_id=bundle.bundle_id,
        operating_point=route.operating_point,
        coder=route.codec.coder,
        encoder=route.encoder.describe(),
        direct=way("direct", square.size, engine.from_images(image_13SS).pooled_BD),
        codec=way("codec", len(bitstream), engine.from_latents(route.latent(bitstream)[None]).pooled_BD),
        jpeg=jpeg,
        jpeg_fit=found[0] if found else None,
    )


def best_jpeg(square: Pixels, bytes_max: int) -> tuple[JpegFit, Pixels] | None:
    """The JPEG of `square` (S, S, 3) with the highest PSNR among those of at most `bytes_max`, and its decoded pixels.

    Sizes JPEG_SIDES and all qualities are tried, with optimised Huffman tables. None: not even the smallest fits.
    """
    image = _pillow_image()
    side = square.shape[0]
    original = image.fromarray(square)
    best: tuple[JpegFit, Pixels] | None = None
    for scale in JPEG_SIDES:
        small_side = max(8, round(side * scale))
        small = original.resize((small_side, small_side), image.Resampling.LANCZOS) if scale < 1 else original
        found = _largest_quality(small, bytes_max)
        if found is None:
            continue
        quality, data = found
        decoded = image.fromarray(decode_image(data, name="JPEG"))
        pixels = np.asarray(decoded.resize((side, side), image.Resampling.BICUBIC) if scale < 1 else decoded)
        fit = JpegFit(len(data), quality, small_side, _psnr(square, pixels))
        if best is None or fit.psnr_db > best[0].psnr_db:
            best = fit, pixels
    return best


def print_report(report: TryReport, console: Console) -> None:
    """The comparison for people."""
    ways = [report.direct, report.codec, *([report.jpeg] if report.jpeg else [])]
    table = Table(
        title=f"{escape(report.image)} ({report.width}×{report.height}) on {report.backbone}", title_justify="left"
    )
    table.add_column("task")
    for heading in _headings(report):
        table.add_column(heading)
    for task in report.direct.tasks:
        best = report.direct.tasks[task][:1]
        table.add_row(task, *(_cell(way, task, best) for way in ways), end_section=True)
    console.print(table)
    raw = report.direct.payload_bytes
    share = raw / report.codec.payload_bytes
    console.print(
        f"{report.codec.payload_bytes} bytes a frame at quality {report.operating_point} ({share:.0f} times less than "
        f"raw pixels, {raw} bytes), {report.coder} coder, encoder {report.encoder}"
    )
    if report.jpeg_fit:
        fit = report.jpeg_fit
        console.print(
            f"JPEG at the same bytes: quality {fit.quality} at {fit.side}×{fit.side}, {fit.payload_bytes} bytes, "
            f"PSNR {fit.psnr_db:.1f} dB"
        )
    else:
        console.print(
            f"No JPEG fits into {report.codec.payload_bytes} bytes, not even at quality 1, a quarter of the side."
        )


def _headings(report: TryReport) -> list[str]:
    headings = ["direct", f"codec, {report.codec.payload_bytes} bytes"]
    if report.jpeg:
        headings.append(f"JPEG, {report.jpeg.payload_bytes} bytes")
    return headings


def _cell(way: Way, task: str, best: list[tuple[str, float]]) -> str:
    """Labels of one task; green where the best one is that of the unmodified backbone."""
    if task in way.errors:
        return f"[red]{escape(way.errors[task])}[/]"
    lines = [f"{escape(label)} {score:.0%}" for label, score in way.tasks.get(task, [])]
    if lines:
        same = best and way.tasks[task][0][0] == best[0][0]
        lines[0] = f"[bold {'green' if same else 'yellow'}]{lines[0]}[/]"
    return "\n".join(lines)


def _wanted(tasks: Sequence[str], heads: HeadStack) -> list[str]:
    unknown = [task for task in tasks if task not in heads.names]
    if unknown:
        raise ConfigError(f"no task {unknown[0]!r} on {heads.backbone}: choose from {', '.join(heads.names)}")
    return list(tasks) or list(heads.names)


def _way(name: str, payload_bytes: int, results: list[TaskResult]) -> Way:
    labels = {result.task: [(label.name, label.score) for label in result.labels] for result in results}
    errors = {result.task: result.error for result in results if result.error}
    return Way(name, payload_bytes, labels, errors)


def _largest_quality(image: Any, bytes_max: int) -> tuple[int, bytes] | None:
    """The highest quality whose JPEG of `image` is at most `bytes_max`, by bisection (size grows with quality)."""
    low, high = JPEG_QUALITIES.start, JPEG_QUALITIES.stop - 1
    found: tuple[int, bytes] | None = None
    while low <= high:
        quality = (low + high) // 2
        data = _jpeg(image, quality)
        if len(data) <= bytes_max:
            found, low = (quality, data), quality + 1
        else:
            high = quality - 1
    return found


def _jpeg(image: Any, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True, subsampling="4:2:0")
    return stream.getvalue()


def _psnr(one: Pixels, other: Pixels) -> float:
    error = float(np.square(one.astype(np.float32) - other.astype(np.float32)).mean())
    return 99.0 if error == 0 else min(99.0, 10 * float(np.log10(255 * 255 / error)))


def _pillow_image() -> Any:
    try:
        from PIL import Image
    except ImportError:
        error: FrankenError = EngineError("the JPEG comparison needs Pillow: pip install 'frankenstream[server]'")
        raise error from None
    return Image
