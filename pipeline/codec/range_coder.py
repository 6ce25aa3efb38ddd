"""The range coder in Python: the reference that says what the bytes are, and the fallback where no compiler was.

rANS (J. Duda, arXiv:1311.2540; the layout of F. Giesen's `rans_word`): one integer, the state, holds everything coded
so far. Coding a slot of freq f out of M multiplies it by about M / f; when it would grow beyond 32 bits, its low 16
bits leave as a word. It is a stack: the encoder works backwards, so that the decoder comes out forwards. Normative:
docs/protocol.md.

By hand, with a table of M = 8 values: slot a has freq 4 and start 0, b 3 and 4, c 1 and 7. A step is

    x' = (x // freq) * M + start + x % freq        and back: x = freq * (x' // M) + x' % M - start

where x' % M lies in start … start + freq - 1 and so tells the slot. Encode "b a c" from x = 3, the last one first:

    c   x = 3 // 1 * 8 + 7 + 3 % 1 = 31            freq 1 of 8: 3 bits more, x grows about 8 times
    a   x = 31 // 4 * 8 + 0 + 31 % 4 = 59          freq 4 of 8: 1 bit more
    b   x = 59 // 3 * 8 + 4 + 59 % 3 = 158         freq 3 of 8: 1.4 bits more

and decode 158, the first one first:

    158 % 8 = 6: b   x = 3 * (158 // 8) + 6 - 4 = 59
    59 % 8 = 3: a    x = 4 * (59 // 8) + 3 - 0 = 31
    31 % 8 = 7: c    x = 1 * (31 // 8) + 7 - 7 = 3

and x is back at 3, which is how a decoder knows that nothing was damaged: the real coder hides a check in it.

`_range_coder.c` does the same some hundred times faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from pipeline.codec.quantisation import Symbols
from pipeline.limits import SYMBOL_MAGNITUDE_MAX

STATE_LOW: Final = 1 << 16
ESCAPE_LENGTH_BITS: Final = 4
ESCAPE_BITS_MAX: Final = 13
_GOLDEN: Final = 0x9E3779B1
"""A prime near 2^32 / golden ratio: its multiples lie far apart (D. Knuth, TAOCP 6.4)."""
_MIXER: Final = 0x7FEB352D
"""Spreads every bit over the high half: the first factor of C. Wellons's hash lowbias32."""
_MASK: Final = 0xFFFFFFFF

Step = tuple[int, int, int]
"""(start, freq, bits): a slot of a table of 2^bits; raw bits are the slot (value, 1, bits)."""


class DamagedLayer(Exception):
    """A layer's words do not decode. Stays inside the codec."""


def layer_check(symbols_CHW: Symbols, layer: int) -> int:
    """16-bit check of a layer's symbols (int16 [channels, H, W])."""
    flat = symbols_CHW.reshape(-1).astype(np.int64)
    weights = (np.arange(flat.size, dtype=np.uint64) * np.uint64(_GOLDEN) & np.uint64(_MASK)) | np.uint64(1)
    # |symbol · weight| < 2^44 and at most 2^22 symbols: the products are reduced before they are summed.
    products = (flat * weights.astype(np.int64)) & _MASK
    mixed = (_GOLDEN * (layer + 1) + int(products.sum())) & _MASK
    mixed = ((mixed ^ (mixed >> 16)) * _MIXER) & _MASK
    return mixed >> 16


def escape_steps(symbol: int, low: int, count: int) -> list[Step]:
    """Raw bits that follow the escape slot of a table that holds `count` symbols from `low`."""
    value = 2 * (low - 1 - symbol) + 1 if symbol < low else 2 * (symbol - low - count)
    bits = (value + 1).bit_length() - 1
    steps: list[Step] = [(bits, 1, ESCAPE_LENGTH_BITS)]
    if bits:
        steps.append((value + 1 - (1 << bits), 1, bits))
    return steps


def encode_steps(steps: Sequence[Step], check: int) -> bytes:
    """Code a layer's steps (in the decoder's order) into little-endian 16-bit words."""
    x = STATE_LOW + check
    words = []
    for start, freq, bits in reversed(steps):
        if x >= freq << (32 - bits):
            words.append(x & 0xFFFF)
            x >>= 16
        quotient, remainder = divmod(x, freq)
        x = (quotient << bits) + start + remainder
    words += [x >> 16, x & 0xFFFF]
    return np.array(words[::-1], dtype="<u2").tobytes()


class RangeDecoder:
    """Takes slots and raw bits out of one layer's bytes. Raises DamagedLayer instead of reading beyond them."""

    def __init__(self, data: bytes | memoryview) -> None:
        words = np.frombuffer(data, dtype="<u2").tolist()
        if len(words) < 2:
            raise DamagedLayer
        self._x: int = words[0] | words[1] << 16
        if self._x < STATE_LOW:
            raise DamagedLayer
        self._words: list[int] = words
        self._next = 2

    def take_slot(self, slot_of: Sequence[int], starts: Sequence[int], freqs: Sequence[int], precision: int) -> int:
        """A slot number of a table: `slot_of` maps 2^precision values to slots."""
        x = self._x
        value = x & ((1 << precision) - 1)
        slot = slot_of[value]
        x = freqs[slot] * (x >> precision) + value - starts[slot]
        self._x = x if x >= STATE_LOW else self._refill(x)
        return slot

    def take_flag(self, starts: Sequence[int], freqs: Sequence[int], precision: int) -> bool:
        """Whether slot 1 was coded, of a table of two."""
        x = self._x
        value = x & ((1 << precision) - 1)
        flag = value >= starts[1]
        x = freqs[flag] * (x >> precision) + value - starts[flag]
        self._x = x if x >= STATE_LOW else self._refill(x)
        return flag

    def take_bits(self, bits: int) -> int:
        x = self._x
        value = x & ((1 << bits) - 1)
        x >>= bits
        self._x = x if x >= STATE_LOW else self._refill(x)
        return value

    def take_escape(self, low: int, count: int) -> int:
        """The symbol that follows an escape slot."""
        bits = self.take_bits(ESCAPE_LENGTH_BITS)
        if bits > ESCAPE_BITS_MAX:
            raise DamagedLayer
        value = (1 << bits) + self.take_bits(bits) - 1
        symbol = low - 1 - (value >> 1) if value & 1 else low + count + (value >> 1)
        if abs(symbol) > SYMBOL_MAGNITUDE_MAX:
            raise DamagedLayer
        return symbol

    def ended_with(self, check: int) -> bool:
        """All words are taken and the state is the encoder's first one."""
        return self._next == len(self._words) and self._x == STATE_LOW + check

    def _refill(self, x: int) -> int:
        if self._next >= len(self._words):
            raise DamagedLayer
        word = self._words[self._next]
        self._next += 1
        return x << 16 | word
