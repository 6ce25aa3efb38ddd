"""Laws of the codec, for any symbols, contexts, grids and bytes."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codec import DecodedLatent, EntropyModel, LatentCodec, Reference
from pipeline.codec.bitstream import Header, HeaderReference, pack_header, parse_header
from pipeline.errors import BitstreamError, BundleError
from pipeline.limits import SYMBOL_MAGNITUDE_MAX
from tests.codecs import CHANNELS, CONTEXTS, LAYERS, random_reference, random_symbols, small_codec

pytestmark = pytest.mark.usefixtures("native")


@pytest.fixture(scope="module")
def native() -> None:
    try:
        small_codec(coder="c")
    except Exception as error:
        pytest.skip(f"laws compare both coders: {error}")


@functools.cache
def codec(contexts: str, coder: str, precision: int = 12) -> LatentCodec:
    return small_codec(contexts, coder=coder, precision=precision)


@st.composite
def frames(draw: st.DrawFn) -> tuple[str, int, np.ndarray, Reference | None]:
    """(contexts, operating point, symbols, reference)."""
    contexts = draw(st.sampled_from(sorted(CONTEXTS)))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    symbols = random_symbols(rng, height, width, scale=draw(st.sampled_from([0.05, 0.5, 2.0, 500.0])))
    reference = None
    if CONTEXTS[contexts].inter is not None and draw(st.booleans()):
        reference = random_reference(rng, height, width, layers=draw(st.integers(1, len(LAYERS))))
    kept = reference.symbols if reference else (np.arange(CHANNELS) - 2)[:, None, None]
    for channel in draw(st.sets(st.integers(0, CHANNELS - 1))):
        symbols[channel] = kept[channel]  # channels that equal their prediction
    return contexts, draw(st.integers(0, 1)), symbols, reference


def decode(decoder: LatentCodec, data: bytes, reference: Reference | None) -> DecodedLatent:
    return decoder.decode(data, references={reference.id: reference} if reference else None)


@given(frames(), st.sampled_from([12, 14, 16]))
@settings(max_examples=150)
def test_both_coders_make_the_same_bytes_and_read_the_symbols_back(frame, precision):
    contexts, point, symbols, reference = frame
    in_c, in_python = codec(contexts, "c", precision), codec(contexts, "python", precision)
    data = in_python.encode(symbols, point, reference=reference)
    assert data == in_c.encode(symbols, point, reference=reference)
    for decoder in (in_c, in_python):
        decoded = decode(decoder, data, reference)
        assert (decoded.operating_point, decoded.layers, decoded.decoded_layers) == (point, 3, 3)
        np.testing.assert_array_equal(symbols, decoded.symbols)


@given(frames())
@settings(max_examples=60)
def test_both_coders_estimate_the_same_and_close_to_the_bytes(frame):
    contexts, point, symbols, reference = frame
    estimates = [codec(contexts, coder).estimate_bits(symbols, point, reference=reference) for coder in ("c", "python")]
    assert estimates[0] == pytest.approx(estimates[1])
    bits = 8 * len(codec(contexts, "c").encode(symbols, point, reference=reference))
    assert bits == pytest.approx(estimates[0], abs=3 * 24 + 0.02 * bits)


@given(frames(), st.integers(1, 3))
@settings(max_examples=60)
def test_any_number_of_layers_decodes_and_the_rest_is_fill(frame, layers):
    contexts, point, symbols, reference = frame
    data = codec(contexts, "c").encode(symbols, point, layers=layers, reference=reference)
    first = sum(LAYERS[:layers])
    expected = symbols.copy()
    expected[first:] = (np.arange(CHANNELS) - 2)[first:, None, None]
    for coder in ("c", "python"):
        decoded = decode(codec(contexts, coder), data, reference)
        assert (decoded.layers, decoded.decoded_layers) == (layers, layers)
        np.testing.assert_array_equal(expected, decoded.symbols)


@given(frames(), st.data())
@settings(max_examples=100)
def test_a_cut_stream_decodes_its_complete_layers(frame, data):
    contexts, point, symbols, reference = frame
    whole = codec(contexts, "c").encode(symbols, point, reference=reference)
    header, start = parse_header(whole)
    cut = data.draw(st.integers(0, len(whole)))
    ends = start + 2 * np.cumsum(header.lengths)
    complete = int((ends <= cut).cumprod().sum()) if cut >= start else 0
    for coder in ("c", "python"):
        if complete == 0:
            with pytest.raises(BitstreamError):
                decode(codec(contexts, coder), whole[:cut], reference)
            continue
        decoded = decode(codec(contexts, coder), whole[:cut], reference)
        assert decoded.decoded_layers == complete
        good = sum(LAYERS[:complete])
        np.testing.assert_array_equal(symbols[:good], decoded.symbols[:good])


@given(frames(), st.data())
@settings(max_examples=200)
def test_damage_is_found_or_symbols_are_right(frame, data):
    """Both coders agree on damaged bytes; good layers before the damage are exact; the check lets about 2^-16 pass."""
    contexts, point, symbols, reference = frame
    whole = bytearray(codec(contexts, "c").encode(symbols, point, reference=reference))
    header, start = parse_header(whole)
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    results = []
    for coder in ("c", "python"):
        try:
            decoded = decode(codec(contexts, coder), bytes(whole), reference)
            results.append((decoded.decoded_layers, decoded.symbols.tobytes()))
        except BitstreamError:
            results.append(None)
    assert results[0] == results[1]
    if place >= start:
        untouched = int((start + 2 * np.cumsum(header.lengths) <= place).sum())
        assert (results[0] or (0,))[0] == untouched


@given(st.binary(max_size=200), st.booleans(), st.sampled_from(sorted(CONTEXTS)))
@settings(max_examples=400)
def test_any_bytes_give_symbols_or_a_bitstream_error(body, with_header, contexts):
    data = body
    if with_header:  # so that hostile bytes get past the header's check
        third = len(body) // 6
        data = pack_header(Header(0, 3, 5, (third, third, len(body) // 2 - 2 * third))) + body[: len(body) // 2 * 2]
    results = []
    for coder in ("c", "python"):
        try:
            decoded = codec(contexts, coder).decode(data)
        except BitstreamError:
            results.append(None)
            continue
        assert np.abs(decoded.symbols).max() <= SYMBOL_MAGNITUDE_MAX
        results.append((decoded.decoded_layers, decoded.symbols.tobytes()))
    assert results[0] == results[1]


numbers = st.integers(0, 2**53)
headers = st.builds(
    Header,
    st.integers(0, 255),
    st.integers(1, 256),
    st.integers(1, 256),
    st.lists(st.integers(0, 131_072), min_size=1, max_size=16).map(tuple),
    st.none() | st.builds(HeaderReference, numbers, numbers, st.integers(0, 255)),
)


@given(headers)
def test_headers_come_back_as_they_were(header):
    packed = pack_header(header)
    assert (header, len(packed)) == parse_header(packed + b"rest")


@given(headers, st.data())
def test_a_damaged_header_is_refused(header, data):
    packed = bytearray(pack_header(header))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BitstreamError):
        parse_header(bytes(packed) + bytes(60))


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_tables_file_is_refused_or_sound(data):
    """Never another error than BundleError; what loads is checked and therefore safe to code with."""
    packed = bytearray(codec("everything", "c").model.to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    packed = packed[: data.draw(st.integers(0, len(packed)))] if data.draw(st.booleans()) else packed
    try:
        model = EntropyModel.from_bytes(bytes(packed))
        broken = LatentCodec(codec("everything", "c").spec, model, coder="c")
    except BundleError:
        return
    symbols = random_symbols(np.random.default_rng(0), 4, 4)
    np.testing.assert_array_equal(symbols, broken.decode(broken.encode(symbols, 1)).symbols)
