"""What a trained head is worth: accuracy directly and through the codec, loss, agreement, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from tasks.evaluate import Estimate, accuracy, agreement, loss_points
from tasks.probe import Float32, Probe
from tasks.through_codec import BothWays


@dataclass(frozen=True)
class HeadFigures:
    """How good a head is on its test split: top-1 in percent, loss in points, agreement in percent, bytes a frame."""

    task: str
    backbone: str
    pictures: int
    direct: Estimate
    codec: Estimate
    head: Estimate
    loss: Estimate
    agreement: Estimate
    payload_bytes_mean: float
    penalty: float

    def as_table(self) -> dict[str, float | int | list[float]]:
        """For a manifest."""
        return {
            "test_pictures": self.pictures,
            "accuracy_direct": round(self.direct.value, 2),
            "accuracy_codec": round(self.codec.value, 2),
            "accuracy_head_direct": round(self.head.value, 2),
            "loss_points": round(self.loss.value, 2),
            "loss_points_interval": [round(self.loss.low, 2), round(self.loss.high, 2)],
            "agreement": round(self.agreement.value, 2),
            "payload_bytes_mean": round(self.payload_bytes_mean, 1),
            "penalty": self.penalty,
        }


def measure_head(task: str, reference: Probe, probe: Probe, test: BothWays) -> HeadFigures:
    """Figures of `probe` (shipped) against `reference` (trained on direct features) on the test split."""
    labels = test.codec.labels_M
    direct, codec = reference.logits(test.direct.pooled_MD), probe.logits(test.codec.pooled_MD)

    def correct(logits: Float32) -> np.ndarray:
        return np.asarray(logits.argmax(axis=1) == labels)

    return HeadFigures(
        task=task,
        backbone=test.codec.backbone,
        pictures=len(labels),
        direct=accuracy(correct(direct)),
        codec=accuracy(correct(codec)),
        head=accuracy(correct(probe.logits(test.direct.pooled_MD))),
        loss=loss_points(correct(direct), correct(codec)),
        agreement=agreement(direct, codec),
        payload_bytes_mean=float(test.codec.payload_bytes_M.mean()),
        penalty=probe.penalty,
    )


def figures_table(figures: Sequence[HeadFigures]) -> Table:
    """What people read at the end."""
    table = Table(title="Heads: top-1 in percent on the test split, 95 % intervals")
    for column in (
        "task",
        "backbone",
        "pictures",
        "direct",
        "codec",
        "loss (points)",
        "agreement",
        "head on JPEG",
        "bytes",
    ):
        table.add_column(column, justify="left" if column in ("task", "backbone") else "right")
    for one in figures:
        table.add_row(
            one.task, one.backbone, str(one.pictures), str(one.direct), str(one.codec), str(one.loss),
            f"{one.agreement.value:.1f}", str(one.head), f"{one.payload_bytes_mean:.0f}",
        )  # fmt: skip
    return table
