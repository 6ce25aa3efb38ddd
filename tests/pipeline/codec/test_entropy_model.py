"""Integer tables: made from probabilities, packed, checked."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from pipeline.codec import ChannelPmf, EntropyModel
from pipeline.codec.table_making import integer_freqs
from pipeline.errors import BundleError
from tests.codecs import CHANNELS, small_model


def one_channel(weights, low=0, escape=0.0, **more) -> EntropyModel:
    return EntropyModel.from_probabilities([[ChannelPmf(low, weights, escape)]], **more)


def table(model: EntropyModel) -> tuple[int, list[int]]:
    low, freqs = model.table(0, "intra", 0)
    return low, freqs.tolist()


def test_probabilities_become_freqs_that_sum_to_the_precision():
    assert table(one_channel([0.25, 0.5, 0.25], low=-1)) == (-1, [1024, 2047, 1024, 1])


def test_counts_do_as_well_as_probabilities():
    assert table(one_channel([250, 500, 250])) == table(one_channel([0.25, 0.5, 0.25]))


def test_escape_weight_gets_its_slot():
    assert table(one_channel([3.0], escape=3.0)) == (0, [2048, 2048])


def test_symbols_too_rare_for_a_slot_move_to_escape():
    low, freqs = table(one_channel([1e-9, 0.5, 1e-9, 0.5, 1e-9], low=-2))
    assert (low, len(freqs) - 1, freqs[1::2]) == (-1, 3, [1, 1])


def test_wide_tables_keep_the_255_most_probable_in_a_row():
    low, freqs = table(one_channel(np.arange(1, 601), precision=16))
    assert (low, len(freqs)) == (345, 256)
    assert 65_536 * sum(range(1, 346)) / sum(range(1, 601)) == pytest.approx(freqs[-1], abs=20)


def test_symbols_beyond_the_largest_magnitude_are_escape():
    low, freqs = table(one_channel([1.0, 1.0, 1.0], low=4094))
    assert (low, len(freqs)) == (4094, 3)


def test_a_channel_without_counts_gets_a_table_all_the_same():
    low, freqs = table(one_channel([0.0, 0.0, 0.0], low=-1))
    assert sum(freqs) == 4096
    assert low <= 0 < low + len(freqs)


def test_equal_tables_are_stored_once():
    row = [ChannelPmf(0, [0.5, 0.5])] * 4
    assert EntropyModel.from_probabilities([row, row]).low.size == 1


def test_the_same_probabilities_give_the_same_file():
    assert small_model("everything").to_bytes() == small_model("everything").to_bytes()


@pytest.mark.parametrize("precision", [12, 13, 14, 15, 16])
def test_rounding_costs_little(precision):
    weights = np.exp(-np.abs(np.arange(-20, 21)) / 1.5)
    weights /= weights.sum()
    freqs = integer_freqs(weights, precision)
    entropy = -(weights * np.log2(weights)).sum()
    cost = -(weights * np.log2(freqs / 2**precision)).sum()
    assert 2**precision == freqs.sum()
    assert cost < entropy * 1.005


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([0.5, -0.1], "negative"),
        ([0.5, np.nan], "not finite"),
        ([], "shape"),
        ([[[1.0]]], "shape"),
    ],
)
def test_unsound_probabilities_are_refused(weights, words):
    with pytest.raises(BundleError, match=words):
        one_channel(weights)


def test_probabilities_that_do_not_fit_together_are_refused():
    pmf, two = ChannelPmf(0, [1.0, 1.0]), ChannelPmf(0, [[1.0, 1.0]] * 2)
    with pytest.raises(BundleError, match="no probabilities"):
        EntropyModel.from_probabilities([])
    with pytest.raises(BundleError, match="2 operating points of 2 channels"):
        EntropyModel.from_probabilities([[pmf, pmf], [pmf]])
    with pytest.raises(BundleError, match=r"expected \(1,"):
        EntropyModel.from_probabilities([[pmf], [two]])
    with pytest.raises(BundleError, match="skip"):
        EntropyModel.from_probabilities([[pmf]], skip_intra=[[1.5]])
    with pytest.raises(BundleError, match="precision is 11"):
        EntropyModel.from_probabilities([[pmf]], precision=11)


@pytest.mark.parametrize("contexts", ["none", "everything"])
def test_the_file_comes_back_as_it_was(contexts):
    model = small_model(contexts)
    back = EntropyModel.from_bytes(model.to_bytes())
    assert model.to_bytes() == back.to_bytes()
    np.testing.assert_array_equal(model.freq, back.freq)
    np.testing.assert_array_equal(np.arange(CHANNELS) - 2, back.fill)


def edited(**changes) -> bytes:
    file = msgspec.msgpack.decode(small_model("everything").to_bytes())
    for name, value in changes.items():
        where, _, key = name.partition("__")
        if key:
            file[where][key] = value
        else:
            file[name] = value
    return msgspec.msgpack.encode(file)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2"),
        ({"precision": 11}, "precision 11"),
        ({"precision": 17}, "precision 17"),
        ({"points": 0}, "0 operating points"),
        ({"points": 3}, "no whole row|index"),
        ({"channels": 300}, "300 channels"),
        ({"channels": 5}, "fill"),
        ({"fill": b"\0"}, "fill has 1 bytes"),
        ({"fill": b"\xff\x7f" * 6}, "too large"),
        ({"low": b""}, "0 tables"),
        ({"low": b"\0\0"}, "1 tables with"),
        ({"low": bytes(2 * 17_000), "size": b"\2\0" * 17_000}, "17000 tables"),
        ({"freq": b"\0\x10"}, "sizes say"),
        ({"intra__contexts": b"\1\0"}, "contexts of 1 channels"),
        ({"intra__contexts": b"\0\0" * 6}, "contexts"),
        ({"intra__index": b"\xff\xff\xff\xff" * 36}, "names table|index has shape"),
        ({"intra__skip": b"\xff\xff" * 12}, "skip"),
        ({"inter": 5}, "parse"),
        ({"more": 5}, "parse"),
        ({"points": "two"}, "parse"),
        ({"points": True}, "parse"),
    ],
)
def test_unsound_files_are_refused_in_one_line(changes, words):
    with pytest.raises(BundleError, match=words) as caught:
        EntropyModel.from_bytes(edited(**changes))
    assert "\n" not in str(caught.value)


def test_freqs_that_do_not_sum_to_the_precision_are_refused():
    model = small_model()
    freqs = model.freq.astype("<u2")
    freqs[0] += 1
    with pytest.raises(BundleError, match="sum to 4096"):
        EntropyModel.from_bytes(edited_simple(model, freqs))


def test_an_empty_slot_is_refused():
    model = small_model()
    freqs = model.freq.astype("<u2")
    freqs[:2] = freqs[:2].sum(), 0
    with pytest.raises(BundleError, match="empty slot"):
        EntropyModel.from_bytes(edited_simple(model, freqs))


def edited_simple(model: EntropyModel, freqs: np.ndarray) -> bytes:
    file = msgspec.msgpack.decode(model.to_bytes())
    return msgspec.msgpack.encode({**file, "freq": freqs.tobytes()})


def test_a_file_over_the_limit_is_refused_before_it_is_read():
    with pytest.raises(BundleError, match="limit 16777216"):
        EntropyModel.from_bytes(bytes(16_777_217))
