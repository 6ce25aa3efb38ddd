"""Figures as they are written down."""

from __future__ import annotations

from benchmarks.machine import rounded


def test_four_digits_through_the_whole_structure() -> None:
    figures = {"rows": [{"ms": 1.23456}, 2.34567], "pair": (0.000123456, "x"), "count": 123456, "none": None}
    assert rounded(figures) == {
        "rows": [{"ms": 1.235}, 2.346], "pair": [0.0001235, "x"], "count": 123456, "none": None,
    }  # fmt: skip
