"""`frankenstream train`: help, and what is wrong in one line. Training itself: tests/pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from frankenstream.cli import run

COMMANDS = [["codec"], ["pack"], ["decoder"], ["head"], ["backbone"], ["recipe", "default"]]


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
        (["recipe", "default", "--photos", "{}", "--steps", "2", "--evaluate-photos", "/nowhere.tar"], 3, "/nowhere"),
        (["pack", "/nowhere.pt", "--photos", "{}", "--evaluate-photos", "{}"], 5, "cannot read checkpoint /nowhere.pt"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage ends with 2, input with 3, models with 5; the value seen is named. `{}` is an empty folder."""
    pytest.importorskip("torch")
    (tmp_path / "empty").mkdir()
    filled = [text.format(tmp_path / "empty") for text in arguments]
    places = ["--out", str(tmp_path / "out")] if len(arguments) > 1 else []
    places += ["--store", str(tmp_path / "store")] if places and arguments[0] != "pack" else []
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
