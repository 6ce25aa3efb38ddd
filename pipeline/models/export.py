"""ONNX forms of everything that runs without torch: g_a for edges (float32 and int8), g_s and tails for servers.

All graphs are opset 17, plain operators only, BatchNorm folded by the exporter. torch's older exporter is used on
purpose: it needs no onnxscript and gives smaller graphs for networks as simple as these.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.bundle import Backbone
from pipeline.codec import LatentShape
from pipeline.errors import BundleError, EngineError
from pipeline.models.backbones import CutBackbone, cut_stride, load_backbone
from pipeline.models.synthesis import blocks_in, build_synthesis
from pipeline.models.weights import WEIGHT_PACKAGES

OPSET = 17
PARITY_MAX = 1e-3
"""Largest difference between torch and ONNX Runtime, relative to the largest value of the output."""


class _Function(nn.Module):
    """A method of a module as a module, for the exporter."""

    def __init__(self, module: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module = module
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


# --- g_a, for edges ---------------------------------------------------------------------------------------------


def export_analysis(analysis: nn.Module, file: Path, *, side: int = 224) -> None:
    """Write g_a: ``image`` float32 [1, 3, H, W] RGB in [0, 1] -> ``latent`` float32 [1, C, h, w]; H and W are free.

    Raises EngineError if ONNX Runtime does not compute what torch does.
    """
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    _export(analysis, image, file, names=("image", "latent"), dynamic={2: "height", 3: "width"})


def quantise_analysis(float_file: Path, int8_file: Path, images: Iterable[np.ndarray]) -> None:
    """Write the static int8 form of g_a (QDQ), calibrated on ``images``: float32 [1, 3, H, W] in [0, 1].

    Activations are unsigned, weights signed and per channel: the form that ONNX Runtime's x86 kernels are fast at. Only
    convolutions are quantised, and not the first one, which sees the picture; the sums, and so the latent, stay
    float32. Ranges cut off the outermost 0.01 % of values. Against minimum-to-maximum ranges everywhere that takes a
    third off the error of a symbol (0.126 instead of 0.187 rms) at the same 0.8 ms (float32: 2.1 ms).
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, source: Iterator[np.ndarray]) -> None:
            self._source = source

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._source, None)
            return None if image is None else {"image": image}

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(float_file), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(int8_file),
            Reader(iter(images)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[next(node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv")],
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": 99.99},
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def save_module(module: nn.Module, file: Path) -> None:
    """Weights and buffers as safetensors."""
    state = {key: value.detach().contiguous() for key, value in module.state_dict().items()}
    save_file(state, file)


# --- g_s, head part, tail: for servers --------------------------------------------------------------------------


def load_synthesis(file: Path, tag: str, latent: LatentShape) -> nn.Module:
    """The decoder for backbone ``tag`` from a safetensors file, in eval mode. Raises BundleError if it does not fit."""
    try:
        state = {key: value.float() for key, value in load_file(file).items()}
        synthesis = build_synthesis(tag, latent, blocks=blocks_in(state))
        synthesis.load_state_dict(state)
    except Exception as error:  # safetensors' errors are no OSError, load_state_dict's a RuntimeError
        line = str(error).strip().splitlines()[-1].strip()[:200]
        raise BundleError(f"{file.name} does not fit the decoder of {tag}: {line}") from error
    return synthesis.eval().requires_grad_(False)


def export_server_graphs(
    synthesis_file: Path, backbone_tag: str, latent: LatentShape, out_dir: Path, *, side: int = 224
) -> None:
    """Write what ``pipeline.runtime.onnx_engine`` loads, each with a free batch size, for images of ``side`` pixels.

        synthesis.onnx   ``latent`` [B, C, h, w] (dequantised)           -> ``feature`` [B, F, H, W]
        tail.onnx        ``feature``                                     -> ``pooled`` [B, D]
        head_part.onnx   ``image`` [B, 3, side, side] RGB in [0, 1]      -> ``feature``: the unmodified backbone's
        classifier.npz   ``weight`` (K, D), ``bias`` (K,) float32

    Raises BundleError (decoder does not fit), EngineError (no weights, or ONNX Runtime disagrees with torch).
    """
    synthesis = load_synthesis(Path(synthesis_file), backbone_tag, latent)
    backbone = load_backbone(backbone_tag, stride=cut_stride(latent))
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    grid = side // latent.stride
    image = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    example = torch.randn(2, latent.channels, grid, grid)
    with torch.no_grad():
        feature = backbone.head_part(image)
    batch = {0: "batch"}
    _export(synthesis, example, out_dir / "synthesis.onnx", names=("latent", "feature"), dynamic=batch)
    head_part, tail = _Function(backbone, backbone.head_part), _Function(backbone, backbone.tail)
    _export(head_part, image, out_dir / "head_part.onnx", names=("image", "feature"), dynamic=batch)
    _export(tail, feature, out_dir / "tail.onnx", names=("feature", "pooled"), dynamic=batch)
    weight, bias = classifier_arrays(backbone)
    np.savez(out_dir / "classifier.npz", weight=weight, bias=bias)


def classifier_arrays(backbone: CutBackbone) -> tuple[np.ndarray, np.ndarray]:
    """The backbone's own classifier as one matrix: weight float32 (K, D), bias float32 (K,).

    Raises EngineError if it is no linear layer.
    """
    classifier = backbone.classifier
    if not isinstance(classifier, nn.Linear):
        raise EngineError(f"classifier of {backbone.tag} is a {type(classifier).__name__}, expected one linear layer")
    weight = classifier.weight.detach().float().numpy()
    bias = np.zeros(len(weight), np.float32) if classifier.bias is None else classifier.bias.detach().float().numpy()
    return weight, bias


def backbone_entry(backbone: CutBackbone, *, default: bool = False, side: int = 224) -> Backbone:
    """What a bundle says about a backbone; its ``default`` one is served to those who name none."""
    with torch.inference_mode():
        feature_BCHW = backbone.head_part(torch.zeros(1, 3, side, side))
    return Backbone(
        tag=backbone.tag,
        weights_sha256=backbone.weights_hash(),
        feature_channels=feature_BCHW.shape[1],
        feature_height=feature_BCHW.shape[2],
        feature_width=feature_BCHW.shape[3],
        pooled_width=backbone.pooled_features,
        alias=backbone.tag.removeprefix("tf_efficientnet_"),
        weight_package=WEIGHT_PACKAGES.get(backbone.tag.partition(".")[0], ""),
        default=default,
    )


# --- Shared -----------------------------------------------------------------------------------------------------


def _export(module: nn.Module, example: Tensor, file: Path, *, names: tuple[str, str], dynamic: dict[int, str]) -> None:
    module.eval()
    # Output heights are fractions of input heights, which the exporter names for itself.
    axes = {names[0]: dynamic, names[1]: {0: "batch"} if 0 in dynamic else {2: "rows", 3: "columns"}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecation of this exporter, and of tracing fixed sizes: both are meant
        torch.onnx.export(
            module,
            (example,),
            str(file),
            opset_version=OPSET,
            dynamo=False,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes=axes,
        )
        expected = module(example)
    _check_parity(file, names[0], example, expected)


def _check_parity(file: Path, name: str, example: Tensor, expected: Tensor) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    actual = session.run(None, {name: example.numpy()})[0]
    difference = float(np.abs(actual - expected.numpy()).max() / max(float(expected.abs().max()), 1e-6))
    if difference > PARITY_MAX:
        raise EngineError(
            f"{file.name} differs from torch by {difference:.2g} of its largest value, limit {PARITY_MAX}"
        )
