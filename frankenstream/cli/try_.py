"""`frankenstream try`: one image, direct and through the codec."""

from __future__ import annotations

from pathlib import Path

from frankenstream.config import EncoderSettings


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
