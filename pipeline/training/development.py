"""How a run does on photos that it is not trained on: bytes, loss, agreement and KL of the averaged codec.

On the *even* half of the labelled photos only; the odd half is for reports. Rows are appended to a CSV file.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from torch import Tensor

from pipeline.training.data import PhotoSource
from pipeline.training.evaluate import EvaluationSet, compare, load_labelled, load_unlabelled, reference_logits
from pipeline.training.log import CsvFile

if TYPE_CHECKING:
    from pipeline.training.loop import Trainer

COLUMNS = ["time", "step", "crops", "photos", "backbone", "point", "bytes", "loss_points", "agreement", "kl"]
LABELLED_MAX, UNLABELLED_MAX, UNLABELLED_STRIDE = 160, 100, 6


class DevelopmentLog:
    """Called with the trainer: measures, appends to ``file`` and prints. Raises InputError for photos without labels.

    ``held_out``: further photos, without labels. Of the first backbone all operating points are measured on labelled
    photos; the middle one says enough about the others.
    """

    def __init__(
        self, file: Path, labelled: Path, held_out: Path | None = None, console: Console | None = None
    ) -> None:
        self._csv = CsvFile(file, COLUMNS)
        self._sets: list[EvaluationSet] = [load_labelled(labelled, half="even", limit=LABELLED_MAX)]
        if held_out is not None:
            source = PhotoSource(held_out, stride=UNLABELLED_STRIDE)
            self._sets.append(load_unlabelled([source], limit=UNLABELLED_MAX))
        self._references: dict[tuple[str, str], Tensor] = {}
        self._console = console if console is not None else Console(highlight=False, soft_wrap=True, emoji=False)

    def __call__(self, trainer: Trainer) -> None:
        codec, points = trainer.average, trainer.recipe.codec.operating_points
        if not trainer.recipe.decoders_only:
            codec.update_quantiles()
        for place, (tag, backbone) in enumerate(trainer.frozen.items()):
            for photos in self._sets:
                with trainer.autocast():
                    if (tag, photos.name) not in self._references:
                        self._references[tag, photos.name] = reference_logits(backbone, photos).float()
                    every = place == 0 and photos.labels_N is not None
                    for point in range(len(points)) if every else [len(points) // 2]:
                        reference = self._references[tag, photos.name]
                        row = compare(codec, backbone, photos, reference, point=point).row()
                        self._write(trainer, photos.name, tag, points[point], row)

    def _write(self, trainer: Trainer, photos: str, tag: str, point: str, row: dict[str, float]) -> None:
        moment, counters = time.strftime("%H:%M:%S"), trainer.counters
        place = {"time": moment, "step": counters.step, "crops": counters.crops}
        self._csv.append(place | {"photos": photos, "backbone": tag, "point": point} | row)
        figures = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
        self._console.print(f"dev {moment} {photos} {tag} {point}: {figures}", markup=False)
