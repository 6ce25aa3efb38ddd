"""The reference coder, step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.codec import range_coder
from pipeline.codec.range_coder import DamagedLayer, RangeDecoder, encode_steps, escape_steps, layer_check

FREQS, STARTS = [3000, 1000, 96], [0, 3000, 4000]
SLOT_OF = bytes([0] * 3000 + [1] * 1000 + [2] * 96)


def encode(slots: list[int], check: int = 0) -> bytes:
    return encode_steps([(STARTS[slot], FREQS[slot], 12) for slot in slots], check)


def test_the_worked_example_counts_right():
    """The lines in the module's text, worked out again."""
    text = " ".join((range_coder.__doc__ or "").split())
    slots = {"a": (4, 0), "b": (3, 4), "c": (1, 7)}
    x = 3
    for name in "cab":
        freq, start = slots[name]
        line = f"{name} x = {x} // {freq} * 8 + {start} + {x} % {freq} ="
        x = x // freq * 8 + start + x % freq
        assert f"{line} {x} " in text
    for name in "bac":
        freq, start = slots[name]
        line = f"{x} % 8 = {x % 8}: {name} x = {freq} * ({x} // 8) + {x % 8} - {start} ="
        x = freq * (x // 8) + x % 8 - start
        assert f"{line} {x} " in text
    assert x == 3


def test_no_step_is_just_the_start_state():
    assert encode([], 0x1234).hex() == "34120100"


def test_a_step_by_hand():
    # x = 65536: 65536 // 1000 = 65, remainder 536; 65 * 4096 + 3000 + 536 = 269776 = 0x41DD0
    assert encode([1]).hex() == "d01d0400"


def test_slots_come_back_and_the_state_ends_where_it_began():
    slots = np.random.default_rng(0).choice(3, size=5000, p=np.array(FREQS) / 4096).tolist()
    decoder = RangeDecoder(encode(slots, 777))
    assert slots == [decoder.take_slot(SLOT_OF, STARTS, FREQS, 12) for _ in slots]
    assert decoder.ended_with(777)
    assert not decoder.ended_with(776)


def test_a_flag_is_a_slot_of_a_table_of_two():
    starts, freqs = [0, 3000], [3000, 1096]
    flags = np.random.default_rng(2).random(5000) < 0.3
    data = encode_steps([(starts[flag], freqs[flag], 12) for flag in flags.astype(int)], 0)
    decoder, tables = RangeDecoder(data), RangeDecoder(data)
    assert flags.tolist() == [decoder.take_flag(starts, freqs, 12) for _ in flags]
    assert flags.tolist() == [tables.take_slot(bytes(3000) + bytes([1] * 1096), starts, freqs, 12) for _ in flags]
    assert decoder.ended_with(0)


def test_the_rate_is_the_entropy():
    slots = np.random.default_rng(1).choice(3, size=20_000, p=np.array(FREQS) / 4096).tolist()
    ideal = sum(math.log2(4096 / FREQS[slot]) for slot in slots) / 8
    assert len(encode(slots)) == pytest.approx(ideal, abs=5)


@pytest.mark.parametrize("symbol", [-4095, -10, -3, 3, 4, 5, 100, 4095])
def test_escapes_come_back(symbol):
    decoder = RangeDecoder(encode_steps(escape_steps(symbol, -2, 5), 5))
    assert symbol == decoder.take_escape(-2, 5)
    assert decoder.ended_with(5)


def test_the_nearest_escapes_cost_4_bits():
    assert escape_steps(3, -2, 5) == [(0, 1, 4)]
    assert escape_steps(-3, -2, 5) == [(1, 1, 4), (0, 1, 1)]


def test_escapes_beyond_the_largest_magnitude_are_damage():
    for steps in ([(14, 1, 4)], [(13, 1, 4), (8191, 1, 13)]):
        with pytest.raises(DamagedLayer):
            RangeDecoder(encode_steps(steps, 0)).take_escape(0, 1)


@pytest.mark.parametrize("data", [b"", b"\1\0", b"\xff\xff\0\0"])
def test_streams_without_a_sound_state_are_damage(data):
    with pytest.raises(DamagedLayer):
        RangeDecoder(data)


def test_reading_beyond_the_end_is_damage():
    decoder = RangeDecoder(encode([2] * 10))
    with pytest.raises(DamagedLayer):
        list(iter(lambda: decoder.take_slot(SLOT_OF, STARTS, FREQS, 12), None))


def test_the_check_sees_every_symbol_and_the_layer():
    symbols = np.zeros((2, 5, 5), np.int16)
    before = layer_check(symbols, 0)
    assert before != layer_check(symbols, 1)
    for place in np.ndindex(symbols.shape):
        symbols[place] = 1
        assert before != layer_check(symbols, 0)
        symbols[place] = 0
