"""`frankenstream train`: help, what is wrong in one line, and the recipe's stages. Training itself: tests/pipeline."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from frankenstream import train_recipe
from frankenstream.cli import run
from frankenstream.train_recipe import Stages, train_default_bundle

COMMANDS = [["codec"], ["decoder"], ["head"], ["backbone"], ["recipe", "default"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_torch(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", *command, "--help"]) == 0
    assert "Usage: frankenstream train" in capsys.readouterr().out


def test_the_command_loads_no_torch() -> None:
    code = "import frankenstream.cli.train, sys; print({'torch', 'timm', 'pipeline.training'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["codec"], 2, "--photos"),
        (["codec", "--photos", "/nowhere.tar", "--steps", "2"], 3, "no photos at /nowhere.tar"),
        (["codec", "--photos", "{}", "--steps", "2"], 3, "no images; expected .bmp"),
        (["codec", "--photos", "{}"], 2, "expected one of --minutes, --end-at, --steps"),
        (["codec", "--photos", "{}", "--steps", "2", "--objective", "vgg"], 2, "default, fp, sgfp, ghnd, kl, pooled"),
        (["codec", "--photos", "{}", "--steps", "2", "--weights", "resnet18"], 2, "TAG=FILE"),
        (["codec", "--photos", "{}", "--steps", "2", "--target-bytes", "2k"], 2, "2k"),
        (["codec", "--photos", "{}", "--steps", "2", "--device", "tpu"], 2, "expected auto, cpu or cuda"),
        (["decoder", "resnet999", "--photos", "{}", "--steps", "2"], 2, "resnet999"),
        (["backbone", "resnet999", "--photos", "{}", "--steps", "2"], 2, "resnet999"),
        (["recipe", "default", "--photos", "{}", "--steps", "2", "--evaluate-photos", "/nowhere.tar"], 2, "/nowhere"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage ends with 2, input with 3, models with 5; the value seen is named. `{}` is an empty folder."""
    pytest.importorskip("torch")
    (tmp_path / "empty").mkdir()
    filled = [text.format(tmp_path / "empty") for text in arguments]
    places = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")] if len(arguments) > 1 else []
    assert run(["train", *filled, *places]) == code
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("frankenstream:")
    assert words in error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["birds", "--data", ".", "--bundle", "."], 2, "frankenstream tasks add"),
        (["food101", "--data", ".", "--bundle", "/nowhere"], 5, "/nowhere"),
        (["food101", "--data", ".", "--bundle", ".", "--views", "3"], 2, "expected 1 or 2"),
    ],
)
def test_heads_that_cannot_be_trained(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "head", *arguments]) == code
    assert words in capsys.readouterr().err


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


class FakeTraining:
    """Stands for pipeline.training's modules: notes what it is asked to do."""

    def __init__(self, *, finished: bool = True) -> None:
        self.finished = finished
        self.runs: list[object] = []
        self.flags: list[list[str]] = []

    def train_codec(self, settings: object, **_options: object) -> FakeTraining:
        self.runs.append(settings)
        return self

    def main(self, flags: list[str]) -> None:
        self.flags.append(flags)


def test_default_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while the codec trains, nothing is packed; finished, package_default gets flags that it knows, once."""
    pytest.importorskip("torch")
    from pipeline.training.package_default import _parse
    from pipeline.training.run import RunSettings

    photos, labelled = tmp_path / "photos", tmp_path / "labelled.tar"
    photos.mkdir()
    labelled.touch()
    settings = RunSettings((f"{photos}:train/:2",), tmp_path / "store", tmp_path / "out", minutes=5.0, threads=1)
    options = {"evaluate_photos": labelled, "data": None, "clips": None, "cache": tmp_path, "objective": "kl"}
    quiet = Console(file=io.StringIO())

    def made_by(fake: FakeTraining) -> Path | None:
        with monkeypatch.context() as patch:
            patch.setattr(train_recipe.importlib, "import_module", lambda _name: fake)
            return train_default_bundle(settings, **options, name="mine", console=quiet)  # type: ignore[arg-type]

    stopped, first, second = FakeTraining(finished=False), FakeTraining(), FakeTraining()
    assert made_by(stopped) is None
    assert stopped.flags == []
    assert made_by(first) == made_by(second) == tmp_path / "out" / "packed" / "bundle"
    assert (len(first.flags), second.flags, second.runs) == (1, [], [])
    (trained,) = first.runs
    assert isinstance(trained, RunSettings)
    assert (trained.minutes, trained.minutes_in_all, trained.out) == (None, 5.0, tmp_path / "out" / "run")
    parsed = _parse(first.flags[0])
    assert parsed.checkpoint == tmp_path / "out" / "run" / "last.pt"
    assert [(source.prefix, source.stride) for source in parsed.count_photos] == [("train/", 2)]
    assert (parsed.name, parsed.cache, parsed.clips) == ("mine", tmp_path, None)
