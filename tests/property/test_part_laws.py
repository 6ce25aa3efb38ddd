"""The law of parts: whatever is lost, doubled or overtaken of a frame's parts and parity, the server gets the frame, or
a prefix of it that ends where a part does, or is told that it is incomplete. Never other bytes, so never other symbols.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec import LatentCodec
from pipeline.limits import FRAME_PARITY_PARTS_MAX
from pipeline.wire.cutting import cut
from pipeline.wire.events import FrameDropped, FrameReceived
from pipeline.wire.messages import FramePart
from pipeline.wire.parity import parity_of
from pipeline.wire.states import OPEN
from tests.codecs import CHANNELS, LAYERS, small_model, small_spec
from tests.pipeline.wire.pairs import Pair

CODEC = LatentCodec(small_spec(), small_model())
FRAMES = 3
BUDGET_US = 400_000


def frame_of(number: int) -> tuple[np.ndarray, bytes]:
    """(symbols, bitstream) of a frame."""
    symbols = np.random.default_rng(number).integers(-3, 4, (CHANNELS, 5, 6)).astype(np.int16)
    return symbols, CODEC.encode(symbols, 0)


SENT = [frame_of(number) for number in range(FRAMES)]


def messages_of(number: int, part_bytes: int, parity: int) -> list[FramePart]:
    """What an edge sends of it."""
    pieces = cut(SENT[number][1], part_bytes, at_layers=not parity)
    parts = len(pieces)
    pieces += parity_of(pieces, parity)
    return [
        FramePart(number, part, parts, 0, BUDGET_US, piece, number + 1, parity) for part, piece in enumerate(pieces)
    ]


@given(st.data())
def test_parts_make_the_frame_or_a_prefix(data: st.DataObject) -> None:
    """Parts of three frames arrive mixed, with pauses."""
    pair = Pair(edge={"part_bytes": 1_000}).open()
    pair.keep = lambda outgoing: False
    part_bytes = data.draw(st.integers(10, 90))
    sent = [messages_of(number, part_bytes, data.draw(st.integers(0, FRAME_PARITY_PARTS_MAX))) for number in range(3)]
    pool = [message for frame in sent for message in frame]
    arriving = data.draw(st.lists(st.sampled_from(pool), max_size=2 * len(pool)))
    for message in arriving:
        pair.server.receive(message, "frames", pair.now)
        pair.pass_time(data.draw(st.sampled_from([0.0, 0.001, 0.03])))
    pair.pass_time(1.0)
    assert pair.server.state == OPEN
    ends = {event.frame for event in pair.of(FrameReceived)} | {event.frame for event in pair.of(FrameDropped)}
    assert ends == {message.frame for message in arriving}
    for event in pair.of(FrameReceived):
        symbols, whole = SENT[event.frame]
        assert event.bitstream == whole[: len(event.bitstream)]
        decoded = CODEC.decode(event.bitstream)
        good = sum(LAYERS[: decoded.decoded_layers])
        assert good > 0
        np.testing.assert_array_equal(symbols[:good], decoded.symbols[:good])


@given(st.data())
def test_as_many_messages_as_parts_make_the_frame(data: st.DataObject) -> None:
    """Any of them, in any order, at once: whole, and without waiting."""
    pair = Pair(edge={"part_bytes": 1_000}).open()
    pair.keep = lambda outgoing: False
    sent = messages_of(0, data.draw(st.integers(10, 90)), data.draw(st.integers(0, FRAME_PARITY_PARTS_MAX)))
    for message in data.draw(st.permutations(sent))[: sent[0].parts]:
        pair.server.receive(message, "frames", pair.now)
    pair.flow()
    (event,) = pair.of(FrameReceived)
    assert event.bitstream == SENT[0][1]
