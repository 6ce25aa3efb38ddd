"""Record, cut and verify as a newcomer does: real processes, real weights, the bundled clip."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("timm") is None, reason="the server exports backbones with torch and timm: pip install '.[server]'"
)


def frankenstream(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "frankenstream", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)


def test_what_was_recorded_is_answered_again_bit_for_bit(tmp_path: Path) -> None:
    """One frame at a time on the same engine; then other heads on another backbone over a piece of it."""
    done = frankenstream(tmp_path, "demo", "--headless", "--frames", "40", "--record", "drive.mcap")
    assert done.returncode == 0, done.stderr
    assert "recorded drive.mcap" in done.stdout

    verified = frankenstream(tmp_path, "replay", "drive.mcap", "--verify", "--headless", "--record", "again.mcap")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "bit for bit" in verified.stdout
    again = frankenstream(tmp_path, "replay", "again.mcap", "--verify", "--headless")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "with the same first labels" not in again.stdout, "every frame was computed alone, both times"

    cut = frankenstream(tmp_path, "recordings", "cut", "drive.mcap", "--from", "0.5", "-o", "piece.mcap")
    assert cut.returncode == 0, cut.stderr
    asked = frankenstream(
        tmp_path, "replay", "piece.mcap", "--headless", "--fast", "--lossless", "--backbone", "lite2",
        "--tasks", "food101",
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    assert "food101: pizza" in asked.stdout
