"""What every run has in common: budgets and progress."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from pipeline.errors import ConfigError, FrankenError  # noqa: E402
from pipeline.models.backbones import load_backbone  # noqa: E402
from pipeline.training.log import Counters  # noqa: E402
from pipeline.training.recipes import Recipe  # noqa: E402
from pipeline.training.run import EvaluationPhotos, RunSettings, at_sizes_of, check_budget, progress_by  # noqa: E402
from tests.pipeline.training.photos import write_tar  # noqa: E402

NOWHERE = RunSettings(("photos.tar",), Path("store"), Path("out"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "budgets given: none"),
        ({"minutes": 3.0, "steps": 2}, "--minutes, --steps"),
        ({"steps": 0}, "--steps is 0"),
        ({"end_at": "noon"}, "07:30"),
    ],
)
def test_one_budget_is_needed(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_budget(replace(NOWHERE, **changes))


def test_progress() -> None:
    """By steps and by minutes in all it follows the counters; by time it begins where the elapsed part puts it."""
    later = Counters(step=5, elapsed_s=30.0)
    assert progress_by(replace(NOWHERE, steps=20), Counters())(later) == 0.25
    assert progress_by(replace(NOWHERE, minutes_in_all=2.0), Counters())(later) == 0.25
    assert progress_by(replace(NOWHERE, minutes=1.5), later)(later) == pytest.approx(0.25, abs=0.01)
    assert 0.0 <= progress_by(replace(NOWHERE, end_at="07:30"), Counters())(later) < 1.0


def test_one_size_only() -> None:
    """Swin takes the frames of a bundle or it is refused, before anything is trained."""
    fits = load_backbone("swin_tiny_patch4_window7_224", pretrained=False)
    assert {phase.crop for phase in at_sizes_of(Recipe(), {fits.tag: fits}).phases} == {224}
    large = load_backbone("swin_base_patch4_window12_384", pretrained=False)
    with pytest.raises(ConfigError, match="takes images of 384 pixels only, bundles are for 224"):
        at_sizes_of(Recipe(), {large.tag: large})


@pytest.mark.parametrize(
    ("labels", "held_out", "words"),
    [
        (None, None, "cannot read labels.csv"),
        ({"a.png": 1}, "empty", "no photos in .*empty to evaluate on"),
        ({"a.png": 1}, "nowhere", "no photos at .*nowhere"),
    ],
)
def test_photos_to_evaluate_on_are_looked_at_first(
    tmp_path: Path, labels: dict[str, int] | None, held_out: str | None, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    labelled = write_tar(tmp_path / "labelled.tar", ["a.png"], labels=labels)
    photos = EvaluationPhotos(labelled, tmp_path / held_out if held_out else None)
    with pytest.raises(FrankenError, match=words):
        photos.check()


def test_held_out_photos_want_labelled_ones() -> None:
    """Alone they would do nothing."""
    with pytest.raises(ConfigError, match="give both"):
        EvaluationPhotos(held_out=Path("photos")).check()
