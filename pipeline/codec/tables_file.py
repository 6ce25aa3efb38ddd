"""How the tables lie in `edge/tables.msgpack` (docs/protocol.md, "Tables file"): msgpack, little-endian arrays."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BundleError

FORMAT: Final = 1
FORMAT_PLACES: Final = 2
"""Of tables whose inter set has freqs of places."""
TABLES_FILE_BYTES_MAX: Final = 16_777_216
"""Largest tables file, in bytes."""


class SetFile(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One context set."""

    contexts: bytes
    index: bytes
    skip: bytes
    places: bytes = b""


class TablesFile(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    format: int
    precision: int
    points: int
    channels: int
    fill: bytes
    low: bytes
    size: bytes
    freq: bytes
    intra: SetFile
    inter: SetFile | None


def read_file(data: bytes | memoryview) -> TablesFile:
    """Raises BundleError if it is too large, does not parse or has a format of the future."""
    if len(data) > TABLES_FILE_BYTES_MAX:
        raise BundleError(f"tables file is {len(data)} bytes, limit {TABLES_FILE_BYTES_MAX}: use fewer contexts")
    try:
        file = msgspec.msgpack.decode(data, type=TablesFile)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BundleError(f"tables file of {len(data)} bytes does not parse: {error}; fetch the bundle again") from None
    if file.format not in (FORMAT, FORMAT_PLACES):
        raise BundleError(
            f"tables file has format {file.format}, this version reads {FORMAT} and {FORMAT_PLACES}: "
            "update FrankenStream"
        )
    if (file.format == FORMAT_PLACES) != bool(file.inter is not None and file.inter.places):
        raise BundleError(f"tables file has format {file.format} and its inter set does not fit that: fetch it again")
    return file


def pack(array: NDArray[Any], dtype: str) -> bytes:
    return array.astype(dtype).tobytes()


def unpack(data: bytes, dtype: str, target: type[np.generic], what: str) -> NDArray[Any]:
    """Raises BundleError if `data` is no whole number of items."""
    if len(data) % np.dtype(dtype).itemsize:
        raise BundleError(f"tables file: {what} has {len(data)} bytes, no whole numbers: fetch the bundle again")
    return np.frombuffer(data, dtype=dtype).astype(target)
