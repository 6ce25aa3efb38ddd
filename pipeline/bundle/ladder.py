"""The bundle's measured table as rate control's ladder: what each operating point costs and loses."""

from __future__ import annotations

from pipeline.bundle.manifest import EdgeSpec
from pipeline.errors import ConfigError
from pipeline.rate_control import EncodeChoice, Rung, pinned


def rate_ladder(spec: EdgeSpec, *, quality: str = "", layers: int | None = None) -> tuple[Rung, ...]:
    """One rung for each operating point; `quality` and `layers` pin the user's choice.

    A bundle whose points were not measured has nothing to choose by: its default point alone. Raises BundleError for
    an unknown quality, ConfigError for a number of layers that there is not.
    """
    count = len(spec.latent.layers)
    if layers is not None and not 1 <= layers <= count:
        raise ConfigError(f"layers is {layers}, this bundle has 1 to {count}")
    measured = all(point.bytes_mean > 0 for point in spec.operating_points)
    rungs = tuple(
        Rung(
            EncodeChoice(index), point.name, point.bytes_mean or 1.0, point.loss_points, tuple(point.layer_loss_points)
        )
        for index, point in enumerate(spec.operating_points)
    )
    point_index = spec.operating_point_index(quality) if quality or not measured else None
    return pinned(rungs, operating_point=point_index, layers=layers)
