"""A stable split of any data set into two halves, so that tuning and reporting use different pictures."""

from __future__ import annotations

import hashlib

HALVES = ("all", "even", "odd")


def in_half(name: str, half: str) -> bool:
    """Whether the file name's hash falls into the ``even`` or ``odd`` half; ``all`` takes everything."""
    return half == "all" or (hashlib.sha256(name.encode()).digest()[0] % 2 == 0) == (half == "even")
