"""Off-the-shelf classifiers, cut where their resolution is the latent's: ``head_part`` (what g_s replaces), ``tail``
and ``classifier``.

A ``CutBackbone`` never changes its model. ``classifier(tail(head_part(image)))`` is bit-exact with the model's own
forward pass, and so serves both the streamed features (g_s output into ``tail``) and unmodified clients (JPEG into
``head_part``). timm's ``forward_features`` runs to the end of the model and cannot be entered halfway, so each
family's modules are called one by one (timm 1.0; docs/training.md lists cut points and sizes).

Axes: B batch, C channels, H height, W width, D pooled feature, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.codec import LatentShape
from pipeline.errors import ConfigError, EngineError
from pipeline.models.torchvision_guard import ensure_torchvision
from pipeline.models.weights import load_backbone_weights, missing_weights_message, state_hash

DEFAULT_STRIDE = 16
"""The default encoder's. Who has a codec asks ``cut_stride``."""


@dataclass(frozen=True)
class Family:
    """How one family of timm models is taken apart. ``modules`` lists all of a model's up to the pooling, in order of
    execution; ``ends`` tells the last one of the head part for each resolution that the family can be cut at.
    """

    modules: Callable[[Any], Iterable[nn.Module]]
    ends: dict[int, Callable[[Any], nn.Module]]
    channels_last: bool = False  # stages exchange B H W C (Swin)


# Model class name -> family. At 1/8 of the resolution the cut is behind stage 2 of 4 (blocks.2 of EfficientNets). At
# 1/16 it is behind the first block of the next stage (a pair in Swin, whose windows alternate): its stride is what
# saves bytes, further blocks bring little (docs/decisions/0015-cut-at-a-sixteenth.md).
FAMILIES: dict[str, Family] = {
    "EfficientNet": Family(
        modules=lambda m: [m.conv_stem, m.bn1, *(block for stage in m.blocks for block in stage), m.conv_head, m.bn2],
        ends={8: lambda m: m.blocks[2][-1], 16: lambda m: m.blocks[3][0]},
    ),
    "ResNet": Family(
        modules=lambda m: [m.conv1, m.bn1, m.act1, m.maxpool, *m.layer1, *m.layer2, *m.layer3, *m.layer4],
        ends={8: lambda m: m.layer2[-1], 16: lambda m: m.layer3[0]},
    ),
    "ConvNeXt": Family(
        modules=lambda m: [
            m.stem,
            *(part for stage in m.stages for part in (stage.downsample, *stage.blocks)),
            m.norm_pre,
        ],
        ends={8: lambda m: m.stages[1].blocks[-1], 16: lambda m: m.stages[2].blocks[0]},
    ),
    "SwinTransformer": Family(
        modules=lambda m: [
            m.patch_embed,
            *(part for layer in m.layers for part in (layer.downsample, *layer.blocks)),
            m.norm,
        ],
        ends={8: lambda m: m.layers[1].blocks[-1], 16: lambda m: m.layers[2].blocks[1]},
        channels_last=True,
    ),
}


@dataclass(frozen=True)
class ImageSpec:
    """What the backbone wants to see: per-channel mean and std of RGB in [0, 1], native side in pixels, resize
    filter, centre-crop fraction.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side: int
    interpolation: str
    crop_fraction: float


class CutBackbone(nn.Module):
    """A frozen timm classifier in three parts, cut at 1/``stride`` of the resolution. Always in eval mode: ``train()``
    leaves it there, so its BatchNorm statistics cannot move. Raises ConfigError for a family or a stride that we do
    not know.
    """

    mean: Tensor
    std: Tensor
    model: Any  # a timm model; its parts have no common type

    def __init__(self, model: nn.Module, *, tag: str, stride: int = DEFAULT_STRIDE) -> None:
        super().__init__()
        family = FAMILIES.get(type(model).__name__)
        if family is None:
            raise ConfigError(
                f"backbone {tag} is a {type(model).__name__}: known families are {', '.join(sorted(FAMILIES))}"
            )
        if stride not in family.ends:
            raise ConfigError(
                f"backbone {tag} cannot be cut at 1/{stride} of the resolution, expected one of "
                f"{', '.join(f'1/{known}' for known in family.ends)}"
            )
        self.tag = tag
        self.stride = stride
        self.model = model
        self.image_spec = _image_spec(model.pretrained_cfg)
        self._family = family
        self.register_buffer("mean", torch.tensor(self.image_spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.image_spec.std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.train(False)

    @property
    def classifier(self) -> nn.Module:
        """Pooled features [B, D] -> logits [B, K]; the ``imagenet1k`` task head."""
        classifier: nn.Module = self.model.get_classifier()
        return classifier

    @property
    def pooled_features(self) -> int:
        """D, the length of the pooled feature vector."""
        return int(self.model.head_hidden_size)

    @property
    def head_modules(self) -> list[nn.Module]:
        """The modules of the head part, in order of execution."""
        return self._parts()[0]

    @property
    def tail_modules(self) -> list[nn.Module]:
        """Those behind the cut and before the pooling."""
        return self._parts()[1]

    def _parts(self) -> tuple[list[nn.Module], list[nn.Module]]:
        modules = list(self._family.modules(self.model))
        cut = modules.index(self._family.ends[self.stride](self.model)) + 1
        return modules[:cut], modules[cut:]

    def head_part(self, image_BCHW: Tensor) -> Tensor:
        """RGB float32 in [0, 1] -> the cut feature, float32 ``feature_BCHW`` at 1/``stride`` of the resolution (NCHW
        for every family).
        """
        x = (image_BCHW - self.mean) / self.std
        for module in self.head_modules:
            x = module(x)
        return x.permute(0, 3, 1, 2) if self._family.channels_last else x

    def tail(self, feature_BCHW: Tensor) -> Tensor:
        """The cut feature -> pooled features [B, D]: everything up to, but without, the classifier."""
        x = feature_BCHW.permute(0, 2, 3, 1) if self._family.channels_last else feature_BCHW
        for module in self.tail_modules:
            x = module(x)
        pooled_BD: Tensor = self.model.forward_head(x, pre_logits=True)
        return pooled_BD

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Logits [B, K]; bit-exact with the unmodified model on the normalised image."""
        logits_BK: Tensor = self.classifier(self.tail(self.head_part(image_BCHW)))
        return logits_BK

    def train(self, mode: bool = True) -> CutBackbone:
        """Stays in eval mode whatever ``mode`` says: an unmodified backbone has frozen statistics and no dropout."""
        super().train(False)
        return self

    def weights_hash(self) -> str:
        """SHA-256 of the weights; a bundle refuses a backbone with another hash."""
        return state_hash(self.model.state_dict())


def cut_stride(latent: LatentShape) -> int:
    """Where backbones are cut for a latent: at its own resolution, or at 1/16 where it is coarser."""
    return min(latent.stride, max(stride for family in FAMILIES.values() for stride in family.ends))


def load_backbone(
    tag: str, *, stride: int = DEFAULT_STRIDE, weights_file: Path | None = None, pretrained: bool = True
) -> CutBackbone:
    """The timm model ``tag`` with its weights, cut at 1/``stride`` of the resolution.

    Raises EngineError with what to install if no weights can be had, ConfigError for a tag, family or stride that we
    do not know. ``pretrained=False`` gives random weights (tests).
    """
    ensure_torchvision()
    import timm  # after the guard, and only when a backbone is really wanted: it takes seconds

    if not timm.is_model(tag.partition(".")[0]):
        raise ConfigError(f"timm knows no model {tag!r}: see timm.list_models() for tags")
    state = load_backbone_weights(tag, file=weights_file) if pretrained else None
    try:
        model = timm.create_model(tag, pretrained=pretrained and state is None)
    except Exception as error:  # the hub raises anything from OSError to HTTP errors
        raise EngineError(missing_weights_message(tag, f"hub: {type(error).__name__}")) from error
    if state is not None:
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise EngineError(f"weights do not fit backbone {tag}: {str(error).splitlines()[-1].strip()}") from error
    return CutBackbone(model, tag=tag, stride=stride)


def _image_spec(config: Any) -> ImageSpec:
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return ImageSpec(
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        side=int(config["input_size"][-1]),
        interpolation=str(config["interpolation"]),
        crop_fraction=float(config["crop_pct"]),
    )
