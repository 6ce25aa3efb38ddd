"""What a server says of itself in Welcome, in one line that recordings keep: two equal lines compute bit for bit alike.

frankenstream 0.1.0; lite0=onnx/cpu/2 lite2=onnx/cpu/2; onnxruntime 1.31.1; fp32; machine 3fa1c2
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from pipeline import limits
from pipeline.bundle import Backbone
from pipeline.runtime.engine import Engine

_LIBRARIES = {"onnx": "onnxruntime", "torch": "torch"}
PRECISION = "fp32"
"""What engines compute in."""


def describe_server(engines: Iterable[Engine], backbones: Iterable[Backbone], threads: int) -> str:
    """The line. `threads` of an engine: how a product is split decides how its sums are rounded."""
    alias = {backbone.tag: backbone.alias or backbone.tag for backbone in backbones}
    each = list(engines)
    named = " ".join(
        f"{alias.get(engine.backbone, engine.backbone)}={engine.backend}/{engine.device}/{threads}" for engine in each
    )
    libraries = sorted({_LIBRARIES[engine.backend] for engine in each if engine.backend in _LIBRARIES})
    parts = [f"frankenstream {_version('frankenstream')}", named]
    parts += [f"{name} {_version(name)}" for name in libraries]
    line = "; ".join([*parts, PRECISION, f"machine {machine_id()}"])
    if len(line) > limits.NAME_CHARS_MAX:  # many backbones: their names still decide
        digest = hashlib.sha256(line.encode()).hexdigest()[:8]
        line = f"{line[: limits.NAME_CHARS_MAX - 9]} {digest}"
    return line


def machine_id() -> str:
    """Six hex digits of what decides how this processor rounds: its kind and instruction sets."""
    text = platform.machine() + platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    kept = {line for line in lines if re.match(r"(model name|flags|Features|CPU (implementer|part))\s*:", line)}
    return hashlib.sha256((text + "\n".join(sorted(kept))).encode()).hexdigest()[:6]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
