"""The layers' benchmark: the same symbols, cut otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.layers import layer_counts, with_layers
from pipeline.bundle import Bundle
from pipeline.errors import ConfigError


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


def test_layer_counts(bundle: Bundle) -> None:
    """The bundle's own layers, or the detailed first three as one and the others as one."""
    assert layer_counts(bundle) == [2, 8]
    assert with_layers(bundle, 2).spec.layers == (96, 160)
    with pytest.raises(ConfigError, match="they can be 2, not 1"):
        with_layers(bundle, 1)


@pytest.mark.parametrize("layers", [2, 8])
def test_regrouped_layers_hold_the_same_symbols(bundle: Bundle, layers: int) -> None:
    """What is coded in fewer layers decodes to the same, in fewer bytes than the bundle's own eight."""
    own, regrouped = bundle.latent_codec(), with_layers(bundle, layers)
    symbols = np.random.default_rng(0).integers(-2, 3, (bundle.latent_spec.channels, 14, 14)).astype(np.int16)
    coded = regrouped.encode(symbols, 1)
    decoded = regrouped.decode(coded)
    assert np.array_equal(decoded.symbols, symbols)
    assert decoded.layers == layers
    assert len(coded) <= len(own.encode(symbols, 1)) - (8 - layers)
