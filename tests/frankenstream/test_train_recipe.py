"""The default recipe: its stages, what each is asked to do, and what is checked before the first."""

from __future__ import annotations

import importlib
import io
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("torch")

from frankenstream import train_recipe
from frankenstream.train_recipe import Stages, train_default_bundle
from pipeline.errors import FrankenError
from pipeline.packing.pack import PackSettings
from pipeline.training.codec import Wishes
from pipeline.training.run import RunSettings
from tests.pipeline.training.photos import write_tar


def test_stages_are_done_once(tmp_path: Path) -> None:
    """What is done is not done again, also by another process; what was stopped is; a failure leaves no mark."""
    ran: list[str] = []

    def stage(name: str, result: bool | None) -> bool:
        stages = Stages(tmp_path / "done.json", Console(file=io.StringIO()))
        return stages.run(name, lambda: (ran.append(name), result)[1])

    assert not stage("codec", False)
    assert stage("codec", True)
    assert stage("codec", True)
    assert stage("bundle", None)
    assert stage("bundle", None)
    assert ran == ["codec", "codec", "bundle"]
    with pytest.raises(ZeroDivisionError):
        Stages(tmp_path / "done.json", Console(file=io.StringIO())).run("heads", lambda: bool(1 // 0))
    assert not stage("heads", False)


class FakeModules:
    """Stands for the modules of training and packing that a recipe calls: notes what it is asked to do."""

    def __init__(self, *, finished: bool = True) -> None:
        self.finished = finished
        self.runs: list[object] = []
        self.packed: list[PackSettings] = []

    def find(self, name: str) -> object:
        return self if name in ("training.codec", "packing.pack") else importlib.import_module(f"pipeline.{name}")

    def train_codec(self, settings: object, wishes: Wishes, **_options: object) -> FakeModules:
        self.runs.append(settings)
        self.wishes = wishes
        return self

    def pack(self, settings: PackSettings, **_options: object) -> None:
        self.packed.append(settings)

    Wishes = Wishes
    PackSettings = PackSettings


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    (tmp_path / "photos").mkdir()
    write_tar(tmp_path / "labelled.tar", ["a.png"], labels={"a.png": 1})
    photos = (f"{tmp_path / 'photos'}:train/:2",)
    return RunSettings(photos, tmp_path / "store", tmp_path / "out", minutes=5.0, threads=1)


def made_by(fake: FakeModules, settings: RunSettings, monkeypatch: pytest.MonkeyPatch, **more: object) -> Path | None:
    options = {"data": None, "tasks": (), "clips": None, "cache": None, "objective": "kl", "name": "mine"} | more
    labelled = settings.out.parent / "labelled.tar"
    with monkeypatch.context() as patch:
        patch.setattr(train_recipe, "_module", fake.find)
        quiet = Console(file=io.StringIO())
        return train_default_bundle(settings, evaluate_photos=labelled, **options, console=quiet)  # type: ignore[arg-type]


def test_default_recipe(settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while the codec trains, nothing is packed; finished, the bundle is packed once, of what was trained."""
    stopped, first, second = FakeModules(finished=False), FakeModules(), FakeModules()
    assert made_by(stopped, settings, monkeypatch) is None
    assert stopped.packed == []
    results = [made_by(fake, settings, monkeypatch, cache=tmp_path) for fake in (first, second)]
    assert results == [tmp_path / "out" / "packed" / "bundle"] * 2
    assert (second.packed, second.runs) == ([], [])
    (trained,), (packed,) = first.runs, first.packed
    assert isinstance(trained, RunSettings)
    assert (trained.minutes, trained.minutes_in_all, trained.out) == (None, 5.0, tmp_path / "out" / "run")
    assert first.wishes.objective == "kl"
    assert packed.checkpoint == tmp_path / "out" / "run" / "last.pt"
    assert [(source.prefix, source.stride) for source in packed.sources()] == [("train/", 2)]
    assert (packed.name, packed.cache, packed.clips) == ("mine", tmp_path, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clips": "photos"}, "no clips in"),
        ({"data": "photos"}, "no food101 in"),
        ({"data": "photos", "tasks": ("birds",)}, "task is 'birds'"),
        ({"tasks": ("food101",)}, "--data"),
    ],
)
def test_recipe_looks_at_everything_first(
    settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], words: str
) -> None:
    """What a later stage would miss is said before hours of training."""
    fake = FakeModules()
    given = {key: tmp_path / value if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(FrankenError, match=words):
        made_by(fake, settings, monkeypatch, **given)
    assert fake.runs == []
