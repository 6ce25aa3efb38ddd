"""The stages of a frame's way, in order: the only names in messages, metrics, logs and screens (DESIGN chapter 2).

A stage is the difference of two consecutive time stamps, so there are no gaps: stages up to `downlink` sum to
capture-to-result. `present` (drawing on the edge) comes after it.
"""

from __future__ import annotations

STAGES: tuple[str, ...] = (
    "capture",
    "preprocess",
    "analysis",
    "entropy_encode",
    "send_wait",
    "uplink",
    "entropy_decode",
    "queue",
    "synthesis",
    "tail",
    "heads",
    "downlink",
    "present",
)

# Measured on the server's clock and carried in `Result.stages_us`, in this order.
SERVER_STAGES: tuple[str, ...] = ("entropy_decode", "queue", "synthesis", "tail", "heads")

# What capture-to-result is the sum of.
CAPTURE_TO_RESULT: tuple[str, ...] = STAGES[:-1]
