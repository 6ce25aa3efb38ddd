"""Heads that are not one matrix: they answer through the same stack, and say what does not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import BundleError
from tasks.head import HeadStack, TaskHead
from tasks.kinds import MapHead, MlpHead, NearestHead
from tests.tasks.examples import WIDTH, clusters


def nearest() -> NearestHead:
    examples = clusters()
    return NearestHead(
        name="near", backbone="null", labels=examples.classes, examples=examples.pooled_MD, owners=examples.labels_M,
        centre=np.zeros(WIDTH, np.float32), spread=np.ones(WIDTH, np.float32), classes=3,
    )  # fmt: skip


def mlp(width: int = WIDTH) -> MlpHead:
    rng = np.random.default_rng(0)
    return MlpHead(
        name="mlp", backbone="null", labels=("a", "b"), inner=rng.standard_normal((5, width), np.float32),
        inner_bias=np.zeros(5, np.float32), outer=rng.standard_normal((2, 5), np.float32),
        outer_bias=np.zeros(2, np.float32),
    )  # fmt: skip


def spot() -> MapHead:
    """Fires where the second channel is strong, anywhere."""
    return MapHead(
        name="spot", backbone="null", labels=("nothing", "spot"), inner=np.array([[0, 1]], np.float32),
        inner_bias=np.zeros(1, np.float32), outer=np.array([[0], [9]], np.float32),
        outer_bias=np.array([3, 0], np.float32),
    )  # fmt: skip


def test_nearest_examples_vote() -> None:
    examples = clusters()
    assert (nearest().logits(examples.pooled_MD).argmax(axis=1) == examples.labels_M).all()


@pytest.mark.parametrize("classes", [3, 1000])
def test_votes_of_all_are_sure(classes: int) -> None:
    """However many other classes there are."""
    one = nearest()
    head = replace(one, classes=classes, labels=tuple(map(str, range(classes))), k=1)
    scores = np.exp(head.logits(one.examples[:1])[0].astype(np.float64))
    assert scores[0] / scores.sum() == pytest.approx(0.999, abs=5e-4)


def test_a_small_thing_anywhere_on_the_map_is_seen() -> None:
    """One place of 28 × 28 is enough."""
    maps = np.zeros((2, 2, 28, 28), np.float32)
    maps[1, 1, 20, 3] = 4
    assert spot().logits(maps).argmax(axis=1).tolist() == [0, 1]


def test_all_kinds_in_one_stack() -> None:
    """Each gets what it reads; without a feature map only the head that wants one is taken out."""
    linear = TaskHead("flat", "null", np.eye(3, WIDTH, dtype=np.float32), np.zeros(3, np.float32), ("x", "y", "z"))
    pooled, maps = clusters().pooled_MD[:2], np.zeros((2, 2, 4, 4), np.float32)
    heads = [linear, nearest(), mlp(), spot()]
    results = HeadStack(heads).top(pooled, feature_BFhw=maps)[0]
    assert [(r.task, bool(r.labels)) for r in results] == [(head.name, True) for head in heads]
    results = HeadStack(heads).top(pooled)[0]
    assert [(r.task, r.error[:9]) for r in results if r.error] == [("spot", "head spot")]


def test_a_head_of_another_width_is_refused() -> None:
    linear = TaskHead("flat", "null", np.eye(3, WIDTH, dtype=np.float32), np.zeros(3, np.float32), ("x", "y", "z"))
    with pytest.raises(BundleError, match="head mlp reads 9 features, null gives 16"):
        HeadStack([linear, mlp(9)])


def test_arrays_that_do_not_fit_each_other() -> None:
    with pytest.raises(BundleError, match="its arrays do not fit each other"):
        MlpHead(
            name="mlp", backbone="null", labels=("a", "b"), inner=np.zeros((5, 3), np.float32),
            inner_bias=np.zeros(4, np.float32), outer=np.zeros((2, 5), np.float32), outer_bias=np.zeros(2, np.float32),
        )  # fmt: skip
