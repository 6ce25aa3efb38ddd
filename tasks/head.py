"""Task heads: pooled features in, labels out. All linear heads of a backbone are one matrix product.

A server has few backbones and many tasks, so the cost of a task must vanish beside the backbone's: `HeadStack` lays
the weights of the linear heads below each other and multiplies once. A head that fails (values that are not finite,
an exception) is taken out and reported by name in every result; the others go on. The product wants one BLAS thread:
it is small, and threads that wait for each other on a busy machine made it 50 times slower (0.15 against 8 ms, 1 ×
1,280 × 1,303).

A head may answer `unknown` (tasks.unknown): its last label, its last logit. A head that reads the feature map at the
cut instead of the pooled features says so with `reads = "feature"`.

Axes: B frames, D pooled features, N classes, F h w the feature map.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import limits
from pipeline.errors import BundleError, ConfigError
from pipeline.wire.messages import Label, TaskInfo, TaskResult
from tasks.catalogue import load_catalogue
from tasks.unknown import UnknownGate

if TYPE_CHECKING:
    from pipeline.bundle import Bundle
    from pipeline.runtime.engine import Engine

log = logging.getLogger(__name__)

Float32 = NDArray[np.float32]

IMAGENET = "imagenet1k"
"""The task whose head is the backbone's own classifier, untouched."""


class Head(Protocol):
    """What a stack needs of a head. `TaskHead` is the linear one; plugins may bring others (`kind` not "linear").

    A head with the attribute `reads = "feature"` gets the feature map (B, F, h, w) instead of pooled features.
    """

    @property
    def name(self) -> str: ...
    @property
    def backbone(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def version(self) -> int: ...
    @property
    def title(self) -> str: ...

    def logits(self, pooled_BD: Float32) -> Float32:
        """Pooled features (B, D) → logits (B, N), float32; softmax gives the scores."""
        ...


@dataclass(frozen=True, eq=False)
class TaskHead:
    """A linear head: `weight` float32 (N, D), `bias` float32 (N,), one label for each class.

    With a gate (`unknown`) there is one label more, the last one, for what fits no class.

    Raises BundleError if the three do not fit each other.
    """

    name: str
    backbone: str
    weight: Float32
    bias: Float32
    labels: tuple[str, ...]
    version: int = 1
    title: str = ""
    kind: str = field(default="linear", init=False)
    unknown: UnknownGate | None = None

    def __post_init__(self) -> None:
        weight = np.ascontiguousarray(self.weight, np.float32)
        bias = np.ascontiguousarray(self.bias, np.float32)
        if weight.ndim != 2 or 0 in weight.shape or bias.shape != weight.shape[:1]:
            raise BundleError(
                f"head {self.name} has weight {weight.shape} and bias {bias.shape}, "
                "expected (classes, features) and (classes,): make it again"
            )
        answers = len(weight) + (self.unknown is not None)
        if len(self.labels) != answers:
            raise BundleError(
                f"head {self.name} has {answers} classes and {len(self.labels)} labels: give each class one"
            )
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)
        object.__setattr__(self, "labels", tuple(self.labels))

    @property
    def feature_width(self) -> int:
        """D, the length of the pooled feature that this head reads."""
        return int(self.weight.shape[1])

    def logits(self, pooled_BD: Float32) -> Float32:
        product: Float32 = pooled_BD @ self.weight.T
        return product + self.bias


class HeadStack:
    """All heads on one backbone. Not for several threads at once.

    `failed` maps the name of a head that was taken out to the reason. Raises BundleError if a linear head does not fit
    the backbone or two heads have one name.
    """

    def __init__(self, heads: Iterable[Head], *, backbone: str = "", feature_width: int | None = None) -> None:
        given = list(heads)
        self.backbone = backbone or (given[0].backbone if given else "")
        self.failed: dict[str, str] = {}
        linear = [head for head in given if isinstance(head, TaskHead)]
        self.feature_width = feature_width or (linear[0].feature_width if linear else 0)
        self._heads: dict[str, Head] = {}
        for head in given:
            self._check(head)
            self._heads[head.name] = head
        self._stack(linear)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all heads, those that were taken out included, in the order in which they were given."""
        return tuple(self._heads)

    def head(self, name: str) -> Head:
        return self._heads[name]

    def infos(self) -> list[TaskInfo]:
        """What a server offers with these heads, for Welcome and TasksChanged."""
        return [
            TaskInfo(head.name, head.backbone, len(head.labels), head.version, head.title)
            for head in self._heads.values()
        ]

    def logits(
        self, pooled_BD: Float32, wanted: Collection[str] | None = None, *, feature_BFhw: Float32 | None = None
    ) -> dict[str, Float32]:
        """Logits (B, N) of each wanted head that works, by name; None: of all. Takes out heads that fail.

        `feature_BFhw`: the feature map, for heads that read it.
        """
        names = list(self._heads) if wanted is None else [name for name in self._heads if name in wanted]
        pooled = np.ascontiguousarray(pooled_BD, np.float32)
        if pooled.ndim != 2 or (self.feature_width and pooled.shape[1] != self.feature_width):
            raise BundleError(f"features are {pooled.shape}, heads of {self.backbone} read (B, {self.feature_width})")
        finite_rows = np.isfinite(pooled.sum(axis=1))
        out = self._linear_logits(pooled, [name for name in names if name in self._rows])
        for name in names:
            head = self._heads[name]
            if name not in self._rows and name not in self.failed:
                self._run_other(head, pooled, feature_BFhw, out)
        for name in list(out):
            gate = gate_of(self._heads[name])
            if gate is not None:
                with np.errstate(invalid="ignore"):
                    out[name] = gate.widen(out[name], pooled)
            # One sum tells for the whole block; it is a hundredth of the product's price.
            if not np.isfinite(out[name].sum()) and not np.isfinite(out[name][finite_rows]).all():
                del out[name]
                self._take_out(name, "gave values that are not finite")
        return out

    def scores(self, pooled_BD: Float32, wanted: Collection[str] | None = None) -> dict[str, Float32]:
        """Softmax scores (B, N) of each wanted head that works, by name; None: of all."""
        return {name: softmax(logits) for name, logits in self.logits(pooled_BD, wanted).items()}

    def top(
        self,
        pooled_BD: Float32,
        k: int | Sequence[int] = 1,
        wanted: Sequence[Collection[str]] | None = None,
        *,
        feature_BFhw: Float32 | None = None,
    ) -> list[list[TaskResult]]:
        """The best `k` labels of each wanted task, for each of the B rows. `feature_BFhw`: see `logits`.

        `k` and `wanted` may differ by row (sessions ask for different tasks); `wanted` None: all. A row's results come
        in the order of its `wanted` if that is a list or tuple, else in the stack's. A head that failed gives a
        TaskResult with `error`; so does a row whose features are not finite, and a task that is not here.
        """
        rows = len(pooled_BD)
        counts = [k] * rows if isinstance(k, int) else list(k)
        wishes = [list(self._heads)] * rows if wanted is None else [self._in_order(wish) for wish in wanted]
        asked: dict[str, list[int]] = {}
        for row, wish in enumerate(wishes):
            for name in wish:
                asked.setdefault(name, []).append(row)
        logits = self.logits(pooled_BD, asked.keys(), feature_BFhw=feature_BFhw)
        found: dict[tuple[str, int], TaskResult] = {}
        for name, task_rows in asked.items():
            if name in logits:
                self._rank(name, logits[name], task_rows, counts, found)
        return [[found.get((name, row)) or self._error(name) for name in wish] for row, wish in enumerate(wishes)]

    def _check(self, head: Head) -> None:
        if head.name in self._heads:
            raise BundleError(f"two heads on {self.backbone} are called {head.name}: rename one")
        if max(len(head.name), len(head.title)) > limits.NAME_CHARS_MAX:  # edges could not read TaskInfo
            raise BundleError(
                f"head {head.name[:80]} has a name of {len(head.name)} and a title of {len(head.title)} characters, "
                f"limit {limits.NAME_CHARS_MAX}: shorten them"
            )
        if head.backbone != self.backbone:
            raise BundleError(
                f"head {head.name} is for backbone {head.backbone}, not {self.backbone}: train it on this one"
            )
        width = getattr(head, "feature_width", self.feature_width)
        if width != self.feature_width and self.feature_width:
            raise BundleError(
                f"head {head.name} reads {width} features, {self.backbone} gives {self.feature_width}: "
                "train it on this backbone"
            )

    def _stack(self, linear: list[TaskHead]) -> None:
        self._rows: dict[str, slice] = {}
        sound = []
        start = 0
        for head in linear:
            if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
                self._take_out(head.name, "has weights that are not finite")
                continue
            self._rows[head.name] = slice(start, start + len(head.bias))
            start += len(head.bias)
            sound.append(head)
        nothing = np.zeros((0, self.feature_width), np.float32)
        self._weight = np.concatenate([nothing, *(head.weight for head in sound)])
        self._bias = np.concatenate([np.zeros(0, np.float32), *(head.bias for head in sound)])

    def _linear_logits(self, pooled: Float32, names: list[str]) -> dict[str, Float32]:
        """One product for each run of neighbours in the stack: one in all if every head is wanted."""
        out: dict[str, Float32] = {}
        for run in _runs([self._rows[name] for name in names]):
            with np.errstate(invalid="ignore", over="ignore"):
                block = pooled @ self._weight[run].T + self._bias[run]
            for name in names:
                rows = self._rows[name]
                if run.start <= rows.start < run.stop:
                    out[name] = block[:, rows.start - run.start : rows.stop - run.start]
        return out

    def _run_other(self, head: Head, pooled: Float32, feature_BFhw: Float32 | None, out: dict[str, Float32]) -> None:
        try:
            given = feature_BFhw if reads_map(head) else pooled
            if given is None:
                raise ValueError("reads the feature map, which this engine does not hand out")
            with np.errstate(invalid="ignore", over="ignore"):
                logits = np.asarray(head.logits(given), np.float32)
            expected = (len(pooled), len(head.labels) - (gate_of(head) is not None))
            if logits.shape != expected:
                raise ValueError(f"gave {logits.shape}, expected {expected}")
        except Exception as error:  # a plugin may raise anything, and must not stop the others
            self._take_out(head.name, f"failed: {type(error).__name__}: {' '.join(str(error).split())}"[:300])
            return
        out[head.name] = logits

    def _take_out(self, name: str, reason: str) -> None:
        self.failed[name] = f"head {name} {reason}: taken out, train it again"
        self._rows.pop(name, None)
        log.warning("%s (backbone %s)", self.failed[name], self.backbone)

    def _rank(
        self,
        name: str,
        logits_BN: Float32,
        rows: list[int],
        counts: list[int],
        found: dict[tuple[str, int], TaskResult],
    ) -> None:
        """Fill `found` with the best labels of one task for the rows that want it."""
        labels = self._heads[name].labels
        chosen = logits_BN if len(rows) == len(logits_BN) else logits_BN[rows]
        k = min(max(counts[row] for row in rows), len(labels))
        best = best_indices(chosen, k)
        top = np.take_along_axis(chosen, best, axis=1)
        highest = top[:, :1]
        scores = np.exp(top - highest) / np.exp(chosen - highest).sum(axis=1, keepdims=True)
        for row, indices, values in zip(rows, best.tolist(), scores.tolist(), strict=True):
            if not np.isfinite(values[0]):
                continue
            keep = counts[row]
            ranked = [Label(i, labels[i], s) for i, s in zip(indices[:keep], values[:keep], strict=True)]
            found[name, row] = TaskResult(name, ranked)

    def _error(self, name: str) -> TaskResult:
        if name in self.failed:
            return TaskResult(name, [], self.failed[name])
        if name not in self._heads:
            return TaskResult(name, [], f"no task {name} on {self.backbone}: known are {', '.join(self._heads)}")
        return TaskResult(name, [], f"features of {self.backbone} are not finite for this frame")

    def _in_order(self, wish: Collection[str]) -> list[str]:
        return list(wish) if isinstance(wish, list | tuple) else [name for name in self._heads if name in wish]


def gate_of(head: Head) -> UnknownGate | None:
    """What makes a head answer `unknown`, if it does."""
    gate = getattr(head, "unknown", None)
    return gate if isinstance(gate, UnknownGate) else None


def reads_map(head: Head) -> bool:
    """Whether a head looks at the feature map at the cut."""
    return getattr(head, "reads", "pooled") == "feature"


def softmax(logits_BN: Float32) -> Float32:
    """Softmax along the last axis, float32."""
    shifted = np.exp(logits_BN - logits_BN.max(axis=-1, keepdims=True))
    normalised: Float32 = shifted / shifted.sum(axis=-1, keepdims=True)
    return normalised


def best_indices(values_BN: Float32, k: int) -> NDArray[np.intp]:
    """Indices (B, k) of the k largest values of each row, best first; of equal ones the lower index first."""
    classes = values_BN.shape[1]
    if k == 1:
        first: NDArray[np.intp] = np.argmax(values_BN, axis=1, keepdims=True)
        return first
    if k < classes // 4:
        # In order of index, so that the stable sort below settles ties.
        nearest = np.sort(np.argpartition(-values_BN, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(-np.take_along_axis(values_BN, nearest, axis=1), axis=1, kind="stable")
        best: NDArray[np.intp] = np.take_along_axis(nearest, order, axis=1)
        return best
    ranked: NDArray[np.intp] = np.argsort(-values_BN, axis=1, kind="stable")
    return ranked[:, :k]


def bundle_heads(
    bundle: Bundle, engine: Engine, *, labels: Mapping[str, Sequence[str]] | None = None
) -> list[TaskHead]:
    """The heads for the engine's backbone: `imagenet1k` first (its own classifier), then those of `bundle`.

    `labels` gives label sets beyond the catalogue by id. Raises BundleError for a head that does not fit.
    """
    weight, bias = engine.classifier()
    heads = [_classifier_head(engine.backbone, weight, bias)]
    for entry in bundle.heads(engine.backbone):
        arrays = bundle.head_arrays(entry)
        try:
            known = tuple((labels or {}).get(entry.labels) or load_catalogue(entry.labels).labels)
        except ConfigError as error:
            raise BundleError(f"head {entry.task} names label set {entry.labels!r}: {error}") from None
        title = entry.title or entry.task
        heads.append(TaskHead(entry.task, entry.backbone, *arrays, known, version=entry.version, title=title))
    return heads


def _classifier_head(backbone: str, weight: Float32, bias: Float32) -> TaskHead:
    catalogue = load_catalogue(IMAGENET)
    labels = catalogue.labels if len(bias) == len(catalogue) else tuple(f"class {i}" for i in range(len(bias)))
    return TaskHead(IMAGENET, backbone, weight, bias, labels, title=catalogue.title)


def _runs(slices: list[slice]) -> list[slice]:
    """Neighbouring slices joined."""
    runs: list[slice] = []
    for part in sorted(slices, key=lambda part: int(part.start)):
        if runs and runs[-1].stop == part.start:
            runs[-1] = slice(runs[-1].start, part.stop)
        else:
            runs.append(part)
    return runs
