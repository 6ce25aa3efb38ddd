"""From examples to a head and what it is worth: fit, measure on what was held out, fit again on everything.

The accuracy is that of a head that never saw the held-out examples; the head that is written learns from all of them,
with the regularisation that was chosen, and is rather better than worse. A small network keeps a fifth of what it gets
to stop by.

Axes: M examples, D pooled features, N classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import limits
from pipeline.errors import ConfigError, InputError
from tasks.discriminant import SHRINKAGES, fit_discriminant
from tasks.evaluate import Estimate, wilson
from tasks.example_store import Examples, Origin
from tasks.head import Head, gate_of
from tasks.head_file import HeadFile, HeadFiles, pack_head, read_head
from tasks.probe import PENALTIES, PENALTY_ALONE, Float32, Scaling, fit_probe
from tasks.small_network import Features, fit_network
from tasks.unknown import UNKNOWN, UnknownGate, fit_gate

KINDS = ("linear", "mlp", "nearest", "map")
"""What can be taught here; others come as packages."""
PROBE_WORK_MAX = 2_000_000
"""Examples × classes up to which a probe is fitted; beyond, a discriminant. About two minutes of one core."""
NEAREST_EXAMPLES_MAX = 20_000
WORST_EXAMPLES_MIN = 3
"""Held-out examples that a class is called the worst from."""
_TIMED_RUNS = 30

OnStep = Callable[[str, int, int], None]
"""(what is being done, done, total)"""


@dataclass(frozen=True)
class Confusion:
    """Two classes that are taken for each other: how often, of how many held-out examples of both."""

    first: str
    second: str
    first_as_second: int
    second_as_first: int
    examples: int

    @property
    def count(self) -> int:
        return self.first_as_second + self.second_as_first


@dataclass(frozen=True)
class Lesson:
    """A head and what it is worth. `accuracy` and `unknown` in percent of the held-out examples; None: not measured."""

    files: HeadFiles
    head: Head
    counts: dict[str, int]
    accuracy: Estimate | None
    held_out: int
    unknown: Estimate | None
    confusions: tuple[Confusion, ...]
    regularisation: str
    cost_us: float
    size_bytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fitted:
    arrays: dict[str, NDArray[Any]]
    logits: Callable[[Features], Float32]
    regularisation: str
    chosen: float | None = None
    settings: dict[str, float] = field(default_factory=dict)


def teach(
    task: str,
    examples: Examples,
    origin: Origin,
    *,
    kind: str = "linear",
    maps_MFhw: Features | None = None,
    unknown: bool = True,
    title: str = "",
    operating_point: str = "",
    weights_sha256: str = "",
    trained_on: str = "",
    created: str = "",
    on_step: OnStep = lambda what, done, total: None,
) -> Lesson:
    """Train a head on `examples` and measure it. `maps_MFhw`: their feature maps, for kind "map".

    Raises InputError where they teach nothing, ConfigError.
    """
    features: Features = examples.pooled_MD
    notes: list[str] = []
    if kind == "map":
        if maps_MFhw is None:
            raise InputError(
                f"task {task} has no feature maps: heads of kind map learn from pictures, with `tasks add`"
            )
        features = maps_MFhw
        if unknown and UNKNOWN not in examples.classes:
            notes.append(f"a head on the feature map never answers {UNKNOWN!r}: give it a class of what it is not")
        unknown = False
    notes += _check(task, examples, kind, unknown)
    classes = len(examples.classes)
    if classes == 1 and kind != "linear":
        notes.append(f"one class leaves a head of kind {kind} nothing to learn: it is linear, told by distance alone")
        kind = "linear"
    learn, held = ~examples.held_out_M, examples.held_out_M
    # A class whose examples are all held out cannot be told from them.
    known = np.zeros(classes, bool)
    known[examples.labels_M[learn]] = True
    alone = [name for name, learnt in zip(examples.classes, known.tolist(), strict=True) if not learnt]
    if alone:
        notes.append(
            f"{len(alone)} classes have held-out examples alone ({_some(alone)}): they are learnt in the end, and not "
            "measured"
        )
    held = held & known[examples.labels_M]
    chosen = None
    accuracy, rejected = None, None
    confusions: tuple[Confusion, ...] = ()
    if held.any() and known.sum() > 1:
        first = _fit(kind, examples, features, learn, None, lambda done, total: on_step("learning", done, total))
        chosen = first.chosen
        answers = first.logits(features[held]).argmax(axis=1)
        truth = examples.labels_M[held]
        accuracy = wilson(int((answers == truth).sum()), len(truth))
        confusions = find_confusions(answers, truth, examples.classes)
        notes += _worst(answers, truth, examples.classes, accuracy)
    everything = np.ones(len(examples), bool)
    final = _fit(kind, examples, features, everything, chosen, lambda d, t: on_step("the final head", d, t))
    gate = _gate(task, examples, classes, unknown, notes)
    if gate is not None and held.any():
        rejected = _rejected(examples, learn, held)
    figures = {
        "learnt_from": examples.counts() if classes <= 200 else {}, "regularisation": final.regularisation,
        "confusions": [[c.first, c.second, c.first_as_second, c.second_as_first] for c in confusions],
    }  # fmt: skip
    entry = HeadFile(
        task=task, backbone=origin.backbone, classes=classes, labels=task, kind=kind, title=title or task,
        trained_on=trained_on, accuracy_codec=None if accuracy is None else round(accuracy.value, 2),
        accuracy_interval=[] if accuracy is None else [round(accuracy.low, 2), round(accuracy.high, 2)],
        names=list(examples.classes), codec_id=origin.codec_id, synthesis_sha256=origin.synthesis_sha256,
        weights_sha256=weights_sha256, operating_point=operating_point, created=created,
        pictures=len(np.unique(examples.groups_M)), settings=final.settings, figures=figures,
    )  # fmt: skip
    files = pack_head(entry, final.arrays, gate)
    if len(files.arrays) > limits.HEAD_BYTES_MAX:
        raise InputError(
            f"head {task} would take {len(files.arrays)} bytes, limit {limits.HEAD_BYTES_MAX}: fewer classes, or "
            "--no-unknown"
        )
    head = read_head(files, backbone=origin.backbone, feature_width=origin.feature_width)
    return Lesson(
        files, head, examples.counts(), accuracy, int(held.sum()), rejected, confusions, final.regularisation,
        cost_us(head, np.asarray(features[:1], np.float32)), len(files.arrays), tuple(notes),
    )  # fmt: skip


def find_confusions(
    answers_M: NDArray[np.int64], truth_M: NDArray[np.int64], names: Sequence[str], *, most: int = 5
) -> tuple[Confusion, ...]:
    """The pairs worth knowing: two or more mistakes between them, most first."""
    wrong = answers_M != truth_M
    pairs: dict[tuple[int, int], int] = {}
    for truth, answer in zip(truth_M[wrong].tolist(), answers_M[wrong].tolist(), strict=True):
        pairs[truth, answer] = pairs.get((truth, answer), 0) + 1
    counts = np.bincount(truth_M, minlength=len(names))
    found = {}
    for a, b in pairs:
        low, high = min(a, b), max(a, b)
        found[low, high] = Confusion(
            names[low],
            names[high],
            pairs.get((low, high), 0),
            pairs.get((high, low), 0),
            int(counts[low] + counts[high]),
        )
    worth = [pair for pair in found.values() if pair.count >= 2]
    return tuple(sorted(worth, key=lambda pair: (-pair.count, pair.examples, pair.first))[:most])


def _worst(
    answers_M: NDArray[np.int64], truth_M: NDArray[np.int64], names: Sequence[str], accuracy: Estimate
) -> list[str]:
    """A line about the class that is told worst, if that is less than half as often as all: they may outnumber it."""
    counts = np.bincount(truth_M, minlength=len(names))
    right = np.bincount(truth_M[answers_M == truth_M], minlength=len(names))
    recalls = np.where(counts >= WORST_EXAMPLES_MIN, 100 * right / np.maximum(counts, 1), np.inf)
    worst = int(recalls.argmin())
    if 2 * recalls[worst] >= accuracy.value:
        return []
    return [f"{names[worst]!r} is told in {right[worst]} of {counts[worst]} held-out examples alone: add more of it"]


def cost_us(head: Head, frame_1X: Float32) -> float:
    """Microseconds that a lone frame costs on this machine, beside the backbone: the median of some runs.

    `frame_1X`: what the head reads of it.
    """
    gate = gate_of(head)
    taken = []
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        logits = head.logits(frame_1X)
        if gate is not None:
            gate.widen(logits, frame_1X)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken)) * 1e6


def _check(task: str, examples: Examples, kind: str, unknown: bool) -> list[str]:
    if kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}, expected {', '.join(KINDS)}; others come as packages, see docs/tasks.md")
    counts = examples.counts()
    empty = [name for name, count in counts.items() if not count]
    if not counts or empty:
        raise InputError(f"task {task} has no examples of {', '.join(empty[:5]) or 'anything'}: add some")
    if not np.isfinite(examples.pooled_MD).all():
        raise InputError(f"task {task} has features that are not finite: remove its examples and add it again")
    notes = []
    if len(counts) == 1:
        only = next(iter(counts))
        if not unknown or only == UNKNOWN:
            raise InputError(f"task {task} has one class, {only!r}: a head needs two to tell apart, add what it is not")
        notes.append(
            f"one class: it answers {only!r} or {UNKNOWN!r}, by distance alone; a second class of what it is not makes "
            "it far better"
        )
    singles = [name for name, count in counts.items() if count == 1]
    if singles:
        notes.append(f"{len(singles)} classes have one picture ({_some(singles)}): none is left to measure them with")
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _fit(
    kind: str,
    examples: Examples,
    features_M: Features,
    rows: NDArray[np.bool_],
    chosen: float | None,
    on_step: Callable[[int, int], None],
) -> _Fitted:
    """A head of `kind` from `rows` of the features that it reads."""
    labels, groups = examples.labels_M[rows], examples.blocks(rows)
    features = features_M if rows.all() else features_M[rows]
    classes = len(examples.classes)
    if classes == 1:
        width = features.shape[1]
        arrays: dict[str, NDArray[Any]] = {"weight": np.zeros((1, width), np.float32), "bias": np.zeros(1, np.float32)}
        return _Fitted(arrays, lambda pooled: np.zeros((len(pooled), 1), np.float32), "none")
    if kind == "nearest":
        return _fit_nearest(features, labels, classes)
    if kind in ("mlp", "map"):
        network = fit_network(features, labels, classes=classes, groups_M=groups, on_step=on_step)
        return _Fitted(dict(network.arrays()), network.logits, f"stopped after {network.epochs} epochs")
    if len(examples) * classes > PROBE_WORK_MAX:  # of all, so that both fits are of one kind
        tried = SHRINKAGES if chosen is None else [chosen]
        probe = fit_discriminant(features, labels, classes=classes, groups_M=groups, shrinkages=tried, on_step=on_step)
        return _Fitted({"weight": probe.weight, "bias": probe.bias}, probe.logits,
                       f"discriminant, shrinkage {probe.penalty:g}", probe.penalty)  # fmt: skip
    penalties = [chosen] if chosen is not None else _penalties(labels, groups, classes)
    probe = fit_probe(features, labels, classes=classes, groups_M=groups, penalties=penalties, on_step=on_step)
    return _Fitted({"weight": probe.weight, "bias": probe.bias}, probe.logits,
                   f"penalty {probe.penalty:g}", probe.penalty)  # fmt: skip


def _penalties(labels: NDArray[np.int64], groups: NDArray[np.int64], classes: int) -> Sequence[float]:
    """Those to try; one where cross-validation would say nothing of most classes."""
    first = np.unique(groups, return_index=True)[1]
    counts = np.bincount(labels[first], minlength=classes)
    return PENALTIES if (counts >= 2).mean() > 0.5 else (PENALTY_ALONE,)


def _fit_nearest(features: Float32, labels: NDArray[np.int64], classes: int) -> _Fitted:
    if len(features) > NEAREST_EXAMPLES_MAX:
        kept = np.sort(np.random.default_rng(0).permutation(len(features))[:NEAREST_EXAMPLES_MAX])
        features, labels = features[kept], labels[kept]
    scaling = Scaling.of(features)
    k = int(np.clip(np.median(np.bincount(labels, minlength=classes)), 1, 10))
    arrays: dict[str, NDArray[Any]] = {
        "examples": features, "owners": labels, "centre": (0.5 * scaling.mean_D).astype(np.float32),
        "spread": scaling.spread_D.astype(np.float32),
    }  # fmt: skip
    from tasks.kinds import NearestHead

    head = NearestHead(
        name="", backbone="", labels=tuple(map(str, range(classes))), classes=classes, k=k, **arrays,  # type: ignore[arg-type]
    )  # fmt: skip
    return _Fitted(arrays, head.logits, f"{k} nearest of {len(features)}", settings={"k": float(k), "sharpness": 20.0})


def _gate(task: str, examples: Examples, classes: int, unknown: bool, notes: list[str]) -> UnknownGate | None:
    if not unknown:
        return None
    if UNKNOWN in examples.classes:
        notes.append(f"there is a class called {UNKNOWN!r}: it is learnt like any other, none is told by distance")
        return None
    everything = np.ones(len(examples), bool)
    gate = fit_gate(examples.pooled_MD, examples.labels_M, classes=classes, groups_M=examples.blocks(everything))
    if gate is None and classes == 1:
        raise InputError(f"task {task} has one class and too few examples to say what is {UNKNOWN!r}: add more of it")
    if gate is None:
        notes.append(f"too few examples to say what is {UNKNOWN!r}: every frame gets one of the classes")
    return gate


def _rejected(examples: Examples, learn: NDArray[np.bool_], held: NDArray[np.bool_]) -> Estimate | None:
    """Held-out examples that a gate which never saw them calls unknown."""
    gate = fit_gate(
        examples.pooled_MD[learn],
        examples.labels_M[learn],
        classes=len(examples.classes),
        groups_M=examples.blocks(learn),
    )
    if gate is None:
        return None
    return wilson(int((gate.distances(examples.pooled_MD[held]) > gate.threshold).sum()), int(held.sum()))
