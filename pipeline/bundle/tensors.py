"""The arrays of a task head: `weight` (N, D) and `bias` (N,) in a safetensors file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BundleError

Float32 = NDArray[np.float32]


def head_arrays(data: bytes, *, shape: tuple[int, int], path: str) -> tuple[Float32, Float32]:
    """`weight` of `shape` (classes, features) and `bias` as float32. Raises BundleError if they do not read or fit."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
        weight, bias = arrays["weight"], arrays["bias"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{path} does not read: {error}: make the head again") from None
    if weight.shape != shape or bias.shape != shape[:1]:
        raise BundleError(
            f"{path}: weight {weight.shape} and bias {bias.shape} do not fit {shape[0]} classes and "
            f"{shape[1]} features: make the head for this backbone"
        )
    return weight.astype(np.float32), bias.astype(np.float32)
