"""Exported engines under the home folder, by hash of everything that they were made of.

    <home>/cache/engines/<backbone>-<key>/     graphs and classifier (onnx_engine), torch.json once measured

An engine is exported into a folder beside and moved into place in one step: a killed server leaves nothing half made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pipeline
from pipeline.bundle import Backbone, Bundle, home_folder
from pipeline.clock import monotonic
from pipeline.errors import BundleError, EngineError, FrankenError
from pipeline.runtime.engine_export import TORCH_MEASURED
from pipeline.runtime.onnx_engine import CLASSIFIER, GRAPHS

EXPORT_FORMAT = 1
"""New whenever the exported graphs change."""
QUIET_S = 2.0
"""Work longer than this says so."""
EXPORT_S_MAX = 900.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measure:
    """How torch is to be measured: device (auto, cpu, cuda:N), threads."""

    device: str
    threads: int

    def action(self, bundle: Bundle) -> str:
        """For engine_export."""
        return f"measure={self.device},{self.threads},{_shape(bundle)}"

    @property
    def file(self) -> str:
        """Name under which the result is cached."""
        return f"torch-{self.device.replace(':', '')}-{self.threads}.json"


class EngineCache:
    """Finds or makes exported engines. `folder`: `<home>/cache/engines` unless named; `progress` gets lines to show."""

    def __init__(self, folder: Path | None = None, progress: Progress | None = None) -> None:
        self.folder = folder or home_folder() / "cache" / "engines"
        self._say = progress or (lambda line: None)

    def exported(self, bundle: Bundle, backbone: Backbone, *, measure: Measure | None = None) -> Path:
        """The folder of the exported engine, made now if it is not there. Raises EngineError, BundleError.

        `measure`: whoever will ask `torch_measured` next can have that done in the same process.
        """
        place = self.place(bundle, backbone)
        if all((place / name).is_file() for name in (*GRAPHS, CLASSIFIER)):
            return place
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{backbone.tag}-", dir=self.folder))
        try:
            actions = [f"export={_shape(bundle)}"]
            if measure is not None:
                actions.append(measure.action(bundle))
            self._run(bundle, backbone, fresh, actions, f"exporting {backbone.alias or backbone.tag} for ONNX Runtime")
            if measure is not None:
                (fresh / TORCH_MEASURED).replace(fresh / measure.file)
            _move(fresh, place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return place

    def torch_measured(self, bundle: Bundle, backbone: Backbone, measure: Measure) -> dict[str, Any]:
        """How fast torch would be: `device`, `ms` by batch size. Measured once in a process of its own, then cached."""
        path = self.exported(bundle, backbone, measure=measure) / measure.file
        with contextlib.suppress(OSError, ValueError):
            cached: dict[str, Any] = json.loads(path.read_text())
            return cached
        with tempfile.TemporaryDirectory(dir=self.folder) as fresh:
            name = backbone.alias or backbone.tag
            self._run(bundle, backbone, Path(fresh), [measure.action(bundle)], f"measuring torch with {name}")
            measured = Path(fresh) / TORCH_MEASURED
            facts: dict[str, Any] = json.loads(measured.read_text())
            measured.replace(path)
        return facts

    def onnx_measured(self, place: Path, measure: Measure, run: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Milliseconds by batch size of the engine at `place`: those of an earlier start, else what `run` measures."""
        path = place / measure.file.replace("torch-", f"onnx-{_onnx_build()}-")
        with contextlib.suppress(OSError, ValueError):
            cached: dict[str, float] = json.loads(path.read_text())
            return cached
        measured = run()
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(measured))
        draft.replace(path)
        return measured

    def place(self, bundle: Bundle, backbone: Backbone) -> Path:
        """Where the engine of `backbone` lies or would lie."""
        synthesis = hashlib.sha256(bundle.read(backbone.synthesis_path)).hexdigest()
        versions = [_version(name) for name in ("torch", "timm")]
        shape = _shape(bundle)
        made_of = json.dumps([EXPORT_FORMAT, backbone.tag, backbone.weights_sha256, synthesis, shape, *versions])
        return self.folder / f"{backbone.tag}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"

    def _run(self, bundle: Bundle, backbone: Backbone, folder: Path, actions: list[str], what: str) -> None:
        """Run engine_export in a process of its own; raise EngineError with its last line if it fails."""
        with _synthesis_file(bundle, backbone) as synthesis:
            arguments = [str(synthesis), backbone.tag, backbone.weights_sha256, str(folder), *actions]
            # -P: a pipeline.py in the user's folder must not stand in for ours.
            self._wait([sys.executable, "-P", "-m", "pipeline.runtime.engine_export", *arguments], what)

    def _wait(self, command: list[str], what: str) -> None:
        root = str(Path(pipeline.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        started = monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            # Waiting threads that spin would take the processor from whatever else runs here.
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        try:
            try:
                _, errors = process.communicate(timeout=QUIET_S)
            except subprocess.TimeoutExpired:
                self._say(f"{what}, once for each bundle and machine …")
                _, errors = process.communicate(timeout=EXPORT_S_MAX)
                self._say(f"{what}: done in {monotonic() - started:.0f} s")
        except subprocess.TimeoutExpired:
            raise EngineError(f"{what} took longer than {EXPORT_S_MAX:.0f} s: stopped") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode != 0:
            raise _error(what, process.returncode, errors)


def _shape(bundle: Bundle) -> str:
    """Side of the pictures, channels and stride of the latents, for engine_export."""
    spec = bundle.edge_spec
    return f"{spec.preprocess.size},{spec.latent.channels},{spec.latent.stride}"


@contextlib.contextmanager
def _synthesis_file(bundle: Bundle, backbone: Backbone) -> Iterator[Path]:
    """The bundle's decoder as a file, since a bundle may be a .zip."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(backbone.synthesis_path).name
        path.write_bytes(bundle.read(backbone.synthesis_path))
        yield path


def _move(fresh: Path, place: Path) -> None:
    """Another server may have been faster; then its engine stays, unless it is incomplete."""
    missing = [name for name in (*GRAPHS, CLASSIFIER) if not (fresh / name).is_file()]
    if missing:
        raise EngineError(f"the export made no {', '.join(missing)}: this is a bug, report it")
    try:
        fresh.rename(place)
    except OSError:
        if not all((place / name).is_file() for name in (*GRAPHS, CLASSIFIER)):
            shutil.rmtree(place, ignore_errors=True)
            fresh.rename(place)


def _error(what: str, returncode: int, errors: str) -> FrankenError:
    lines = [line.strip() for line in errors.strip().splitlines() if line.strip()]
    last = lines[-1] if lines else f"ended with {returncode}"
    kind = BundleError if ".safetensors" in last else EngineError
    return kind(last if returncode == EngineError.exit_code else f"{what} failed: {last}")


def _onnx_build() -> str:
    """Hash of what `auto` and the speed depend on: ONNX Runtime's version and the providers that it was built with."""
    import onnxruntime

    made_of = [onnxruntime.__version__, *onnxruntime.get_available_providers()]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:8]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
