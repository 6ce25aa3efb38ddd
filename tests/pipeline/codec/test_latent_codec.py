"""The codec's door: what it takes, gives and refuses."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.codec import LatentCodec, LatentSpec, ReferenceId, coder_in_use, latent_codec
from pipeline.codec.bitstream import Header, pack_header
from pipeline.codec.native_coder import NativeCoder
from pipeline.errors import BitstreamError, BundleError, ConfigError, EngineError
from tests.codecs import (
    CHANNELS,
    LAYERS,
    full_model,
    points,
    random_reference,
    random_symbols,
    small_codec,
    small_model,
    small_spec,
)

RNG = np.random.default_rng(7)


@pytest.fixture(params=["c", "python"])
def coder(request) -> str:
    if request.param == "c" and coder_in_use() != "c":
        pytest.skip("the C range coder is not built")
    return request.param


def test_a_frame_goes_through(coder):
    codec = small_codec(coder=coder)
    symbols = random_symbols(RNG, 4, 5)
    decoded = codec.decode(codec.encode(symbols, 1))
    np.testing.assert_array_equal(symbols, decoded.symbols)
    assert (decoded.operating_point, decoded.layers, decoded.decoded_layers, decoded.reference) == (1, 3, 3, None)
    assert coder == codec.coder


def test_the_size_of_a_real_frame_is_within_2_percent_of_its_entropy(coder):
    model, scales = full_model()
    codec = LatentCodec(LatentSpec(48, 8, (6,) * 8, points(1, 48)), model, coder=coder)
    symbols = np.rint(RNG.laplace(0, scales[:, None, None], (48, 28, 28))).astype(np.int16)
    ideal = sum(codec.estimate_layers(symbols, 0)) / 8
    assert 3300 < ideal < 4300
    assert len(codec.encode(symbols, 0)) < 1.02 * ideal


def test_any_memory_layout_is_taken(coder):
    codec = small_codec(coder=coder)
    symbols = random_symbols(RNG, 4, 4).transpose(0, 2, 1)
    np.testing.assert_array_equal(symbols, codec.decode(codec.encode(symbols, 0)).symbols)


def test_a_frame_that_is_its_prediction_is_a_header(coder):
    codec = small_codec("everything", coder=coder)
    reference = random_reference(RNG, 6, 6)
    data = codec.encode(reference.symbols, 0, reference=reference)
    assert len(pack_header(Header(0, 6, 6, (0, 0, 0)))) + 5 == len(data)
    decoded = codec.decode(data, references={reference.id: reference})
    np.testing.assert_array_equal(reference.symbols, decoded.symbols)
    assert ReferenceId(3, 70_000) == decoded.reference


def test_reference_layers_that_one_end_lacks_count_as_fill(coder):
    codec = small_codec("everything", coder=coder)
    whole = random_reference(RNG, 5, 5)
    symbols = random_symbols(RNG, 5, 5)
    named = codec.decode(codec.encode(whole.symbols, 0)).as_reference(epoch=3, frame=9, layers=1)
    data = codec.encode(symbols, 0, reference=named)
    other = random_reference(RNG, 5, 5).symbols.copy()
    other[: LAYERS[0]] = whole.symbols[: LAYERS[0]]  # the server's copy differs beyond layer 0
    held = type(whole)(epoch=3, frame=9, layers=3, symbols=other)
    np.testing.assert_array_equal(symbols, codec.decode(data, references={held.id: held}).symbols)


def test_a_reference_that_differs_is_noticed(coder):
    codec = small_codec("reference", coder=coder)
    reference = random_reference(RNG, 6, 6)
    data = codec.encode(random_symbols(RNG, 6, 6), 0, reference=reference)
    wrong = type(reference)(epoch=3, frame=70_000, layers=3, symbols=random_symbols(RNG, 6, 6))
    with pytest.raises(BitstreamError, match="layer 0"):
        codec.decode(data, references={wrong.id: wrong})


def test_references_that_do_not_fit_are_refused(coder):
    codec = small_codec("reference", coder=coder)
    reference, symbols = random_reference(RNG, 4, 4, layers=2), random_symbols(RNG, 4, 4)
    data = codec.encode(symbols, 0, reference=reference)
    with pytest.raises(BitstreamError, match="not held"):
        codec.decode(data)
    fewer = type(reference)(epoch=3, frame=70_000, layers=1, symbols=reference.symbols)
    with pytest.raises(BitstreamError, match="1 are held"):
        codec.decode(data, references={fewer.id: fewer})
    with pytest.raises(BitstreamError, match="shape"):
        codec.encode(symbols, 0, reference=random_reference(RNG, 4, 5))
    with pytest.raises(BitstreamError, match="no inter tables"):
        small_codec(coder=coder).encode(symbols, 0, reference=reference)
    with pytest.raises(BitstreamError, match="no inter tables"):
        small_codec(coder=coder).decode(data, references={reference.id: reference})


@pytest.mark.parametrize(
    ("symbols", "options", "words"),
    [
        (np.zeros((CHANNELS, 2, 2), np.int32), {}, "int32"),
        (np.zeros((5, 2, 2), np.int16), {}, r"shape \(5, 2, 2\)"),
        (np.zeros((CHANNELS, 4), np.int16), {}, "shape"),
        (np.zeros((CHANNELS, 0, 4), np.int16), {}, "0x4"),
        (np.zeros((CHANNELS, 257, 1), np.int16), {}, "257x1"),
        (np.full((CHANNELS, 2, 2), 4096, np.int16), {}, "magnitude 4096"),
        (np.full((CHANNELS, 2, 2), -32768, np.int16), {}, "magnitude 32768"),
        (np.zeros((CHANNELS, 2, 2), np.int16), {"layers": 0}, "0 layers"),
        (np.zeros((CHANNELS, 2, 2), np.int16), {"layers": 4}, "4 layers"),
        (np.zeros((CHANNELS, 2, 2), np.int16), {"operating_point": 2}, "operating point 2"),
        (np.zeros((CHANNELS, 2, 2), np.int16), {"operating_point": -1}, "operating point -1"),
    ],
)
def test_what_cannot_be_encoded_is_refused_in_one_line(coder, symbols, options, words):
    with pytest.raises(BitstreamError, match=words) as caught:
        small_codec(coder=coder).encode(symbols, **{"operating_point": 0, **options})
    assert "\n" not in str(caught.value)


def test_a_frame_that_takes_too_many_bytes_is_refused(coder):
    codec = small_codec(coder=coder)
    symbols = RNG.choice(np.array([-4000, 4000], np.int16), (CHANNELS, 160, 160))
    with pytest.raises(BitstreamError, match="lower operating point"):
        codec.encode(symbols, 0)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (Header(9, 2, 2, (0,)), "operating point 9"),
        (Header(0, 2, 2, (0,) * 4), "4 layers"),
        (Header(0, 2, 2, (1, 0)), "layer 0"),
        (Header(0, 2, 2, (2**40,)), "layer 0"),
        (Header(0, 3, 2, (0,)), "takes 2x2"),
    ],
)
def test_headers_that_do_not_fit_are_refused(coder, header, words):
    with pytest.raises(BitstreamError, match=words):
        small_codec(coder=coder).decode(pack_header(header), grid=(2, 2))


def test_a_header_cannot_make_the_decoder_allocate_more_than_the_limit():
    model, _ = full_model(channels=96)
    codec = LatentCodec(LatentSpec(96, 8, (96,), points(1, 96)), model)
    with pytest.raises(BitstreamError, match="limit 4194304"):
        codec.decode(pack_header(Header(0, 256, 256, (0,))))


def test_bytes_after_the_last_layer_are_refused(coder):
    codec = small_codec(coder=coder)
    data = codec.encode(random_symbols(RNG, 3, 3), 0)
    with pytest.raises(BitstreamError, match="2 bytes after"):
        codec.decode(data + b"ab")


def test_memoryviews_at_odd_addresses_decode(coder):
    codec = small_codec(coder=coder)
    symbols = random_symbols(RNG, 3, 3)
    data = b"x" + codec.encode(symbols, 0)
    np.testing.assert_array_equal(symbols, codec.decode(memoryview(data)[1:]).symbols)


def test_tables_of_another_bundle_are_refused():
    with pytest.raises(BundleError, match="different bundles"):
        LatentCodec(LatentSpec(48, 8, (48,), points(1, 48)), small_model())
    with pytest.raises(BundleError, match="count the tables again"):
        LatentCodec(small_spec("checkerboard"), small_model("none"))
    with pytest.raises(BundleError, match="declare an inter set"):
        LatentCodec(small_spec("reference"), small_model("none"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 0, "layers": ()}, "0 channels"),
        ({"stride": 0}, "stride 0"),
        ({"layers": (2, 2)}, "layers are"),
        ({"layers": (2, 0, 4)}, "layers are"),
        ({"layers": ()}, "layers are"),
        ({"operating_points": ()}, "no operating point"),
        ({"operating_points": points(1, 5)}, "5 channels"),
    ],
)
def test_unsound_specs_are_refused(changes, words):
    sound = {"channels": CHANNELS, "stride": 8, "layers": LAYERS, "operating_points": points()}
    with pytest.raises(BundleError, match=words):
        LatentSpec(**{**sound, **changes})


def test_many_threads_share_one_codec(coder):
    codec = small_codec("everything", coder=coder)
    frames = [random_symbols(np.random.default_rng(k), 8, 8) for k in range(8)]
    together = threading.Barrier(4)

    def work(number: int) -> bool:
        if number < 4:
            together.wait(10)
        data = codec.encode(frames[number % 8], number % 2)
        return bool((codec.decode(data).symbols == frames[number % 8]).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(64)))


def test_without_the_library_python_takes_over_and_one_warning_names_the_remedy(monkeypatch, tmp_path):
    latent_codec._native_coder.cache_clear()
    latent_codec._warn_once.cache_clear()
    monkeypatch.setattr(latent_codec, "LIBRARY", tmp_path / "missing.so")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert small_codec().coder == "python"
            assert small_codec().coder == "python"
        assert coder_in_use() == "python"
        with pytest.raises(EngineError, match="apt-get install gcc"):
            small_codec(coder="c")
    finally:
        latent_codec._native_coder.cache_clear()
        latent_codec._warn_once.cache_clear()
    assert len(caught) == 1
    assert "sudo apt-get install gcc libc6-dev" in str(caught[0].message)
    assert "\n" not in str(caught[0].message)


def test_an_unknown_coder_is_refused():
    with pytest.raises(ConfigError, match="'fast'"):
        small_codec(coder="fast")


def test_a_file_that_is_no_library_is_refused(tmp_path: Path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    with pytest.raises(EngineError, match="does not load"):
        NativeCoder(broken)
