"""Where a frame is cut into parts. Pure.

Without parity a lost part costs the layers from there on, so cuts lie at ends of layers where that takes no part more.
With parity all parts have the same size, which makes the parity smallest.
"""

from __future__ import annotations

from itertools import accumulate

from pipeline import limits
from pipeline.codec.bitstream import parse_header
from pipeline.errors import BitstreamError


def parts_of(payload_bytes: int, part_bytes: int) -> int:
    """How many parts of at most `part_bytes` bytes (more, if there would be too many) a frame has."""
    return max(1, -(-payload_bytes // _size(payload_bytes, part_bytes)))


def cut(payload: bytes, part_bytes: int, *, at_layers: bool) -> list[bytes]:
    """`parts_of` many pieces. What is no bitstream is cut evenly."""
    size = _size(len(payload), part_bytes)
    ends = layer_ends(payload) if at_layers else []
    pieces, start = [], 0
    for left in range(parts_of(len(payload), part_bytes), 0, -1):
        rest = len(payload) - start
        least = rest - (left - 1) * size  # the others must hold what remains
        fitting = [end - start for end in ends if max(1, least) <= end - start <= size]
        length = rest if left == 1 else max(fitting, default=-(-rest // left))
        pieces.append(payload[start : start + length])
        start += length
    return pieces


def layer_ends(payload: bytes) -> list[int]:
    """Where each layer of a bitstream ends; nothing, if it is none."""
    try:
        header, start = parse_header(payload)
    except BitstreamError:
        return []
    return [start + 2 * words for words in accumulate(header.lengths)]


def holds_a_layer(prefix: bytes) -> bool:
    """Whether anything decodes of the first bytes of a frame. What is no bitstream is the decoder's to judge."""
    ends = layer_ends(prefix)
    return not ends or len(prefix) >= ends[0]


def _size(payload_bytes: int, part_bytes: int) -> int:
    return max(part_bytes, -(-payload_bytes // limits.FRAME_PARTS_MAX))
