"""HeadStack: one product for all heads, each frame gets what its session asked for, a failing head harms no other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bundle import Bundle
from pipeline.errors import BundleError
from pipeline.runtime.engine import NullEngine
from tasks.head import HeadStack, TaskHead, best_indices, bundle_heads, softmax
from tests.bundles import backbone, random_bundle

WIDTH = 16
CLASSES = {"pets": 3, "food": 20, "colours": 7}


def head(name: str, *, classes: int | None = None, width: int = WIDTH, seed: int = 0, on: str = "small") -> TaskHead:
    count = classes or CLASSES[name]
    rng = np.random.default_rng([seed, count])
    labels = tuple(f"{name} {i}" for i in range(count))
    weight = rng.standard_normal((count, width), np.float32)
    return TaskHead(name, on, weight, rng.standard_normal(count, np.float32), labels)


def features(rows: int, *, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, WIDTH), np.float32)


@pytest.fixture
def stack() -> HeadStack:
    return HeadStack([head(name) for name in CLASSES])


@dataclass
class OtherHead:
    """A head of another kind, as a plugin may bring it; raises what it is told to, or gives what it is told to."""

    name: str = "other"
    backbone: str = "small"
    kind: str = "nearest"
    labels: tuple[str, ...] = ("near", "far")
    version: int = 1
    title: str = ""
    gives: object = None

    def logits(self, pooled_BD: np.ndarray) -> np.ndarray:
        if isinstance(self.gives, Exception):
            raise self.gives
        if self.gives is not None:
            return np.asarray(self.gives)
        return np.tile(np.array([1.0, 0.0], np.float32), (len(pooled_BD), 1))


@given(
    rows=st.integers(1, 9),
    wanted=st.lists(st.sampled_from(sorted(CLASSES)), unique=True),
    seed=st.integers(0, 1000),
)
def test_stack_equals_separate_heads(rows: int, wanted: list[str], seed: int) -> None:
    """Law: the stack's scores are those of each head alone, whichever are wanted."""
    heads = {name: head(name, seed=seed) for name in CLASSES}
    pooled = features(rows, seed=seed)
    scores = HeadStack(heads.values()).scores(pooled, wanted)
    assert set(wanted) == set(scores)
    for name in wanted:
        np.testing.assert_allclose(softmax(heads[name].logits(pooled)), scores[name], rtol=1e-4, atol=1e-6)


def test_top_is_the_softmax_of_the_best_labels(stack: HeadStack) -> None:
    pooled = features(2)
    expected = softmax(stack.head("food").logits(pooled))
    result = stack.top(pooled, 4, [["food"], ["food"]])[1][0]
    best = np.argsort(-expected[1])[:4]
    assert [f"food {i}" for i in best] == [label.name for label in result.labels]
    assert best.tolist() == [label.index for label in result.labels]
    np.testing.assert_allclose(expected[1][best], [label.score for label in result.labels], rtol=1e-4)


def test_each_row_gets_what_it_asked_for(stack: HeadStack) -> None:
    """Tasks, their order and the number of labels differ by row; none is fine too."""
    results = stack.top(features(4), [1, 2, 20, 1], [["food", "pets"], ["colours"], ["pets"], []])
    assert [[result.task for result in row] for row in results] == [["food", "pets"], ["colours"], ["pets"], []]
    assert [[len(result.labels) for result in row] for row in results] == [[1, 1], [2], [3], []]


def test_rows_do_not_depend_on_their_batch(stack: HeadStack) -> None:
    """A frame's labels are the same alone and in company."""
    pooled = features(5)
    together = stack.top(pooled, 2)
    alone = [stack.top(pooled[i : i + 1], 2)[0] for i in range(5)]
    assert [[r.labels[0].index for r in row] for row in alone] == [[r.labels[0].index for r in row] for row in together]


def test_head_with_weights_that_are_not_finite_is_left_out() -> None:
    """It is named in the results; the others go on and score as if it were not there."""
    bad = head("food")
    bad.weight[3, 2] = np.nan
    stack = HeadStack([head("pets"), bad, head("colours")])
    results = {result.task: result for result in stack.top(features(1))[0]}
    assert "head food has weights that are not finite" in results["food"].error
    assert results["food"].labels == []
    assert HeadStack([head("pets")]).top(features(1))[0][0] == results["pets"]
    assert {"food"} == set(stack.failed)


def test_head_that_overflows_is_taken_out_and_stays_out() -> None:
    """Finite weights can still give infinity; from then on it costs nothing."""
    huge = head("food")
    huge.weight[:] = 3e38
    stack = HeadStack([head("pets"), huge])
    pooled = np.ones((2, WIDTH), np.float32)
    assert "food gave values that are not finite" in stack.top(pooled)[0][1].error
    assert {"pets"} == set(stack.logits(pooled))


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (RuntimeError("no\nmemory"), "other failed: RuntimeError: no memory"),
        (np.zeros((1, 3), np.float32), "gave (1, 3), expected (1, 2)"),
        (np.full((1, 2), np.nan, np.float32), "gave values that are not finite"),
    ],
)
def test_other_head_that_fails_is_taken_out(gives: object, message: str) -> None:
    """Whatever a plugin's head does, its task reports it by name and the others go on."""
    stack = HeadStack([head("pets"), OtherHead(gives=gives)])
    pets, other = stack.top(features(1))[0]
    assert (len(pets.labels), pets.error) == (1, "")
    assert message in other.error


def test_other_kinds_of_heads_are_served_beside_linear_ones() -> None:
    stack = HeadStack([OtherHead(), head("pets")])
    assert stack.top(features(1))[0][0].labels[0].name == "near"


def test_row_whose_features_are_not_finite_fails_alone(stack: HeadStack) -> None:
    """A bad frame is no reason to take a head out."""
    pooled = features(3)
    pooled[1, 5] = np.nan
    results = stack.top(pooled)
    assert [row[0].error for row in results] == ["", "features of small are not finite for this frame", ""]
    assert stack.failed == {}


def test_task_that_is_not_here(stack: HeadStack) -> None:
    assert stack.top(features(1), 1, [["birds"]])[0][0].error == "no task birds on small: known are pets, food, colours"


def test_infos_are_what_a_server_offers(stack: HeadStack) -> None:
    assert [(info.name, info.backbone, info.classes) for info in stack.infos()] == [
        ("pets", "small", 3),
        ("food", "small", 20),
        ("colours", "small", 7),
    ]


def test_stack_without_heads_answers_nothing() -> None:
    stack = HeadStack([], backbone="small", feature_width=WIDTH)
    assert stack.top(features(2)) == [[], []]


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([head("pets"), head("pets")], "two heads on small are called pets"),
        ([head("pets"), head("food", width=8)], "head food reads 8 features, small gives 16"),
        ([head("pets"), head("food", on="large")], "head food is for backbone large, not small"),
        ([OtherHead(title="t" * 129)], "head other has a name of 5 and a title of 129 characters, limit 128"),
    ],
)
def test_heads_that_do_not_fit_are_refused(heads: list[TaskHead | OtherHead], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        HeadStack(heads)


def test_features_of_another_backbone_are_refused(stack: HeadStack) -> None:
    with pytest.raises(BundleError, match=r"features are \(1, 8\)"):
        stack.top(np.zeros((1, 8), np.float32))


@pytest.mark.parametrize(
    ("weight", "bias", "labels", "message"),
    [
        (np.zeros((2, 4)), np.zeros(3), 2, r"weight \(2, 4\) and bias \(3,\)"),
        (np.zeros(4), np.zeros(4), 4, r"weight \(4,\)"),
        (np.zeros((2, 4)), np.zeros(2), 3, "2 classes and 3 labels"),
    ],
)
def test_head_whose_parts_do_not_fit(weight: np.ndarray, bias: np.ndarray, labels: int, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        TaskHead("pets", "small", weight, bias, tuple(str(i) for i in range(labels)))


@given(classes=st.integers(1, 40), rows=st.integers(1, 4), seed=st.integers(0, 1000), data=st.data())
def test_best_indices_are_the_largest_values(classes: int, rows: int, seed: int, data: st.DataObject) -> None:
    """Law: as a full sort says, for any k."""
    k = data.draw(st.integers(1, classes))
    values = np.random.default_rng(seed).permutation(classes * rows).reshape(rows, classes).astype(np.float32)
    np.testing.assert_array_equal(np.argsort(-values, axis=1)[:, :k], best_indices(values, k))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    only = backbone("null", alias="", pooled_width=8, default=True)
    return random_bundle(tmp_path_factory.mktemp("heads") / "bundle", backbones=(only,))


def test_heads_of_a_bundle(bundle: Bundle) -> None:
    """The backbone's own classifier first, then the bundle's heads with the catalogue's labels."""
    heads = bundle_heads(bundle, NullEngine())
    assert [one.name for one in heads] == ["imagenet1k", "cifar100", "flowers102", "food101"]
    assert [one.labels[0] for one in heads] == ["tench", "apple", "pink primrose", "apple pie"]
    assert len(HeadStack(heads).top(np.zeros((1, 8), np.float32))[0]) == 4


def test_head_with_unknown_labels_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    only = backbone("null", alias="", pooled_width=8, default=True)
    strange = random_bundle(tmp_path_factory.mktemp("heads") / "strange", backbones=(only,), tasks=("birds",))
    with pytest.raises(BundleError, match="head birds names label set 'birds'"):
        bundle_heads(strange, NullEngine())
    labels = {"birds": [f"bird {i}" for i in range(10)]}
    assert bundle_heads(strange, NullEngine(), labels=labels)[1].labels[0] == "bird 0"
