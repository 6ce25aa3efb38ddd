"""What a built wheel holds: pinned top-level names, the default bundle and the C source, and no tests."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"analytics_server", "edge_node", "frankenstream", "pipeline", "recordings", "tasks"}
SIZE_MAX = 30_000_000


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of a wheel built from this checkout. hatchling is called directly: no network, no build environment."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < SIZE_MAX
    return zipfile.ZipFile(wheel).namelist()


def test_top_level_names_are_pinned(names: list[str]) -> None:
    """A new name here can overwrite somebody else's package, silently (pip #4625)."""
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES


@pytest.mark.parametrize(
    "file",
    [
        "pipeline/codec/_range_coder.c",
        "pipeline/bundle/default/manifest.toml",
        "pipeline/bundle/default/edge/spec.toml",
        "recordings/samples/tour.mp4",
        "recordings/samples/LICENSES",
        "tasks/catalogue/imagenet1k.toml",
        "pipeline/py.typed",
    ],
)
def test_what_the_product_needs_travels(file: str, names: list[str]) -> None:
    assert file in names


def test_no_stray_files_travel(names: list[str]) -> None:
    """Neither tests nor checkpoints nor caches."""
    strays = [name for name in names if "__pycache__" in name or name.endswith((".pt", ".pth", ".pyc", ".part"))]
    assert strays == []
