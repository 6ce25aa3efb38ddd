"""The gate: what is near a class passes, what is far from all is unknown, and a stack ranks it accordingly."""

from __future__ import annotations

import numpy as np

from tasks.head import HeadStack, TaskHead
from tasks.unknown import UNKNOWN, UnknownGate, fit_gate
from tests.tasks.examples import WIDTH, clusters, elsewhere


def gate(classes: int = 3) -> UnknownGate:
    examples = clusters(classes)
    fitted = fit_gate(examples.pooled_MD, examples.labels_M, classes=classes)
    assert fitted is not None
    return fitted


def test_most_examples_pass_and_strangers_do_not() -> None:
    """New examples of the classes mostly pass; features of no class hardly ever do."""
    fitted = gate()
    known = clusters(seed=0, each=40).pooled_MD[1::2]
    assert (fitted.distances(known) <= fitted.threshold).mean() > 0.8
    assert (fitted.distances(elsewhere()) > fitted.threshold).mean() > 0.9


def test_unknown_is_the_best_answer_exactly_beyond_the_threshold() -> None:
    """Whatever the classes' own scores are."""
    fitted = gate()
    pooled = np.concatenate([clusters(noise=0.6).pooled_MD, elsewhere()])
    logits = np.random.default_rng(0).normal(0, 0.1, (len(pooled), 3)).astype(np.float32)
    best = fitted.widen(logits, pooled).argmax(axis=1)
    assert ((best == 3) == (fitted.distances(pooled) > fitted.threshold)).all()


def test_one_class_is_told_by_distance_alone() -> None:
    examples = clusters(1, 30)
    fitted = fit_gate(examples.pooled_MD, examples.labels_M, classes=1)
    assert fitted is not None
    assert (fitted.distances(elsewhere()) > fitted.threshold).mean() > 0.9


def test_a_small_loose_class_is_not_sacrificed_to_a_large_tight_one() -> None:
    """1,000 examples against 20: of both classes most pass."""
    rng = np.random.default_rng(0)
    means, noise = np.abs(rng.standard_normal((2, 256))), (0.1, 0.8)

    def of(label: int, count: int) -> np.ndarray:
        return (means[label] + noise[label] * rng.standard_normal((count, 256))).astype(np.float32)

    fitted = fit_gate(np.concatenate([of(0, 1000), of(1, 20)]), np.repeat([0, 1], [1000, 20]), classes=2)
    assert fitted is not None
    assert [(fitted.distances(of(label, 200)) > fitted.threshold).mean() < 0.3 for label in (0, 1)] == [True, True]


def test_too_few_examples_make_no_gate() -> None:
    """One example a class leaves nothing to take a distance from."""
    examples = clusters(20, 1, width=32)
    assert fit_gate(examples.pooled_MD, examples.labels_M, classes=20) is None


def test_a_stack_answers_unknown() -> None:
    """As the last label of the head, beside heads that never do; a wild frame is unknown, not a wild guess."""
    examples = clusters()
    weight = np.zeros((3, WIDTH), np.float32)
    labels = (*examples.classes, UNKNOWN)
    with_gate = TaskHead("birds", "null", weight, np.zeros(3, np.float32), labels, unknown=gate())
    plain = TaskHead("food", "null", weight, np.zeros(3, np.float32), examples.classes)
    stack = HeadStack([with_gate, plain])
    birds, food = stack.top(elsewhere(1), 4)[0]
    assert (birds.labels[0].name, birds.labels[0].index) == (UNKNOWN, 3)
    assert UNKNOWN not in {label.name for label in food.labels}
    assert abs(sum(label.score for label in birds.labels) - 1) < 1e-5


def test_frames_that_are_not_finite_stay_errors() -> None:
    """A broken feature is neither a class nor unknown."""
    examples = clusters()
    head = TaskHead(
        "birds", "null", np.zeros((3, WIDTH), np.float32), np.zeros(3, np.float32), (*examples.classes, UNKNOWN),
        unknown=gate(),
    )  # fmt: skip
    pooled = np.concatenate([np.full((1, WIDTH), np.nan, np.float32), examples.pooled_MD[:1]])
    broken, good = HeadStack([head]).top(pooled)
    assert "not finite" in broken[0].error
    assert good[0].labels
