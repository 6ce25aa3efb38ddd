"""The package of docs/tasks.md: built, installed into a folder, found and run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party_head"
ROOT = Path(__file__).parents[2]

RUN = """
import numpy as np
from tasks import HeadStack, find_task

head = find_task("presence").make_head("lite0", 1280)
maps = np.zeros((2, 80, 14, 14), np.float32)
maps[1] = np.random.default_rng(0).random((80, 14, 14)) ** 8
for row in HeadStack([head]).top(np.zeros((2, 1280), np.float32), feature_BFhw=maps):
    print(row[0].task, row[0].labels[0].name)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it, made by pip from a wheel; no network."""
    pytest.importorskip("hatchling")
    wheels, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    code = f"from hatchling.build import build_wheel; build_wheel({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=EXAMPLE, check=True, capture_output=True)
    (wheel,) = wheels.glob("frankenstream_presence-*.whl")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return target


def python(installed: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)]), "COLUMNS": "160"}
    done = subprocess.run([sys.executable, "-P", *arguments], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_short() -> None:
    code = [line for line in (EXAMPLE / "frankenstream_presence.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 20


def test_it_is_listed(installed: Path) -> None:
    """Installing it is all that there is to do."""
    line = next(
        line for line in python(installed, "-m", "frankenstream", "tasks", "list").splitlines() if "presence" in line
    )
    assert line.split()[-3:] == ["package", "-", "-"]


def test_it_answers(installed: Path) -> None:
    assert python(installed, "-c", RUN).splitlines() == ["presence nothing to see", "presence a scene"]


def test_the_tutorial_shows_it_as_it_is() -> None:
    code = (EXAMPLE / "frankenstream_presence.py").read_text()
    assert code[code.index("import numpy") :] in (ROOT / "docs" / "tasks.md").read_text()
