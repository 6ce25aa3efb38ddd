"""A bundle carries what training needs to go on from it."""

from __future__ import annotations

import torch

from pipeline.bundle import Bundle
from pipeline.models.feature_codec import CodecConfig, FeatureCodec
from pipeline.training.checkpoints import codec_state_from_bundle
from pipeline.training.start import load_what_is_there


def test_default_bundle_is_a_whole_codec() -> None:
    """Its weights load strictly, and quantise with the gains and offsets that the edge uses."""
    bundle = Bundle.open()
    codec = FeatureCodec(CodecConfig(analysis=bundle.edge_spec.analysis.name))

    assert load_what_is_there(codec, codec_state_from_bundle(bundle)) == []

    for number, point in enumerate(bundle.latent_spec.operating_points):
        torch.testing.assert_close(codec.gain_1C11(number).flatten(), torch.from_numpy(point.gain))
        torch.testing.assert_close(codec.median_1C11(number).flatten(), torch.from_numpy(point.offset))
