"""The ladder of rate control comes from the bundle's measured table."""

from __future__ import annotations

import msgspec
import pytest

from pipeline.bundle import Bundle
from pipeline.bundle.ladder import rate_ladder
from pipeline.errors import BundleError, ConfigError


def test_a_rung_for_each_operating_point() -> None:
    """Names, bytes and losses as edge/spec.toml has them."""
    spec = Bundle.open(None).edge_spec
    ladder = rate_ladder(spec)
    assert [(rung.name, rung.bytes_mean, rung.loss_points) for rung in ladder] == [
        (point.name, point.bytes_mean, point.loss_points) for point in spec.operating_points
    ]


def test_choices_are_pinned() -> None:
    """One quality; fewer layers, with what they lose as measured, or unknown; and what there is not is told."""
    spec = Bundle.open(None).edge_spec
    assert [rung.name for rung in rate_ladder(spec, quality="high")] == ["high"]
    measured = [(3, point.layer_loss_points[2]) for point in spec.operating_points]
    assert [(rung.encode.layers, rung.loss_points) for rung in rate_ladder(spec, layers=3)] == measured
    points = [msgspec.structs.replace(point, layer_loss_points=[]) for point in spec.operating_points]
    unmeasured = msgspec.structs.replace(spec, operating_points=points)
    assert [(rung.encode.layers, rung.loss_points) for rung in rate_ladder(unmeasured, layers=3)] == [(3, None)] * 3
    with pytest.raises(BundleError, match="'best' is not in this bundle"):
        rate_ladder(spec, quality="best")
    with pytest.raises(ConfigError, match="layers is 9, this bundle has 1 to 8"):
        rate_ladder(spec, layers=9)


def test_without_measurements_the_default_point_is_all_there_is() -> None:
    """There is nothing to choose by."""
    spec = Bundle.open(None).edge_spec
    points = [msgspec.structs.replace(point, bytes_mean=0.0) for point in spec.operating_points]
    ladder = rate_ladder(msgspec.structs.replace(spec, operating_points=points))
    assert [rung.name for rung in ladder] == [spec.default_operating_point]
