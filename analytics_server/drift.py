"""Whether the frames that come in still look like those that the bundle's figures were measured on. Pure.

Two signals need no labels: the bytes of a frame that stands alone (how surprising its picture is to the entropy model;
estimated, so that frames coded against a reference count as well) and the score of the label on top (how sure a head
is). Both are compared with the reference distribution in the bundle's manifest by the population stability index,
PSI = Σ (live − reference) · ln(live / reference) over the reference's bins. Its usual reading, from credit scoring:
below 0.1 the same, 0.1 to 0.25 look at it, above 0.25 something has changed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.bundle.manifest import Distribution, ReferenceFigures

WINDOW_FRAMES = 2_000
"""Frames after which what was seen counts 1/e: about a minute of one camera."""
FRAMES_MIN = 100
"""Below this many frames nothing is said: PSI of few samples is large by chance."""


@dataclass(frozen=True)
class Drift:
    """One signal: `signal` is payload_bytes or confidence, `of` an operating point or TASK@BACKBONE."""

    signal: str
    of: str
    psi: float
    frames: float
    """Frames that it rests on, older ones counting less."""


class LiveDistribution:
    """Counts in the bins of a reference, forgetting slowly."""

    def __init__(self, reference: Distribution) -> None:
        self._edges = reference.edges
        self._shares = reference.shares
        self._counts = [0.0] * len(reference.shares)
        self._seen = 0
        self._weight = 1.0
        self._growth = 1.0 / (1.0 - 1.0 / WINDOW_FRAMES)

    def add(self, value: float) -> None:
        """One more frame. New ones weigh more instead of old ones less: one addition a frame."""
        self._counts[bisect_left(self._edges, value)] += self._weight
        self._seen += 1
        self._weight *= self._growth
        if self._weight > 1e12:
            self._counts = [count / self._weight for count in self._counts]
            self._weight = 1.0

    @property
    def seen(self) -> int:
        """Frames so far."""
        return self._seen

    @property
    def frames(self) -> float:
        """Frames that count now: at most WINDOW_FRAMES."""
        return sum(self._counts) / self._weight * self._growth

    def psi(self) -> float:
        """The population stability index; half a frame in every bin keeps it finite."""
        frames, bins = self.frames, len(self._shares)
        total = 0.0
        for count, share in zip(self._counts, self._shares, strict=True):
            live = (count / self._weight * self._growth + 0.5) / (frames + 0.5 * bins)
            expected = (share * frames + 0.5) / (frames + 0.5 * bins)
            total += (live - expected) * math.log(live / expected)
        return total


class DriftMeter:
    """All signals of one server. Not for several threads at once. Without a reference there are none."""

    def __init__(self, reference: ReferenceFigures | None) -> None:
        self._payload: dict[str, LiveDistribution] = {}
        self._confidence: dict[tuple[str, str], LiveDistribution] = {}
        if reference is not None:
            self._payload = {point: LiveDistribution(one) for point, one in reference.payload_bytes.items()}
            self._confidence = {
                (task, backbone): LiveDistribution(one)
                for backbone, tasks in reference.confidence.items()
                for task, one in tasks.items()
            }

    def __bool__(self) -> bool:
        """Whether there is anything to compare with."""
        return bool(self._payload or self._confidence)

    def payload(self, operating_point: str, standalone_bytes: float) -> None:
        """A whole frame came in that would have so many bytes without its reference."""
        live = self._payload.get(operating_point)
        if live is not None:
            live.add(standalone_bytes)

    def confidence(self, task: str, backbone: str, score: float) -> None:
        """A task was answered with a label of this score on top."""
        live = self._confidence.get((task, backbone))
        if live is not None:
            live.add(score)

    def values(self) -> Iterator[Drift]:
        """The signals that rest on enough frames."""
        for point, live in self._payload.items():
            if live.seen >= FRAMES_MIN:
                yield Drift("payload_bytes", point, live.psi(), live.frames)
        for (task, backbone), live in self._confidence.items():
            if live.seen >= FRAMES_MIN:
                yield Drift("confidence", f"{task}@{backbone}", live.psi(), live.frames)
