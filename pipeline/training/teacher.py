"""What a frozen backbone says about a crop: its cut feature, and, where the loss asks, what lies beyond the cut.

    image ─ head part ─ feature ─ stage ─ stage ─ … ─ pooled ─ classifier
                 │          └ saliency: where in the crop the answer comes from

The backbone is frozen and the crops are drawn once, so an answer is computed once and kept with its crops (pool.py).

Axes: B batch, C channels, H height, W width, D pooled features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.backbones import FAMILIES, CutBackbone
from pipeline.training.recipes import Part
from pipeline.training.saliency import saliency_maps

# Model class name -> the last block of each stage of its tail, whose outputs GHND compares; norms and the last 1x1
# convolution are none.
TAIL_STAGES: dict[str, Callable[[Any], Sequence[nn.Module]]] = {
    "EfficientNet": lambda m: [blocks[-1] for blocks in m.blocks[3:]],
    "ResNet": lambda m: [m.layer3[-1], m.layer4[-1]],
    "ConvNeXt": lambda m: [stage.blocks[-1] for stage in m.stages[2:]],
    "SwinTransformer": lambda m: [layer.blocks[-1] for layer in m.layers[2:]],
}


@dataclass(frozen=True)
class Answer:
    """One backbone's answer for a batch; what was not asked for is None. ``stages``: the outputs of the tail's stages,
    each [B, C, H, W].
    """

    feature_BCHW: Tensor
    pooled_BD: Tensor | None = None
    stages: tuple[Tensor, ...] | None = None
    saliency_B1HW: Tensor | None = None

    @property
    def parts(self) -> frozenset[Part]:
        """What is there beside the feature."""
        values: dict[Part, object] = {
            "pooled": self.pooled_BD,
            "stages": self.stages,
            "saliency": self.saliency_B1HW,
        }
        return frozenset(part for part, value in values.items() if value is not None)

    def tensors(self) -> list[Tensor]:
        """All that is there."""
        parts = (self.feature_BCHW, self.pooled_BD, *(self.stages or ()), self.saliency_B1HW)
        return [part for part in parts if part is not None]

    def has(self, parts: frozenset[Part]) -> bool:
        """Whether all of ``parts`` are there."""
        return parts <= self.parts

    def picked(self, order_B: Tensor) -> Answer:
        """The answers of these frames, in this order."""
        changes: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                changes[field.name] = tuple(tensor[order_B] for tensor in value)
            elif value is not None:
                changes[field.name] = value[order_B]
        return replace(self, **changes)

    def with_feature(self, change: Callable[[Tensor], Tensor]) -> Answer:
        """The same with the feature changed."""
        return replace(self, feature_BCHW=change(self.feature_BCHW))


@torch.no_grad()
def ask(frozen: CutBackbone, image_BCHW: Tensor, parts: frozenset[Part]) -> Answer:
    """The backbone's answer for RGB float32 in [0, 1]: ``parts``, and always the feature.

    Raises ConfigError where its family has no stages or saliency layers named.
    """
    feature_BCHW = frozen.head_part(image_BCHW)
    pooled_BD, stages, saliency_B1HW = None, None, None
    if parts & {"pooled", "stages"}:
        pooled_BD, stages = run_tail(frozen, feature_BCHW, with_stages="stages" in parts)
    if "saliency" in parts:
        with torch.autocast(image_BCHW.device.type, enabled=False):  # gradients times activations get tiny
            saliency_B1HW = saliency_maps(frozen, image_BCHW)
    return Answer(feature_BCHW, pooled_BD, stages, saliency_B1HW)


def run_tail(
    frozen: CutBackbone, feature_BCHW: Tensor, *, with_stages: bool
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """(pooled [B, D], outputs of the tail's stages if asked for)."""
    if not with_stages:
        return frozen.tail(feature_BCHW), None
    with _recorded(tail_stages(frozen)) as outputs:
        pooled_BD = frozen.tail(feature_BCHW)
    if FAMILIES[type(frozen.model).__name__].channels_last:
        outputs = [output.permute(0, 3, 1, 2) for output in outputs]
    return pooled_BD, tuple(outputs)


def tail_stages(frozen: CutBackbone) -> list[nn.Module]:
    """The last block of each stage, shallowest first, if it lies behind the cut. Raises ConfigError for an unknown
    family.
    """
    family = type(frozen.model).__name__
    if family not in TAIL_STAGES:
        raise ConfigError(f"no tail stages for a {family}: known families are {', '.join(sorted(TAIL_STAGES))}")
    tail = frozen.tail_modules
    return [block for block in TAIL_STAGES[family](frozen.model) if block in tail]


def fixed_side(backbone: CutBackbone) -> int | None:
    """The only image side that the backbone takes, in pixels (Swin's windows are laid out for it); None: any."""
    embedding = getattr(backbone.model, "patch_embed", None)
    return backbone.image_spec.side if getattr(embedding, "strict_img_size", False) else None


@contextmanager
def _recorded(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    outputs: list[Tensor] = []
    handles = [module.register_forward_hook(lambda _m, _i, output: outputs.append(output)) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
