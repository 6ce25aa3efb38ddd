"""A run of the edge in figures: what `Monitor` counts comes to this.

`Summary` is what the demo ends with and `--summary FILE` writes; `explain_drops` says it in words. `Rolling` is what
the live table shows.
"""

from __future__ import annotations

from typing import Any

import msgspec

ROLLING_S = 2.0
"""Window of the live figures, in seconds."""


class Percentiles(msgspec.Struct, frozen=True):
    p50: float
    p95: float
    p99: float


class StagePercentiles(msgspec.Struct, frozen=True):
    p50_ms: float
    p95_ms: float
    p99_ms: float


class TopLabel(msgspec.Struct, frozen=True):
    """The label of a task that was on top most often, and its mean score when it was."""

    label: str
    score: float
    share: float = 0.0
    """Share of the answered frames in which it was on top, 0 to 1."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in figures. `captured = answered + unchanged + Σ dropped + in_flight`."""

    captured: int
    answered: int
    dropped: dict[str, int]
    """Cause → frames."""
    in_flight: int
    stages: dict[str, StagePercentiles]
    capture_to_result_ms: Percentiles | None
    """None: no frame was answered."""
    payload_bytes_mean: float
    wire_bytes_mean: float
    kbps: float
    """Wire bytes of the answered frames over the run's time, in kbit/s."""
    bits_per_pixel: float
    """Payload bits per pixel of the encoder's input (S x S)."""
    tasks: dict[str, TopLabel]
    backbone: str
    bundle_id: str
    source: str
    fps: float
    """Answered frames a second."""
    captured_fps: float = 0.0
    duration_s: float = 0.0
    coder: str = ""
    """Entropy coder in use: c or python."""
    encoder: str = ""
    """What analyses, where, in which precision, and why."""
    operating_point: str = ""
    transport: str = ""
    link: str = ""
    """Simulated link, if any."""
    server: str = ""
    late_results: int = 0
    duplicates: int = 0
    reconnects: int = 0
    clock_error_ms: float | None = None
    notices: list[str] = []
    """What was said to the user on the way, the last ones."""
    error: str = ""
    """Why the run ended before its time, if it did."""
    unchanged: int = 0
    """Frames that were not sent because their latent was that of an answered one, whose answer was repeated."""
    operating_points: dict[str, int] = {}
    """Operating point → answered frames, where rate control chose."""
    expected_loss_points: float | None = None
    """Mean of the answered frames' expected loss, in points of top-1; None: not known."""
    saved_bytes: int = 0
    """What references and repeated answers saved, in payload bytes: against the same frames standing alone."""
    link_kbps: float | None = None
    """Rate control's last estimate of the link, in kbit/s."""

    def to_json(self) -> bytes:
        """Indented JSON, figures rounded to what they are worth."""
        return msgspec.json.format(msgspec.json.encode(_rounded(msgspec.to_builtins(self))), indent=2) + b"\n"


class RunFacts(msgspec.Struct, kw_only=True):
    """What a run is about; filled in as it becomes known."""

    source: str = ""
    backbone: str = ""
    bundle_id: str = ""
    encoder: str = ""
    coder: str = ""
    operating_point: str = ""
    transport: str = ""
    link: str = ""
    server: str = ""
    input_pixels: int = 224 * 224
    """Pixels of the encoder's input: what bits_per_pixel refers to."""


class Rolling(msgspec.Struct, frozen=True):
    """The live figures, over the last ROLLING_S seconds."""

    answered_fps: float
    kbps: float
    payload_bytes: float
    capture_to_result_ms: float
    """Median."""
    alone_bytes: float = 0.0
    """Mean of what the payloads would have been without references."""


def _rounded(value: Any) -> Any:
    """Floats to six significant digits, through the whole structure: no one reads or needs more."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return value
