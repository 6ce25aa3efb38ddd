"""Every example runs and says what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
SAID = {"encode_a_picture": "equal: True", "label_a_video": "captured 5, answered 5"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path) -> None:
    """And stays short: one idea a file, under 60 lines."""
    if example.stem == "label_a_video":
        pytest.importorskip("torch", reason="the server exports backbones with torch")

    done = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    assert SAID[example.stem] in done.stdout
    assert len(example.read_text().splitlines()) < 60
