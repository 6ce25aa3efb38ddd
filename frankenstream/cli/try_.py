"""`frankenstream try`: one image, direct and through the codec."""

from __future__ import annotations

from rich.console import Console

from frankenstream.config import EncoderSettings, names
from frankenstream.try_image import print_report, try_image


def command(
    image: str,
    *,
    tasks: str = "",
    backbone: str = "",
    backend: str = "auto",
    top_k: int = 3,
    encoder: EncoderSettings | None = None,
) -> None:
    """Label one image directly and through the codec, side by side, with JPEG at the same bytes.

    Parameters
    ----------
    image:
        Image file.
    tasks:
        Tasks, comma separated; all if not given.
    backbone:
        Backbone; the bundle's default if not given.
    backend:
        Engine: auto, onnx or torch.
    top_k:
        Labels per task.
    """
    settings = encoder or EncoderSettings()
    console = Console()
    report = try_image(
        image,
        bundle=settings.bundle,
        backbone=backbone,
        quality=settings.quality,
        tasks=list(names(tasks)),
        top_k=top_k,
        backend=backend,
        provider=settings.provider,
        precision=settings.precision,
        threads=settings.threads,
        progress=lambda line: console.print(line, markup=False),
    )
    print_report(report, console)
