"""Golden vectors of sticky symbols: what Python and the web page keep of a reference, to the last symbol."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.codec import OperatingPoint
from pipeline.codec.quantisation import in_symbols, nearest_symbols
from tests.golden.quantisation.make_vectors import FILE, Case, symbols_of, unpacked, written

CASES: list[Case] = json.loads(FILE.read_text(encoding="utf-8"))


def symbols(case: Case) -> np.ndarray:
    return unpacked(case["symbols"], "<i2", case["shape"])


def symbols_in_doubles(case: Case) -> np.ndarray:
    """What an encoder would send that reckons distances, sums and limits in float64."""
    point = OperatingPoint("p", case["gain"], case["offset"])
    held = unpacked(case["held"], "<i2", case["shape"])
    scaled = in_symbols(unpacked(case["latent"], "<f4", case["shape"]), point)
    refresh, reach = case["refresh_threshold"], case["sticky_threshold"]
    sent = nearest_symbols(scaled)
    if refresh or reach > 0.5:
        distance = np.abs(scaled[: len(held)].astype(np.float64) - held)
        kept = distance <= (max(reach, 0.5) if refresh else reach)
        if refresh:
            kept |= (distance**2).sum(axis=0) <= len(held) * refresh**2
        np.copyto(sent[: len(held)], held, where=kept)
    return sent


@pytest.mark.parametrize("case", CASES, ids=[case["what"] for case in CASES])
def test_symbols_are_as_written(case: Case) -> None:
    np.testing.assert_array_equal(symbols(case), symbols_of(case))


def test_the_vectors_hold_what_only_float32_decides_so() -> None:
    """At thresholds, in distances, sums and limits; else a page that reckons in doubles would pass."""
    differ = [case["what"] for case in CASES if (symbols(case) != symbols_in_doubles(case)).any()]
    assert differ[:3] == ["at the sticky threshold 0.6", "at the sticky threshold 0.8", "at the sticky threshold 1.1"]
    assert differ[3:5] == ["distances are rounded", "sums are rounded as they grow"]
    assert [int(what.split()[0]) for what in differ[5:]] == [3, 48, 80], "channels at the refresh threshold"


def test_the_file_is_as_the_script_writes_it() -> None:
    """Line by line, so that a change can be read."""
    assert FILE.read_text(encoding="utf-8") == written(CASES)
