"""What `POST /api/v1/captures` answers, read again: features of a live session's frames and what they came through."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from tasks.example_store import Origin

Float32 = NDArray[np.float32]


def read_capture(data: bytes) -> tuple[Float32, Origin]:
    """(features (M, D), origin). Raises InputError for anything else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        pooled_MD = load(data)["pooled"].astype(np.float32)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        if pooled_MD.ndim != 2 or not len(pooled_MD) or not np.isfinite(pooled_MD).all():
            raise ValueError(f"pooled is {pooled_MD.shape} or not finite")
        width = int(pooled_MD.shape[1])
        return pooled_MD, Origin(header["backbone"], header["codec_id"], header["synthesis_sha256"], width)
    except (SafetensorError, KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{len(data)} bytes are no capture ({error}): capture again") from None
