"""Blueprints of g_s, one for each backbone family: ``build_synthesis(backbone tag)`` gives the decoder that fits it."""

from __future__ import annotations

from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.synthesis.inverted_residual import InvertedResidualSynthesis

# Widths are the largest that keep g_s within 1.05 times the head part's time in ONNX Runtime (1 thread, 224 x 224;
# docs/training.md has the figures).
_INVERTED_RESIDUAL = {
    "tf_efficientnet_lite0": {"out_channels": 40, "width": 80},
    "tf_efficientnet_lite1": {"out_channels": 40, "width": 96},
    "tf_efficientnet_lite2": {"out_channels": 48, "width": 96},
}


def build_synthesis(tag: str) -> nn.Module:
    """The decoder for the backbone ``tag``, freshly initialised. Raises ConfigError for a backbone without a
    blueprint.
    """
    arguments = _INVERTED_RESIDUAL.get(tag.partition(".")[0])
    if arguments is None:
        raise ConfigError(
            f"no decoder blueprint for backbone {tag!r}: known are {', '.join(sorted(_INVERTED_RESIDUAL))}"
        )
    return InvertedResidualSynthesis(**arguments)


__all__ = ["InvertedResidualSynthesis", "build_synthesis"]
