"""From examples to a head: what it is worth, and a clear line where examples teach nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, InputError
from tasks import teaching
from tasks.discriminant import fit_discriminant
from tasks.example_store import Examples, ExampleStore
from tasks.head_file import read_head, read_head_entry
from tasks.small_network import fit_network
from tasks.teaching import find_confusions, teach
from tasks.unknown import UNKNOWN
from tests.tasks.examples import ORIGIN, WIDTH, clusters, elsewhere

pytest.importorskip("scipy")


@pytest.mark.parametrize("kind", ["linear", "mlp", "nearest"])
def test_a_head_of_every_kind(kind: str) -> None:
    """It tells easy classes apart, calls strangers unknown, and its files read back to the same answers."""
    lesson = teach("Vögel", clusters(), ORIGIN, kind=kind)
    assert lesson.accuracy is not None
    assert lesson.accuracy.value == 100
    assert lesson.head.labels == ("class 0", "class 1", "class 2", UNKNOWN)
    entry = read_head_entry(lesson.files.toml)
    assert (entry.task, entry.kind, entry.classes, entry.codec_id, entry.accuracy_codec) == (
        "Vögel", kind, 3, "c" * 64, 100.0,
    )  # fmt: skip
    pooled = clusters(seed=0).pooled_MD
    again = read_head(lesson.files, backbone="null", feature_width=WIDTH)
    assert (again.logits(pooled).argmax(axis=1) == lesson.head.logits(pooled).argmax(axis=1)).all()


def spots(count: int = 60, *, seed: int = 0) -> tuple[Examples, np.ndarray]:
    """Maps of noise with a faint mark at one of 36 places, of one kind or the other; pooled they tell nothing."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_normal((count, 4, 6, 6)).astype(np.float16)
    labels = np.arange(count) % 2
    for row, label in enumerate(labels):
        y, x = rng.integers(0, 6, 2)
        maps[row, :, y, x] = (9, 9, 0, 0) if label else (9, -9, 0, 0)
    maps -= maps.mean(axis=(2, 3), keepdims=True)
    pooled = maps.mean(axis=(2, 3), dtype=np.float32)
    return Examples(("round", "square"), pooled, labels, np.arange(count), np.arange(count) % 10 > 7), maps


def test_a_head_on_the_feature_map_finds_what_pooling_loses() -> None:
    """A small thing anywhere; without `unknown`, which it says; its files read back to the same answers."""
    examples, maps = spots(200)
    lesson = teach("marks", examples, replace(ORIGIN, feature_width=4), kind="map", maps_MFhw=maps)
    assert lesson.accuracy is not None
    assert lesson.accuracy.value > 90
    assert lesson.head.labels == ("round", "square")
    assert any("never answers 'unknown'" in note for note in lesson.notes)
    again = read_head(lesson.files, backbone="null", feature_width=4)
    fresh, strange = spots(seed=5)
    assert (again.logits(strange.astype(np.float32)).argmax(axis=1) == fresh.labels_M).mean() > 0.9


def test_a_head_on_the_feature_map_needs_two_classes() -> None:
    examples, maps = spots(20)
    alone = replace(examples, classes=("mark",), labels_M=np.zeros(20, np.int64))
    with pytest.raises(InputError, match="one class, 'mark': a head needs two"):
        teach("marks", alone, replace(ORIGIN, feature_width=4), kind="map", maps_MFhw=maps)


def test_accuracy_is_of_a_head_that_never_saw_the_held_out_examples() -> None:
    """Labels that mean nothing cannot be guessed, however well they are learnt by heart."""
    examples = clusters(2, 100)
    shuffled = replace(examples, labels_M=np.random.default_rng(0).permutation(examples.labels_M))
    lesson = teach("noise", shuffled, ORIGIN)
    assert lesson.accuracy is not None
    assert lesson.accuracy.value < 75


def test_one_class() -> None:
    """With the gate it is a detector; without, there is nothing to tell apart."""
    lesson = teach("mug", clusters(1, 20), ORIGIN)
    assert lesson.head.labels == ("class 0", UNKNOWN)
    assert any("by distance alone" in note for note in lesson.notes)
    assert (lesson.head.unknown.distances(elsewhere()) > lesson.head.unknown.threshold).mean() > 0.9  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="has one class, 'class 0': a head needs two"):
        teach("mug", clusters(1, 20), ORIGIN, unknown=False)
    with pytest.raises(InputError, match="one class and too few examples"):
        teach("mug", clusters(1, 3), ORIGIN)


@pytest.mark.parametrize("kind", ["mlp", "nearest"])
def test_one_class_of_another_kind_is_linear(kind: str) -> None:
    """And said so: there is nothing to learn but the distance."""
    lesson = teach("mug", clusters(1, 20), ORIGIN, kind=kind)
    assert (lesson.head.kind, lesson.head.labels) == ("linear", ("class 0", UNKNOWN))
    assert any(f"kind {kind} nothing to learn" in note for note in lesson.notes)


def test_one_picture_a_class() -> None:
    """Learnt, not measured, and said so."""
    examples = clusters(3, 1)
    lesson = teach("rare", replace(examples, held_out_M=np.zeros(3, bool)), ORIGIN)
    assert lesson.accuracy is None
    assert any("3 classes have one picture" in note for note in lesson.notes)
    assert (lesson.head.logits(examples.pooled_MD).argmax(axis=1) == np.arange(3)).all()


def test_a_class_that_is_only_held_out_is_named() -> None:
    """Learnt in the end, not measured; with one other class there is nothing to measure."""
    examples = clusters(3, 20)
    lesson = teach("x", replace(examples, held_out_M=examples.held_out_M | (examples.labels_M == 2)), ORIGIN)
    line = "1 classes have held-out examples alone (class 2): they are learnt in the end, and not measured"
    assert line in lesson.notes
    assert (lesson.held_out, lesson.accuracy and lesson.accuracy.value) == (10, 100)
    assert lesson.head.logits(examples.pooled_MD[-1:]).argmax() == 2
    two = clusters(2, 20)
    assert teach("x", replace(two, held_out_M=two.held_out_M | (two.labels_M == 1)), ORIGIN).accuracy is None


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_classes_of_one_picture_beside_others(kind: str) -> None:
    """Each is learnt: the only picture of a class never says when to stop."""
    examples = clusters(12, 20, width=32)
    kept = (examples.labels_M < 2) | (np.arange(240) % 20 == 0)
    rare = Examples(
        examples.classes, examples.pooled_MD[kept], examples.labels_M[kept], np.arange(50), np.zeros(50, bool)
    )
    head = teach("rare", rare, replace(ORIGIN, feature_width=32), kind=kind, unknown=False).head
    assert (head.logits(rare.pooled_MD).argmax(axis=1) == rare.labels_M).all()


def test_ten_thousand_classes() -> None:
    """In seconds, by the discriminant: the optimiser of a probe would take gigabytes."""
    examples = clusters(10_000, 2, width=48, noise=0.05)
    lesson = teach(
        "everything", replace(examples, held_out_M=examples.groups_M % 40 == 1), replace(ORIGIN, feature_width=48)
    )
    assert lesson.accuracy is not None
    assert lesson.accuracy.value > 80
    assert "discriminant" in lesson.regularisation


def test_unknown_is_set_by_captures_that_were_not_learnt_from(tmp_path: Path) -> None:
    """Three captures a label, each in its own light: a fourth is mostly known, and the figures say about as much."""
    rng = np.random.default_rng(0)
    means = np.abs(rng.standard_normal(256)) + 0.3 * rng.standard_normal((2, 256))

    def capture(label: int) -> np.ndarray:
        light = means[label] + 0.3 * rng.standard_normal(256)
        return (light + 0.05 * rng.standard_normal((20, 256))).astype(np.float32)

    origin, store = replace(ORIGIN, feature_width=256), ExampleStore(tmp_path)
    for label in (0, 1) * 3:
        store.save_capture(f"label {label}", capture(label), origin)
    examples = store.load(origin)[0]
    assert examples is not None
    lesson = teach("lights", examples, origin)
    gate = lesson.head.unknown  # type: ignore[attr-defined]
    fresh = np.concatenate([capture(label) for label in (0, 1) * 10])
    assert (gate.distances(fresh) > gate.threshold).mean() < 0.3
    assert lesson.unknown is not None


def test_a_class_called_unknown_is_a_class() -> None:
    examples = replace(clusters(2), classes=("cup", UNKNOWN))
    lesson = teach("cups", examples, ORIGIN)
    assert lesson.head.labels == ("cup", UNKNOWN)


@pytest.mark.parametrize(
    ("examples", "kind", "line"),
    [
        (clusters(2), "magic", "kind is 'magic', expected linear, mlp, nearest, map"),
        (clusters(2), "map", "no feature maps: heads of kind map learn from pictures"),
        (replace(clusters(2), classes=("a", "b", "c")), "linear", "no examples of c"),
        (replace(clusters(2), pooled_MD=np.full((24, WIDTH), np.nan, np.float32)), "linear", "not finite"),
    ],
)
def test_what_teaches_nothing(examples: Examples, kind: str, line: str) -> None:
    with pytest.raises((InputError, ConfigError), match=line):
        teach("birds", examples, ORIGIN, kind=kind)


def test_confusion_pairs_worth_knowing() -> None:
    """Both directions together, most first; a single slip is not worth a line."""
    truth = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    answers = np.array([1, 1, 0, 2, 0, 1, 2, 2, 2])
    (pair,) = find_confusions(answers, truth, ("jay", "wren", "owl"))
    assert (pair.first, pair.second, pair.first_as_second, pair.second_as_first, pair.examples) == (
        "jay",
        "wren",
        2,
        1,
        6,
    )


def test_a_class_that_others_outnumber_is_named() -> None:
    """The accuracy alone hides it: 784 against 16 that look the same."""
    rows = np.arange(800)
    pooled = np.random.default_rng(0).standard_normal((800, WIDTH)).astype(np.float32)
    labels = (rows % 50 == 49).astype(np.int64)
    alike = Examples(("class 0", "class 1"), pooled, labels, rows, rows // 50 % 2 == 1)
    lesson = teach("mugs", alike, ORIGIN, unknown=False)
    assert lesson.accuracy is not None
    assert lesson.accuracy.value > 95
    assert "'class 1' is told in 0 of 8 held-out examples alone: add more of it" in lesson.notes


def test_discriminant_is_as_good_where_both_can_be_fitted() -> None:
    examples = clusters(5, 30, noise=0.8)
    held = examples.held_out_M
    probe = fit_discriminant(examples.pooled_MD[~held], examples.labels_M[~held], classes=5)
    assert (probe.logits(examples.pooled_MD[held]).argmax(axis=1) == examples.labels_M[held]).mean() > 0.9


def test_a_class_without_examples_is_never_the_discriminants_answer() -> None:
    examples = clusters(3)
    probe = fit_discriminant(examples.pooled_MD, examples.labels_M, classes=4)
    assert (probe.logits(examples.pooled_MD).argmax(axis=1) < 3).all()


def test_a_network_divides_what_no_flat_cut_does() -> None:
    """Exclusive or, with noise."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 2, (400, 2))
    features = np.concatenate(
        [2 * corners - 1 + 0.2 * rng.standard_normal((400, 2)), rng.standard_normal((400, 2))], axis=1
    )
    labels = corners[:, 0] ^ corners[:, 1]
    network = fit_network(features.astype(np.float32), labels, classes=2)
    assert (network.logits(features.astype(np.float32)).argmax(axis=1) == labels).mean() > 0.95


def test_work_beyond_the_probes_goes_to_the_discriminant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "PROBE_WORK_MAX", 10)
    assert "discriminant" in teach("birds", clusters(), ORIGIN).regularisation
