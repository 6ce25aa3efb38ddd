"""Models in torch: encoders, priors, decoders, cut backbones and their exports. Torch zone: nothing light imports it.

`FeatureCodec` (with `CodecConfig`) is the whole codec; `load_backbone` gives a `CutBackbone`; `pipeline.models.export`
makes the ONNX files that edges and servers run.
"""

from __future__ import annotations

from pipeline.models.analysis import FrankenSplitAnalysis, StemAnalysis, build_analysis
from pipeline.models.backbones import CutBackbone, load_backbone
from pipeline.models.entropy_bottleneck import EntropyBottleneck
from pipeline.models.feature_codec import CodecConfig, FeatureCodec
from pipeline.models.synthesis import build_synthesis

__all__ = [
    "CodecConfig",
    "CutBackbone",
    "EntropyBottleneck",
    "FeatureCodec",
    "FrankenSplitAnalysis",
    "StemAnalysis",
    "build_analysis",
    "build_synthesis",
    "load_backbone",
]
