"""Linear probes: they find what is there, choose a sensible penalty, and refuse what cannot be learnt."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ConfigError, InputError
from tasks.probe import PENALTIES, Scaling, fit_probe, fold_rows, log_losses

pytest.importorskip("scipy")


def blobs(
    per_class: int, *, classes: int = 5, width: int = 20, spread: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Clouds around `classes` centres that do not depend on the seed; features of very different sizes and offsets."""
    centres = np.random.default_rng(99).standard_normal((classes, width)) * 1.5
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    points = centres[labels] + spread * rng.standard_normal((len(labels), width))
    return (points * np.geomspace(0.01, 10, width) + 3).astype(np.float32), labels


def top1(probe_logits: np.ndarray, labels: np.ndarray) -> float:
    return float((probe_logits.argmax(axis=1) == labels).mean())


def test_recovers_a_linear_problem() -> None:
    """Well separated classes are told apart on new examples, whatever the features' scales."""
    features, labels = blobs(40)
    new_features, new_labels = blobs(40, seed=1)
    assert top1(fit_probe(features, labels, classes=5).logits(new_features), new_labels) > 0.97


def test_matches_the_known_posterior() -> None:
    """Two unit Gaussians at ±1: the log odds are 2x, so weight difference ≈ 2 and bias difference ≈ 0."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20_000)
    features = (rng.standard_normal(40_000) + np.where(labels == 1, 1.0, -1.0)).astype(np.float32)[:, None]
    probe = fit_probe(features, labels, classes=2, penalties=[1e-6])
    assert pytest.approx(float(probe.weight[1, 0] - probe.weight[0, 0]), abs=0.08) == 2.0
    assert pytest.approx(float(probe.bias[1] - probe.bias[0]), abs=0.05) == 0.0


def test_more_noise_wants_a_stronger_penalty() -> None:
    """Cross-validation picks a weak penalty for clean data and a strong one for noise."""
    clean = fit_probe(*blobs(30, spread=0.3), classes=5)
    rng = np.random.default_rng(0)
    noise = fit_probe(rng.standard_normal((150, 20)).astype(np.float32), rng.permutation(np.arange(150) % 5), classes=5)
    assert clean.penalty < 1e-2 < noise.penalty
    assert min(noise.log_loss.values()) == pytest.approx(np.log(5), abs=0.1)


def test_chosen_penalty_has_the_least_held_out_loss() -> None:
    probe = fit_probe(*blobs(10, spread=3), classes=5)
    assert min(probe.log_loss, key=lambda penalty: probe.log_loss[penalty]) == probe.penalty
    assert set(probe.log_loss) <= set(PENALTIES)


def test_same_data_same_probe() -> None:
    one, other = (fit_probe(*blobs(8), classes=5) for _ in range(2))
    np.testing.assert_array_equal(one.weight, other.weight)


def test_class_without_examples_is_allowed() -> None:
    """It is never the answer."""
    features, labels = blobs(20)
    probe = fit_probe(features, labels, classes=6)
    assert len(probe.bias) == 6
    assert 5 not in probe.logits(features).argmax(axis=1)


def test_feature_that_never_moves_does_no_harm() -> None:
    features, labels = blobs(20)
    features[:, 3] = 7.0
    new_features, new_labels = blobs(20, seed=1)
    new_features[:, 3] = 7.0
    assert top1(fit_probe(features, labels, classes=5).logits(new_features), new_labels) > 0.9


def test_progress_ends_at_the_total() -> None:
    steps: list[tuple[int, int]] = []
    fit_probe(*blobs(8), classes=5, on_step=lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _total in steps] == sorted(done for done, _total in steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels_M": [0, 5]}, "labels run from 0 to 5, expected 0 to 4"),
        ({"labels_M": [0, 1, 2]}, "for 3 labels"),
        ({"features_MD": np.array([[1.0, np.nan], [0, 1]])}, "1 feature rows are not finite"),
    ],
)
def test_what_cannot_be_learnt(change: dict[str, object], message: str) -> None:
    given = {"features_MD": np.eye(2), "labels_M": [0, 1]} | change
    with pytest.raises(InputError, match=message):
        fit_probe(**given, classes=5)  # type: ignore[arg-type]


def test_penalties_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="penalties"):
        fit_probe(np.eye(2, dtype=np.float32), [0, 1], classes=2, penalties=[0.0])


def test_folds_keep_groups_together_and_spread_classes() -> None:
    """Views of one photo never lie on both sides; each class is held out about equally often."""
    labels = np.repeat(np.arange(10) % 2, 2)
    groups = np.repeat(np.arange(10), 2)
    held = np.zeros(20, int)
    for learn, out in fold_rows(labels, 5, groups_M=groups):
        assert not set(groups[learn]) & set(groups[out])
        assert len(set(labels[out])) == 2
        held += out
    assert held.tolist() == [1] * 20


def test_the_only_group_of_a_class_is_never_held_out() -> None:
    """What was not learnt cannot be told: such rows would only drown the others."""
    labels = np.array([0, 0, 1, 1, 2, 3, 3])
    groups = np.array([0, 1, 2, 3, 4, 5, 5])
    held = sum(out.astype(int) for _learn, out in fold_rows(labels, 4, groups_M=groups))
    assert np.asarray(held).tolist() == [1, 1, 1, 1, 0, 0, 0]


def test_single_examples_do_not_choose_the_penalty() -> None:
    """Nine further classes of one example each: the loss stays that of the ten that can be held out."""
    features, labels = blobs(12, classes=19, spread=1.5)
    kept = (labels < 10) | (np.arange(len(labels)) % 12 == 0)
    probe = fit_probe(features[kept], labels[kept], classes=19)
    assert min(probe.log_loss.values()) < 0.8
    alone = fit_probe(features[::12], labels[::12], classes=19)
    assert (alone.log_loss, alone.penalty) == ({}, 0.01)


def test_scaling_folds_into_the_weights() -> None:
    """Folded weights on plain features give what the weights give on scaled ones."""
    features, _labels = blobs(5)
    scaling = Scaling.of(features)
    weights = np.random.default_rng(0).standard_normal((3, 21))
    weight, bias = scaling.fold(weights)
    np.testing.assert_allclose(
        scaling(features) @ weights[:, :-1].T + weights[:, -1], features @ weight.T + bias, atol=1e-3
    )


def test_log_losses() -> None:
    """Two equal logits: ln 2; a certain right answer: 0."""
    logits = np.array([[1, 1], [50, 0]], np.float32)
    np.testing.assert_allclose([np.log(2), 0], log_losses(logits, np.array([1, 0])), atol=1e-9)
