"""Layers in Python: the reference for `_range_coder.c`, and what takes over where that could not be built."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec import range_coder
from pipeline.codec.bitstream import LAYERS_BYTES_MAX
from pipeline.codec.coding_plan import CodingPlan
from pipeline.codec.contexts import (
    Term,
    coding_order,
    context_values,
    earlier_changes,
    has_changes,
    has_checkerboard,
    previous_term,
)
from pipeline.codec.places import Places, place_contexts, refreshed_places
from pipeline.codec.quantisation import Symbols
from pipeline.codec.range_coder import DamagedLayer, RangeDecoder, Step
from pipeline.errors import BitstreamError
from pipeline.limits import SYMBOL_MAGNITUDE_MAX


class PythonCoder:
    """Codes layers by plan. Without state of its own, so safe to share between threads."""

    name: Final = "python"

    def prepare(self, plan: CodingPlan) -> CodingPlan:
        """What the other methods take as `plan`."""
        return plan

    def encode(
        self, plan: CodingPlan, symbols_CHW: Symbols, reference: Symbols | None, layers: int
    ) -> tuple[list[int], bytes]:
        """(words of each layer, their bytes in a row). Raises BitstreamError if symbols or bytes are too large."""
        check_range(symbols_CHW[: plan.layer_first[layers]])
        places = _places(plan, layers, symbols_CHW, reference)
        parts = [_encode_layer(plan, layer, symbols_CHW, reference, places) for layer in range(layers)]
        payload = b"".join(parts)
        if len(payload) > LAYERS_BYTES_MAX:
            raise too_many_bytes()
        return [len(part) // 2 for part in parts], payload

    def decode(
        self,
        plan: CodingPlan,
        payload: memoryview,
        lengths: Sequence[int],
        reference: Symbols | None,
        symbols_CHW: Symbols,
    ) -> int:
        """Decode into `symbols_CHW` (fill where layers are missing). Returns the number of good layers, a prefix."""
        good = 0
        places: Places | None = None
        for layer, words in enumerate(lengths):
            part, payload = payload[: 2 * words], payload[2 * words :]
            try:
                if len(part) < 2 * words:
                    raise DamagedLayer
                places = _decode_layer(plan, layer, part, reference, symbols_CHW, places)
            except DamagedLayer:
                break
            good += 1
        missing = int(plan.layer_first[good])
        symbols_CHW[missing:] = plan.fill[missing:, None, None]
        return good

    def estimate(self, plan: CodingPlan, symbols_CHW: Symbols, reference: Symbols | None, layers: int) -> list[float]:
        """Bits of each layer, without the coder's state."""
        check_range(symbols_CHW[: plan.layer_first[layers]])
        places = _places(plan, layers, symbols_CHW, reference)
        costs = []
        for layer in range(layers):
            steps = _layer_steps(plan, layer, symbols_CHW, reference, places)
            costs.append(sum(_cost(freq, bits) for _, freq, bits in steps or ()) / 65_536)
        return costs


def check_range(symbols_CHW: Symbols) -> None:
    """Raise BitstreamError for symbols beyond ±SYMBOL_MAGNITUDE_MAX."""
    largest = int(np.abs(symbols_CHW.astype(np.int32)).max(initial=0))
    if largest > SYMBOL_MAGNITUDE_MAX:
        raise BitstreamError(f"a symbol has magnitude {largest}, limit {SYMBOL_MAGNITUDE_MAX}: clip as quantise() does")


def too_many_bytes() -> BitstreamError:
    return BitstreamError(
        f"the frame needs more than {LAYERS_BYTES_MAX} bytes: take a lower operating point or fewer layers"
    )


def _places(plan: CodingPlan, layers: int, symbols_CHW: Symbols, reference: Symbols | None) -> Places | None:
    """The map of places of a frame of which `layers` layers are sent; None: it has none."""
    if plan.place_slot < 0 or reference is None:
        return None
    channels = int(plan.layer_first[layers])
    return refreshed_places(symbols_CHW[:channels], reference[:channels])


def _encode_layer(
    plan: CodingPlan, layer: int, symbols_CHW: Symbols, reference: Symbols | None, places: Places | None
) -> bytes:
    steps = _layer_steps(plan, layer, symbols_CHW, reference, places)
    if steps is None:
        return b""
    channels = plan.channel_range(layer)
    return range_coder.encode_steps(steps, range_coder.layer_check(symbols_CHW[channels.start : channels.stop], layer))


def _layer_steps(
    plan: CodingPlan, layer: int, symbols_CHW: Symbols, reference: Symbols | None, places: Places | None
) -> list[Step] | None:
    """A layer's steps in the decoder's order; None if the whole layer is its prediction and holds no map."""
    steps: list[Step] = []
    all_predicted = True
    if layer == 0 and places is not None and places.any():
        all_predicted = False
        flags = 2 * place_contexts(places) + places
        steps += [_slot_step(plan, plan.place_slot + flag) for flag in flags.reshape(-1).tolist()]
    for channel in plan.channel_range(layer):
        predicted = bool((symbols_CHW[channel] == prediction(plan, channel, reference)).all())
        all_predicted &= predicted
        if plan.skip_slot[channel] >= 0:
            steps.append(_slot_step(plan, int(plan.skip_slot[channel]) + predicted))
            if predicted:
                continue
        steps += _channel_steps(plan, layer, channel, symbols_CHW, reference, places)
    return None if all_predicted else steps


def _channel_steps(
    plan: CodingPlan,
    layer: int,
    channel: int,
    symbols_CHW: Symbols,
    reference: Symbols | None,
    places: Places | None,
) -> list[Step]:
    symbols_HW = symbols_CHW[channel]
    order, context = _order_and_context(plan, layer, channel, symbols_HW, symbols_CHW, reference)
    if places is not None:
        order = order[places.reshape(-1)[order]]
    refs = plan.tables[int(plan.context_first[channel]) + context.reshape(-1)[order]]
    ordered = symbols_HW.reshape(-1)[order].astype(np.int64)
    slot = ordered - refs["low"]
    escaped = (slot < 0) | (slot >= refs["count"])
    slot = np.where(escaped, refs["count"], slot) + refs["first"]
    bits = plan.slots.precision
    steps: list[Step] = [
        (start, freq, bits)
        for start, freq in zip(plan.slots.start[slot].tolist(), plan.slots.freq[slot].tolist(), strict=True)
    ]
    with_escapes: list[Step] = []
    done = 0
    for place in np.flatnonzero(escaped).tolist():
        with_escapes += steps[done : place + 1]
        low, count = int(refs["low"][place]), int(refs["count"][place])
        with_escapes += range_coder.escape_steps(int(ordered[place]), low, count)
        done = place + 1
    return with_escapes + steps[done:]


def _decode_layer(
    plan: CodingPlan,
    layer: int,
    data: memoryview,
    reference: Symbols | None,
    symbols_CHW: Symbols,
    places: Places | None,
) -> Places | None:
    """Decode into `symbols_CHW`. `places` is the map that layer 0 held, which is returned. Raises DamagedLayer."""
    channels = plan.channel_range(layer)
    mapped = plan.place_slot >= 0
    if not data:
        for channel in channels:
            symbols_CHW[channel] = prediction(plan, channel, reference)
        return np.zeros(symbols_CHW.shape[1:], np.bool_) if mapped and layer == 0 else places
    decoder = RangeDecoder(data)
    if mapped and layer == 0:
        places = _take_places(plan, symbols_CHW.shape[1], symbols_CHW.shape[2], decoder)
    if places is not None and not places.any():
        raise DamagedLayer  # nothing is refreshed, so there is nothing to say
    for channel in channels:
        if plan.skip_slot[channel] >= 0 and _take_skip(plan, channel, decoder):
            symbols_CHW[channel] = prediction(plan, channel, reference)
        else:
            _decode_channel(plan, layer, channel, decoder, symbols_CHW, reference, places)
    if not decoder.ended_with(range_coder.layer_check(symbols_CHW[channels.start : channels.stop], layer)):
        raise DamagedLayer
    return places


def _take_places(plan: CodingPlan, height: int, width: int, decoder: RangeDecoder) -> Places:
    places = np.zeros((height, width), np.bool_)
    padded = np.zeros((height + 1, width + 2), np.int64)  # a row above, a column on both sides
    for row in range(height):
        for column in range(width):
            above = padded[row]
            context = padded[row + 1, column] + 2 * above[column + 1] + 4 * above[column + 2] + 8 * above[column]
            flag = _take_flag(plan, plan.place_slot + 2 * int(context), decoder)
            places[row, column] = padded[row + 1, column + 1] = flag
    return places


def _decode_channel(
    plan: CodingPlan,
    layer: int,
    channel: int,
    decoder: RangeDecoder,
    symbols_CHW: Symbols,
    reference: Symbols | None,
    places: Places | None,
) -> None:
    symbols_HW = symbols_CHW[channel]
    symbols_HW[...] = 0 if places is None else prediction(plan, channel, reference)
    flat = symbols_HW.reshape(-1)
    previous = previous_term(plan.terms[layer])
    if previous is not None:
        _, context = _order_and_context(plan, layer, channel, symbols_HW, symbols_CHW, reference, with_previous=False)
        _take_place_by_place(plan, int(plan.context_first[channel]) + context, previous, decoder, symbols_HW, places)
        return
    halves = 2 if has_checkerboard(plan.terms[layer]) else 1
    first_half = (flat.size + 1) // 2
    for half in range(halves):
        order, context = _order_and_context(plan, layer, channel, symbols_HW, symbols_CHW, reference)
        if halves == 2:
            order = order[:first_half] if half == 0 else order[first_half:]
        if places is not None:
            order = order[places.reshape(-1)[order]]
        numbers = (int(plan.context_first[channel]) + context.reshape(-1)[order]).tolist()
        flat[order] = [_take_symbol(plan, number, decoder) for number in numbers]


def _take_place_by_place(
    plan: CodingPlan,
    numbers_HW: NDArray[np.intp],
    previous: tuple[Term, int],
    decoder: RangeDecoder,
    symbols_HW: Symbols,
    places: Places | None,
) -> None:
    """A channel whose tables depend on the symbols to the left and above: `numbers_HW` is each place's for class 0."""
    term, step = previous
    for row, column in np.ndindex(symbols_HW.shape):
        if places is not None and not places[row, column]:
            continue
        left = int(symbols_HW[row, column - 1]) if column else 0
        above = int(symbols_HW[row - 1, column]) if row else 0
        value = bisect_right(term.thresholds, left + above)
        symbols_HW[row, column] = _take_symbol(plan, int(numbers_HW[row, column]) + step * value, decoder)


def _take_symbol(plan: CodingPlan, number: int, decoder: RangeDecoder) -> int:
    slot_of, starts, freqs, low, count = plan.python_table(number)
    slot = decoder.take_slot(slot_of, starts, freqs, plan.slots.precision)
    return low + slot if slot < count else decoder.take_escape(low, count)


def _take_skip(plan: CodingPlan, channel: int, decoder: RangeDecoder) -> bool:
    return _take_flag(plan, int(plan.skip_slot[channel]), decoder)


def _take_flag(plan: CodingPlan, first: int, decoder: RangeDecoder) -> bool:
    """Whether slot 1 of the two that begin with `first` was coded."""
    starts, freqs = plan.slots.start[first : first + 2].tolist(), plan.slots.freq[first : first + 2].tolist()
    return decoder.take_flag(starts, freqs, plan.slots.precision)


def prediction(plan: CodingPlan, channel: int, reference: Symbols | None) -> Symbols | np.int16:
    """What a skipped channel holds: the reference's channel, or fill."""
    if reference is not None:
        own: Symbols = reference[channel]
        return own
    fill: np.int16 = plan.fill[channel]
    return fill


def _order_and_context(
    plan: CodingPlan,
    layer: int,
    channel: int,
    symbols_HW: Symbols,
    symbols_CHW: Symbols,
    reference: Symbols | None,
    *,
    with_previous: bool = True,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    terms = plan.terms[layer]
    order = coding_order(*symbols_HW.shape, checkerboard_order=has_checkerboard(terms))
    in_layer = channel - int(plan.layer_first[layer])
    own_reference = None if reference is None else reference[channel]
    earlier = earlier_changes(symbols_CHW, channel, reference, plan.fill) if has_changes(terms) else None
    context = context_values(
        terms, in_layer, symbols_HW, symbols_CHW, own_reference, earlier, with_previous=with_previous
    )
    return order, context


def _slot_step(plan: CodingPlan, slot: int) -> Step:
    return int(plan.slots.start[slot]), int(plan.slots.freq[slot]), plan.slots.precision


@lru_cache(maxsize=4096)
def _cost(freq: int, bits: int) -> int:
    return int(np.rint(65_536 * (bits - np.log2(freq))))
