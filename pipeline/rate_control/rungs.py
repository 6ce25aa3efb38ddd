"""What rate control may choose from, and what it chose: settings with their measured price and loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

UNCHANGED_SHARE: Final = 0.001
"""A frame is not sent if at most this share of its symbols differs from its reference's: some 60 bytes of news."""


@dataclass(frozen=True, slots=True)
class EncodeChoice:
    """How a frame is to be encoded. `layers` None: all; `theta` None: the operating point's own."""

    operating_point: int
    layers: int | None = None
    theta: float | None = None


@dataclass(frozen=True, slots=True)
class Rung:
    """One setting with its measured price and loss, as the bundle says. `bytes_mean`: a frame that stands alone."""

    encode: EncodeChoice
    name: str
    bytes_mean: float
    loss_points: float | None = None
    """Points of top-1 below the unmodified backbone; None: not measured."""
    layer_loss_points: tuple[float, ...] = ()
    """The same where only the first 1, 2, … layers arrived; empty: not measured."""

    def loss_with(self, decoded_layers: int, sent_layers: int) -> float | None:
        """Expected loss of an answer from so many layers; None: not measured."""
        if decoded_layers >= sent_layers:
            return self.loss_points
        return self.layer_loss_points[decoded_layers - 1] if decoded_layers <= len(self.layer_loss_points) else None


@dataclass(frozen=True, slots=True)
class RateChoice:
    """What the controller wants now. `fps` is the frame rate that the link takes of it, `kbps` the estimated rate."""

    rung: int
    encode: EncodeChoice
    name: str
    expected_loss_points: float | None
    fps: float
    kbps: float | None
    """None: not known yet."""


def pinned(
    ladder: Sequence[Rung], *, operating_point: int | None = None, layers: int | None = None, theta: float | None = None
) -> tuple[Rung, ...]:
    """The rungs that the user's choices leave. A pinned `layers` or `theta` that was not measured has no known loss."""
    kept = [rung for rung in ladder if operating_point in (None, rung.encode.operating_point)]
    changed = []
    for rung in kept:
        encode = replace(
            rung.encode,
            layers=rung.encode.layers if layers is None else layers,
            theta=rung.encode.theta if theta is None else theta,
        )
        loss = rung.loss_points
        if layers is not None:
            loss = rung.loss_with(layers, layers + 1)
        if theta is not None:
            loss = None
        changed.append(replace(rung, encode=encode, loss_points=loss))
    return tuple(dict.fromkeys(changed))


def hardly_changed(changed_share: float) -> bool:
    """Whether a frame says nothing worth sending: `changed_share` of its symbols differ from the answered frame's."""
    return changed_share <= UNCHANGED_SHARE
