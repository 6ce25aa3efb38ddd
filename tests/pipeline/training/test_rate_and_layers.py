"""What training believes about the codec, on the bundle that ships: its rate is the files', and layers are in order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from edge_node import open_source  # noqa: E402
from pipeline.bundle import Bundle  # noqa: E402
from pipeline.models.backbones import load_backbone  # noqa: E402
from pipeline.models.feature_codec import LAYERS, CodecConfig, FeatureCodec, drop_tail  # noqa: E402
from pipeline.models.weights import find_package_file  # noqa: E402
from pipeline.preprocess import Preprocessor  # noqa: E402
from pipeline.runtime.encoder import preprocess_spec  # noqa: E402
from pipeline.training.checkpoints import codec_state_from_bundle  # noqa: E402
from pipeline.training.losses import feature_loss  # noqa: E402
from pipeline.training.start import load_what_is_there  # noqa: E402
from recordings.samples import sample_path  # noqa: E402

LITE0 = "tf_efficientnet_lite0"
FRAMES, EVERY = 6, 60


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> FeatureCodec:
    points = tuple(point.name for point in bundle.operating_points)
    config = CodecConfig(bundle.edge_spec.analysis.name, (LITE0, "tf_efficientnet_lite2"), points)
    made = FeatureCodec(config).eval().requires_grad_(False)
    load_what_is_there(made, codec_state_from_bundle(bundle))
    return made


@pytest.fixture(scope="module")
def image_N3HW(bundle: Bundle) -> torch.Tensor:
    """Scattered frames of the sample that ships."""
    preprocess = Preprocessor(preprocess_spec(bundle.edge_spec))
    frames = itertools.islice(open_source(str(sample_path())), 0, FRAMES * EVERY, EVERY)
    return torch.from_numpy(np.concatenate([preprocess(frame[0]) for frame in frames]))


def test_estimated_bits_are_the_files(bundle: Bundle, codec: FeatureCodec, image_N3HW: torch.Tensor) -> None:
    """At every operating point, bitstreams are within 2 % of what their tables say, header and coder's ends included;
    the learned prior, which steers training, is within 25 % (whole frames in counted contexts cost less than it says).
    """
    latents = bundle.latent_codec()
    for point in range(len(bundle.operating_points)):
        symbols = codec.quantise(codec.analysis(image_N3HW), point)
        frames = symbols.numpy().astype(np.int16)
        real = 8 * sum(len(latents.encode(frame, point)) for frame in frames)
        assert sum(latents.estimate_bits(frame, point) for frame in frames) == pytest.approx(real, rel=0.02)
        assert float(codec.symbol_bits(symbols, point).sum()) == pytest.approx(real, rel=0.25)


@pytest.mark.skipif(find_package_file(LITE0) is None, reason="needs the weights of lite0")
def test_more_layers_never_decode_worse(codec: FeatureCodec, image_N3HW: torch.Tensor) -> None:
    """On average over frames, each further layer brings the feature nearer to the unmodified backbone's."""
    backbone, synthesis = load_backbone(LITE0, stride=codec.config.cut_stride), codec.synthesis[LITE0]
    with torch.inference_mode():
        target = (backbone.head_part(image_N3HW) - synthesis.target_mean) / synthesis.target_std
        symbols = codec.quantise(codec.analysis(image_N3HW), 1)
        errors = []
        for layers in range(1, LAYERS + 1):
            received = codec.dequantise(drop_tail(symbols, layers), 1)
            errors.append(float(feature_loss(synthesis.normalised(received), target).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.7 * errors[0]
