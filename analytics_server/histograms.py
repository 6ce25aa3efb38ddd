"""Histograms and counters that cost little: plain additions under one lock that the caller holds for a whole frame.

prometheus_client's own take a lock and walk their buckets for every observation; with six observations a frame, and
cold caches between two batches, that was the larger part of what watching cost (benchmarks/overhead.py).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Histograms(Collector):
    """One histogram for each value of `label`. `observe` only while holding `lock`."""

    def __init__(
        self, name: str, text: str, label: str, buckets: Sequence[float], *, lock: threading.Lock,
        registry: CollectorRegistry, known: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._name, self._text, self._label = name, text, label
        self._bounds = list(buckets)
        self._lock = lock
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        for value in known:
            self._begin(value)
        registry.register(self)

    def observe(self, label: str, value: float) -> None:
        """One more value."""
        counts = self._counts.get(label)
        if counts is None:
            counts = self._begin(label)
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[label] += value

    def describe(self) -> list[Metric]:
        return [HistogramMetricFamily(self._name, self._text, labels=[self._label])]

    def collect(self) -> list[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        with self._lock:
            found = [(label, list(counts), self._sums[label]) for label, counts in self._counts.items()]
        for label, counts, total in found:
            buckets, seen = [], 0
            for bound, count in zip([*map(str, map(float, self._bounds)), "+Inf"], counts, strict=True):
                seen += count
                buckets.append((bound, float(seen)))
            family.add_metric([label], buckets, total)
        return [family]

    def _begin(self, label: str) -> list[int]:
        self._sums[label] = 0.0
        return self._counts.setdefault(label, [0] * (len(self._bounds) + 1))


class Counts(Collector):
    """One counter for each value of `label`. `add` only while holding `lock`."""

    def __init__(
        self, name: str, text: str, label: str, *, lock: threading.Lock, registry: CollectorRegistry,
        known: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._name, self._text, self._label = name, text, label
        self._lock = lock
        self._counts = dict.fromkeys(known, 0.0)
        registry.register(self)

    def add(self, label: str, value: float = 1.0) -> None:
        """So much more."""
        self._counts[label] = self._counts.get(label, 0.0) + value

    def describe(self) -> list[Metric]:
        return [CounterMetricFamily(self._name, self._text, labels=[self._label])]

    def collect(self) -> list[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=[self._label])
        with self._lock:
            found = dict(self._counts)
        for label, value in found.items():
            family.add_metric([label], value)
        return [family]
