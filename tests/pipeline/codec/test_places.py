"""The map of refreshed places, and tables that have one."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from pipeline.codec import (
    ChannelPmf,
    Contexts,
    EntropyModel,
    LatentCodec,
    Reference,
    TableCounter,
    contexts_data,
    parse_contexts,
)
from pipeline.codec.bitstream import pack_header, parse_header
from pipeline.codec.contexts import changes, reference
from pipeline.codec.places import count_places, place_contexts, place_shares, refreshed_places
from pipeline.errors import BitstreamError, BundleError
from tests.codecs import LAYERS, random_symbols, small_codec, small_model, small_spec

TERMS = ((reference(2), changes(20, 90)),) * len(LAYERS)


def pairs(count: int, *, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(frame, its reference) of which a corner is refreshed, in all channels, and the rest stays."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        before, after = random_symbols(rng, 12, 12), random_symbols(rng, 12, 12)
        frame = before.copy()
        frame[:, :5, :4] = after[:, :5, :4]
        found.append((frame, before))
    return found


def mean_bytes(contexts: Contexts) -> float:
    counter = TableCounter(LAYERS, 2, contexts)
    for frame, held in pairs(30, seed=0):
        counter.add(frame, 0, reference=held)
    codec = LatentCodec(small_spec(contexts), counter.model())
    sizes = []
    for frame, held in pairs(5, seed=1):
        named = Reference(1, 1, len(LAYERS), held)
        data = codec.encode(frame, 0, reference=named)
        np.testing.assert_array_equal(frame, codec.decode(data, references={named.id: named}).symbols)
        sizes.append(len(data))
    return float(np.mean(sizes))


def test_a_place_is_refreshed_if_any_channel_there_changed() -> None:
    """In channel 0 the first place, in channel 1 the last one."""
    held = np.zeros((2, 1, 3), np.int16)
    frame = held.copy()
    frame[0, 0, 0], frame[1, 0, 2] = 1, -1
    assert refreshed_places(frame, held).tolist() == [[True, False, True]]


def test_a_flags_context_is_made_of_four_earlier_flags() -> None:
    """left + 2 · above + 4 · above right + 8 · above left."""
    places = np.array([[1, 0, 1], [0, 1, 0]], bool)
    assert place_contexts(places).tolist() == [[0, 1, 0], [2, 4 + 8, 1 + 2]]


def test_counts_become_shares_that_leave_both_possible() -> None:
    """Context 0 was seen twice, refreshed once; context 15 never."""
    counts = count_places(np.array([[0, 1]], bool))
    assert counts[0].tolist() == [1, 1]
    shares = place_shares(counts)
    assert shares[0] == pytest.approx(1.25 / 3)
    assert ((shares > 0) & (shares < 1)).all()


def test_what_changes_together_costs_less_with_a_map() -> None:
    """The same symbols, tables counted on the same frames."""
    plain = Contexts(inter=TERMS)
    assert mean_bytes(replace(plain, places=True)) < 0.75 * mean_bytes(plain)


@pytest.mark.parametrize("coder", ["c", "python"])
def test_a_frame_that_is_its_reference_is_a_header(coder: str) -> None:
    """No map either."""
    codec = small_codec("places", coder=coder)
    held = Reference(1, 1, 3, random_symbols(np.random.default_rng(0), 4, 4))
    assert len(codec.encode(held.symbols, 0, reference=held)) == 8 + 3 + 3 - 1


@pytest.mark.parametrize("coder", ["c", "python"])
def test_a_layer_beyond_a_map_without_places_is_bad(coder: str) -> None:
    """Layer 0 of length 0 says that nothing is refreshed; a layer 2 from elsewhere does not decode after it."""
    codec = small_codec("places", coder=coder)
    rng = np.random.default_rng(0)
    held = Reference(1, 1, 3, random_symbols(rng, 4, 4))
    still = codec.encode(held.symbols, 0, reference=held)
    moved = codec.encode(random_symbols(rng, 4, 4), 0, reference=held)
    header, start = parse_header(moved)
    spliced = pack_header(replace(parse_header(still)[0], lengths=(0, 0, header.lengths[2])))
    spliced += moved[start + 2 * sum(header.lengths[:2]) :]
    decoded = codec.decode(spliced, references={held.id: held})
    assert decoded.decoded_layers == 2
    with pytest.raises(BitstreamError):
        codec.decode(moved, references={})


def test_declared_and_counted_go_together() -> None:
    """A map needs a reference; contexts and tables must agree about it."""
    contexts = Contexts(inter=((), (), ()), places=True)
    assert contexts == parse_contexts(contexts_data(contexts), LAYERS)
    with pytest.raises(BundleError, match="map of places, but no inter set"):
        parse_contexts([{"set": "places"}], LAYERS)
    with pytest.raises(BundleError, match="expected intra or inter, or places"):
        parse_contexts([{"set": "places", "layers": [0]}], LAYERS)
    with pytest.raises(BundleError, match="declare a map of places, the inter tables have none"):
        LatentCodec(small_spec(contexts), small_model("none, inter"))
    with pytest.raises(BundleError, match="declare no map of places, the inter tables have one"):
        LatentCodec(small_spec("none, inter"), small_model(contexts))


def edited(**changed: object) -> bytes:
    file = msgspec.msgpack.decode(small_model("places").to_bytes())
    inter = changed.pop("inter", {})
    return msgspec.msgpack.encode({**file, **changed, "inter": {**file["inter"], **inter}})  # type: ignore[dict-item]


def test_tables_with_places_have_a_format_of_their_own() -> None:
    """So that an earlier version says what to do."""
    model = small_model("places")
    assert msgspec.msgpack.decode(model.to_bytes())["format"] == 2
    assert EntropyModel.from_bytes(model.to_bytes()).to_bytes() == model.to_bytes()
    assert msgspec.msgpack.decode(small_model("changes").to_bytes())["format"] == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format": 1}, "format 1 and its inter set"),
        ({"format": 3}, "format 3, this version reads 1 and 2"),
        ({"inter": {"places": b"\1\0" * 31}}, "no whole row|shape"),
        ({"inter": {"places": b"\1\0" * 30}}, r"expected \(2, 16\)"),
        ({"inter": {"places": b"\0\0" * 32}}, "freq of places is 0"),
        ({"inter": {"places": b"\0\x10" * 32}}, "freq of places is 4096"),
    ],
)
def test_unsound_places_are_refused_in_one_line(changed: dict, words: str) -> None:
    """As everything else in the file."""
    with pytest.raises(BundleError, match=words) as caught:
        EntropyModel.from_bytes(edited(**changed))
    assert "\n" not in str(caught.value)


def test_probabilities_of_places_are_checked() -> None:
    """Sixteen for each operating point."""
    rows = [[ChannelPmf(0, [1.0])]]
    with pytest.raises(BundleError, match="give \\[points, 16\\]"):
        EntropyModel.from_probabilities(rows, inter=rows, places=np.full((1, 15), 0.5))
