"""Parity parts: what makes up for parts of a frame that get lost, and how many of them are worth their bytes. Pure.

Repeating a part helps if just that part is lost; a parity part makes up for any one. With r of them a frame is whole as
soon as any `parts` of its `parts + r` messages are here, without a round trip. The code is that of RAID with up to
three check disks (H. P. Anvin, "The mathematics of RAID-6"): over GF(256), with the generator 2,

    parity part k = Σ 2^(k·i) · block i        block i: length of part i (2 bytes, little-endian), its bytes, zeros

so the first one is the plain XOR. Every square piece of that matrix can be inverted for k ≤ 2 and i < 255.
Normative: docs/protocol.md, "Parity".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from pipeline import limits
from pipeline.errors import RemoteProtocolError

LENGTH_BYTES: Final = 2
PART_BYTES_MAX: Final = 0xFFFF
"""Longest part that can be made up for."""
WORTH: Final = 0.015
"""One more parity part must bring so much more of the frames over, as a share."""
_POLYNOMIAL: Final = 0x11D


# --- The code ------------------------------------------------------------------------------------------------


def parity_of(parts: Sequence[bytes], count: int) -> list[bytes]:
    """The first `count` parity parts of a frame's `parts`, each LENGTH_BYTES longer than the longest part."""
    blocks = _blocks(dict(enumerate(parts)), LENGTH_BYTES + max(map(len, parts)))
    return [_combined(blocks, row) for row in range(count)]


def restored(parts: int, here: Mapping[int, bytes], parity: Mapping[int, bytes]) -> list[bytes] | None:
    """All `parts` parts, from those that are `here` and parity parts by number from 0; None if there are too few.

    Raises RemoteProtocolError if the parity is not that of the parts.
    """
    missing = [part for part in range(parts) if part not in here]
    if not missing:
        return [here[part] for part in range(parts)]
    if len(missing) > len(parity):
        return None
    rows = sorted(parity)[: len(missing)]
    size = len(parity[rows[0]])
    if any(len(parity[row]) != size for row in rows) or any(LENGTH_BYTES + len(part) > size for part in here.values()):
        raise RemoteProtocolError(f"parity parts of {size} bytes do not fit the parts of their frame")
    blocks = _blocks(here, size)
    sums = [_xor(parity[row], _combined(blocks, row)) for row in rows]
    solved = _solved([[_power(row * part) for part in missing] for row in rows], sums)
    whole = {**here, **{part: _unblocked(block) for part, block in zip(missing, solved, strict=True)}}
    return [whole[part] for part in range(parts)]


def _blocks(parts: Mapping[int, bytes], size: int) -> dict[int, bytes]:
    return {i: (len(part).to_bytes(LENGTH_BYTES, "little") + part).ljust(size, b"\0") for i, part in parts.items()}


def _unblocked(block: bytes) -> bytes:
    end = LENGTH_BYTES + int.from_bytes(block[:LENGTH_BYTES], "little")
    if end > len(block) or block[end:].strip(b"\0"):
        raise RemoteProtocolError(f"parity of {len(block)} bytes gives no part: it is not that of its frame")
    return block[LENGTH_BYTES:end]


def _combined(blocks: Mapping[int, bytes], row: int) -> bytes:
    """Σ 2^(row·i) · block i."""
    total, size = 0, 0
    for part, block in blocks.items():
        size = len(block)
        total ^= int.from_bytes(_times(_power(row * part), block), "little")
    return total.to_bytes(size, "little")


def _solved(matrix: list[list[int]], sums: list[bytes]) -> list[bytes]:
    """x of matrix · x = sums, by elimination; the matrix can be inverted."""
    count = len(sums)
    for column in range(count):
        pivot = next(row for row in range(column, count) if matrix[row][column])
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        sums[column], sums[pivot] = sums[pivot], sums[column]
        inverse = _power(255 - _log(matrix[column][column]))
        matrix[column] = list(_times(inverse, bytes(matrix[column])))
        sums[column] = _times(inverse, sums[column])
        for row in range(count):
            factor = matrix[row][column]
            if row != column and factor:
                matrix[row] = list(_xor(bytes(matrix[row]), _times(factor, bytes(matrix[column]))))
                sums[row] = _xor(sums[row], _times(factor, sums[column]))
    return sums


def _xor(one: bytes, other: bytes) -> bytes:
    both = int.from_bytes(one, "little") ^ int.from_bytes(other.ljust(len(one), b"\0"), "little")
    return both.to_bytes(len(one), "little")


@lru_cache(maxsize=1)
def _powers() -> bytes:
    """2^0 … 2^254 in GF(256)."""
    value, powers = 1, bytearray()
    for _ in range(255):
        powers.append(value)
        value = value << 1 ^ (_POLYNOMIAL if value & 0x80 else 0)
    return bytes(powers)


def _power(exponent: int) -> int:
    return _powers()[exponent % 255]


@lru_cache(maxsize=256)
def _log(value: int) -> int:
    return _powers().index(value)


@lru_cache(maxsize=256)
def _table(factor: int) -> bytes:
    return bytes([0] + [_power(_log(factor) + _log(value)) for value in range(1, 256)])


def _times(factor: int, data: bytes) -> bytes:
    return data if factor == 1 else data.translate(_table(factor))


# --- How many ------------------------------------------------------------------------------------------------


def parity_worth(
    parts: int, loss: float, room: float = math.inf, count_max: int = limits.FRAME_PARITY_PARTS_MAX
) -> int:
    """How many parity parts a frame of `parts` parts should have where the share `loss` of all parts gets lost.

    `room`: how many such frames without parity the link takes in the time of one. Where it takes no more than that,
    parity costs other frames, so what counts is how many come over whole: (frames that fit) · (share that is whole).
    """
    count, value = 0, whole_share(parts, 0, loss) * min(1.0, room)
    while count < count_max:
        more = whole_share(parts, count + 1, loss) * min(1.0, room * parts / (parts + count + 1))
        if more < value * (1 + WORTH):
            break
        count, value = count + 1, more
    return count


def whole_share(parts: int, parity: int, loss: float) -> float:
    """Share of frames of which at most `parity` of the `parts + parity` messages get lost, each by itself."""
    total = parts + parity
    return sum(math.comb(total, lost) * loss**lost * (1 - loss) ** (total - lost) for lost in range(parity + 1))
