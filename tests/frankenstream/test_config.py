"""Settings that need more than their type."""

from __future__ import annotations

import pytest

from frankenstream.config import EncoderSettings
from pipeline.errors import ConfigError


def test_sticky_is_the_bundles_a_number_or_off() -> None:
    """Off is a threshold of 0."""
    assert EncoderSettings().sticky_threshold is None
    assert EncoderSettings(sticky="off").sticky_threshold == 0
    assert EncoderSettings(sticky=1.25).sticky_threshold == 1.25


@pytest.mark.parametrize("value", [-0.1, 4.5, float("nan")])
def test_sticky_out_of_range_is_one_line(value: float) -> None:
    """With the limit."""
    with pytest.raises(ConfigError, match=r"expected 0 to 4, or off"):
        _ = EncoderSettings(sticky=value).sticky_threshold
