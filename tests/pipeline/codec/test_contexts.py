"""Context functions and their declaration."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.codec import Contexts, contexts_data, parse_contexts
from pipeline.codec.contexts import (
    Earlier,
    Term,
    changes,
    checkerboard,
    coding_order,
    context_values,
    earlier_changes,
    layer,
    previous,
    previous_term,
    reference,
    reference_neighbourhood,
)
from pipeline.errors import BundleError
from tests.codecs import CONTEXTS, LAYERS

CHANNEL = np.array([[0, 2, 0], [-1, 0, 5], [0, 0, 0]], np.int16)


def values(*terms, channel=CHANNEL, frame=None, held=None):
    frame = np.zeros((1, *channel.shape), np.int16) if frame is None else frame
    return context_values(terms, 0, channel, frame, held).tolist()


def test_no_term_is_context_0():
    assert values() == [[0, 0, 0]] * 3
    assert values(Term("none")) == [[0, 0, 0]] * 3


def test_reference_is_the_clipped_symbol_at_the_same_place():
    assert values(reference(2), held=CHANNEL) == [[2, 4, 2], [1, 2, 4], [2, 2, 2]]


def test_reference_neighbourhood_classes_the_four_neighbours():
    # Sums of magnitudes: [3 0 7], [0 8 0], [1 0 5]
    assert values(reference_neighbourhood(3, 6), held=CHANNEL) == [[1, 0, 2], [0, 2, 0], [0, 0, 1]]


def test_checkerboard_is_0_on_the_first_half_and_classes_the_second():
    channel = np.array([[2, 9, 1], [9, -4, 9], [0, 9, 0]], np.int16)
    # Neighbours of the odd places: 2+1+4, 2+4+0, 1+4+0, 4+0+0
    assert values(checkerboard(5, 7), channel=channel) == [[0, 3, 0], [2, 0, 2], [0, 1, 0]]


def test_previous_classes_the_sum_to_the_left_and_above():
    channel = np.array([[2, 9, -1], [9, -4, 9], [0, 9, 1]], np.int16)
    # Sums: [0 2 9], [2 18 -5], [9 -4 18]
    assert values(previous(-4, 0, 9), channel=channel) == [[2, 2, 3], [2, 3, 0], [3, 1, 3]]
    assert previous_term([reference(1), previous(0)]) == (previous(0), 3)
    assert previous_term([reference(1)]) is None


def test_layer_is_the_clipped_symbol_of_its_source():
    frame = np.stack([CHANNEL * 0, CHANNEL])
    assert values(layer([1], clip=1), frame=frame) == [[1, 2, 1], [0, 1, 2], [1, 1, 1]]


def test_changes_classes_the_share_that_is_not_its_prediction():
    # Two channels before, so ten cells at each place; five of them are changed at (0, 0), here and to the right.
    changed = np.array([[2, 2, 0], [1, 0, 0], [0, 0, 0]])
    expected = [[3, 2, 1], [2, 2, 0], [1, 0, 0]]  # sums [5 4 2] [3 3 0] [1 0 0]
    found = context_values([changes(1, 75, 128)], 0, CHANNEL, CHANNEL[None], None, Earlier(2, changed))
    assert found.tolist() == expected


def test_changes_of_the_first_channel_are_none():
    found = context_values([changes(1)], 0, CHANNEL, CHANNEL[None], None, Earlier(0, np.zeros((3, 3), np.int64)))
    assert found.tolist() == [[0, 0, 0]] * 3


def test_earlier_changes_counts_channels_that_left_their_prediction():
    frame = np.stack([CHANNEL, CHANNEL, CHANNEL])
    held = frame.copy()
    held[0, 0, 0] += 1
    held[1, 0, 0] += 1
    held[2, 0, 1] += 1  # the channel itself does not count
    referring = earlier_changes(frame, 2, held, np.zeros(3, np.int16))
    assert referring.changed_HW.tolist() == [[2, 0, 0], [0, 0, 0], [0, 0, 0]]
    alone = earlier_changes(frame, 2, None, np.array([0, 5, 9], np.int16))
    assert alone.changed_HW.tolist() == [[1, 2, 1], [2, 1, 1], [1, 1, 1]]


def test_terms_combine_first_fastest():
    alone = np.array(values(reference(1), held=CHANNEL)), np.array(values(reference_neighbourhood(3), held=CHANNEL))
    assert (alone[0] + 3 * alone[1]).tolist() == values(reference(1), reference_neighbourhood(3), held=CHANNEL)


def test_coding_order_is_row_by_row_or_one_half_after_the_other():
    assert coding_order(2, 3, checkerboard_order=False).tolist() == [0, 1, 2, 3, 4, 5]
    assert coding_order(2, 3, checkerboard_order=True).tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize("name", CONTEXTS)
def test_declared_contexts_come_back_as_they_were(name):
    contexts = CONTEXTS[name]
    back = parse_contexts(contexts_data(contexts), LAYERS)
    for set_name in ("intra", "inter"):
        for number in range(len(LAYERS)):
            assert contexts.terms(set_name, number) == back.terms(set_name, number)
    assert (contexts.inter is None) == (back.inter is None)


def test_layers_left_out_means_all():
    contexts = parse_contexts([{"set": "inter", "terms": [{"kind": "reference", "clip": 3}]}], LAYERS)
    assert ((reference(3),),) * 3 == contexts.inter
    assert contexts.intra == ()


def entry(term=None, **more):
    return [{"set": "inter", "terms": [term or {"kind": "none"}], **more}]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (entry({"kind": "hyperprior"}), "unknown kind 'hyperprior'"),
        (entry({"kind": 3}), "unknown kind 3"),
        (entry("reference"), "expected a table"),
        (entry({"kind": "reference"}), "parameters"),
        (entry({"kind": "reference", "clip": 3, "step": 2}), "parameters"),
        (entry({"kind": "reference", "clip": 8}), "clip is 8"),
        (entry({"kind": "reference", "clip": True}), "whole number"),
        (entry({"kind": "checkerboard", "thresholds": [3, 3]}), "rising"),
        (entry({"kind": "checkerboard", "thresholds": [-1]}), "rising numbers from 1"),
        (entry({"kind": "previous", "thresholds": [0, 0]}), "rising numbers from -16384"),
        (entry({"kind": "previous", "thresholds": [-16_385]}), "rising numbers from -16384"),
        (
            [{"set": "intra", "terms": [{"kind": sort, "thresholds": [1]} for sort in ("checkerboard", "previous")]}],
            "more than one term of kind checkerboard or previous",
        ),
        (entry({"kind": "checkerboard", "thresholds": []}), "rising"),
        (entry({"kind": "checkerboard", "thresholds": [0]}), "rising"),
        (entry({"kind": "checkerboard", "thresholds": ["1"]}), "whole numbers"),
        (entry({"kind": "changes", "thresholds": [1, 257]}), "limit 256"),
        (entry({"kind": "layer", "clip": 1, "sources": [0, 0]}, layers=[1]), "2 sources for 1 channels"),
        (entry({"kind": "layer", "clip": 1, "sources": [2]}, layers=[1]), "source channel 2"),
        (entry({"kind": "layer", "clip": 1, "sources": [0, 0]}, layers=[0]), "source channel 0"),
        (entry(layers=[3]), "names layer 3"),
        (entry(layers=0), "expected a list"),
        (entry(extra=1), "unknown keys"),
        ([{"set": "both", "terms": []}], "expected intra or inter"),
        ([{"set": "intra", "terms": [{"kind": "reference", "clip": 1}]}], "needs a reference"),
        ([{"set": "inter", "terms": [{"kind": "reference", "clip": 7}] * 3}], "contexts, limit"),
        ([{"set": "inter", "terms": [{"kind": "none"}] * 9}], "9 terms"),
        ([{"set": "intra", "terms": [{"kind": "checkerboard", "thresholds": [1]}] * 2}], "more than one term"),
    ],
)
def test_unsound_declarations_are_refused_in_one_line(entries, words):
    with pytest.raises(BundleError, match=words) as caught:
        parse_contexts(entries, LAYERS)
    assert "\n" not in str(caught.value)


def test_contexts_for_another_number_of_layers_are_refused():
    with pytest.raises(BundleError, match="for 2 layers, the codec has 3"):
        Contexts(intra=((), ())).check(LAYERS)
