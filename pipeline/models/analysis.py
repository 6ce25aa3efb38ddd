"""The encoders g_a that run on the edge: image in, latent out, nothing about any task.

All take RGB as float32 ``image_BCHW`` in [0, 1] and give a signed ``latent_BCHW`` of the encoder's own shape: 48
channels at 1/8 of the resolution, or 256 at 1/32. They use convolutions, ReLU and additions only (and reorder channels
once), so they export to any runtime and quantise to int8.

Axes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.codec import LatentShape
from pipeline.errors import ConfigError

BAND_CHANNELS = (80, 66, 66, 44)
"""Channels of a latent that each band of ``BandTransform`` gives: smooth, left-right, top-bottom, diagonal."""
_HAAR_SIGNS = ([[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]])


class Analysis(nn.Module):
    """What the rest of the package relies on: a module from image to latent, and the latent's shape."""

    latent: ClassVar[LatentShape] = LatentShape(channels=48, stride=8)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each followed by the activation, plus a skip; **nothing after the sum**, so that the
    output is signed.

    The skip is a 1x1 convolution where stride or width changes, the identity otherwise. FrankenSplit's released code
    loses the first activation by mistake; the paper and we have both.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.activation = activation if activation is not None else nn.ReLU()
        same_shape = stride == 1 and in_channels == out_channels
        self.skip = nn.Identity() if same_shape else nn.Conv2d(in_channels, out_channels, 1, stride=stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h = self.activation(self.conv1(x_BCHW))
        h = self.activation(self.conv2(h))
        out: Tensor = h + self.skip(x_BCHW)
        return out


class FrankenSplitAnalysis(Analysis):
    """The paper's encoder: three downsampling residual blocks 3 -> 48 -> 64 -> 48; 141,696 parameters, 0.53 GMAC at
    224 x 224.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ResidualBlock(3, 48, stride=2),
            ResidualBlock(48, 64, stride=2),
            ResidualBlock(64, self.latent.channels, stride=2),
        )

    def forward(self, image_BCHW: Tensor) -> Tensor:
        latent_BCHW: Tensor = self.blocks(_centred(image_BCHW))
        return latent_BCHW


class StemAnalysis(Analysis):
    """Our light encoder: a stride-4 stem, then two residual blocks; 123,024 parameters, 0.105 GMAC at 224 x 224.

    Almost all of the paper's encoder's work is at 1/2 resolution; a 5x5 stem with stride 4 skips it (3 to 4
    times faster on CPUs).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 48, 5, stride=4, padding=2)
        self.activation = nn.ReLU()
        self.blocks = nn.Sequential(ResidualBlock(48, 64, stride=2), ResidualBlock(64, self.latent.channels))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        latent_BCHW: Tensor = self.blocks(self.activation(self.stem(_centred(image_BCHW))))
        return latent_BCHW


class ConvStemAnalysis(Analysis):
    """Between the two: two 3x3 convolutions of stride 2, then two residual blocks; 141,576 parameters, 0.159 GMAC at
    224 x 224.

    ``stem`` sees the image through one layer of 4 x 4 patches only. Two layers in its place (a convolutional stem
    instead of a patchifying one: Xiao et al., "Early Convolutions Help Transformers See Better", 2021) left a sixth
    less feature error after equally many steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 56, 3, stride=2, padding=1), nn.ReLU()
        )
        self.blocks = nn.Sequential(ResidualBlock(56, 64, stride=2), ResidualBlock(64, self.latent.channels))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        latent_BCHW: Tensor = self.blocks(self.stem(_centred(image_BCHW)))
        return latent_BCHW


class BandTransform(nn.Module):
    """Four bands at half the resolution, each with a linear transform of its own; channels by falling importance.

    The bands are those of the Haar transform of 2x2 places, each a depthwise convolution. Errors that alternate from
    place to place hardly reach a backbone's answer, which pools over places; in bands of their own they can be rounded
    more coarsely.
    """

    order_C: Tensor

    def __init__(self, in_channels: int, band_channels: tuple[int, ...] = BAND_CHANNELS) -> None:
        super().__init__()
        self.bands = nn.ModuleList(_haar_band(in_channels, signs_22) for signs_22 in _HAAR_SIGNS)
        self.transforms = nn.ModuleList(nn.Conv2d(in_channels, channels, 1) for channels in band_channels)
        self.register_buffer("order_C", torch.arange(sum(band_channels)))

    def pairs(self) -> list[tuple[nn.Conv2d, nn.Conv2d]]:
        """(band, its transform) of each band."""
        return list(zip(self.bands, self.transforms, strict=True))  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.cat([transform(band(x_BCHW)) for band, transform in self.pairs()], dim=1)[:, self.order_C]


def _haar_band(channels: int, signs_22: list[list[int]]) -> nn.Conv2d:
    band = nn.Conv2d(channels, channels, 2, stride=2, groups=channels, bias=False)
    with torch.no_grad():
        band.weight.copy_((torch.tensor(signs_22) / 2).expand_as(band.weight))
    return band


class InvertedResidualAnalysis(Analysis):
    """The shallow layers of EfficientNet-Lite0, then a transform in bands that turns their feature into a latent;
    112,192 parameters, 0.139 GMAC at 224 x 224.

    The layers are those of a trained classifier, BatchNorm folded in, so that training can begin with its weights
    (``pipeline.training.closed_form``): the encoder then need not learn to see, only to compress. They go on to 1/16 of
    the resolution, since what the next stride leaves behind is half of the bytes and hardly any of the answer
    (docs/decisions/0015-cut-at-a-sixteenth.md); the latent is coarser by one stride more
    (docs/decisions/0016-transform-in-the-tails-metric.md).
    """

    latent = LatentShape(channels=sum(BAND_CHANNELS), stride=32)

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Sequential(_same_convolution(3, 32, 3, stride=2), nn.ReLU6()),
            _InvertedResidual(32, 16, kernel=3, expansion=1),
            _InvertedResidual(16, 24, kernel=3, stride=2),
            _InvertedResidual(24, 24, kernel=3),
            _InvertedResidual(24, 40, kernel=5, stride=2),
            _InvertedResidual(40, 40, kernel=5),
            _InvertedResidual(40, 80, kernel=3, stride=2),
        )
        self.transform = BandTransform(80)

    def shallow(self, image_BCHW: Tensor) -> Tensor:
        """The feature behind the trunk, float32 [B, 80, H/16, W/16]."""
        feature_BCHW: Tensor = self.trunk(_centred(image_BCHW))
        return feature_BCHW

    def forward(self, image_BCHW: Tensor) -> Tensor:
        latent_BCHW: Tensor = self.transform(self.shallow(image_BCHW))
        return latent_BCHW


class _InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection, and a skip where the shape stays (MobileNetV2; ReLU6 as in the
    "Lite" networks, which quantises well).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1, expansion: int = 6
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [nn.Conv2d(in_channels, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            _same_convolution(hidden, hidden, kernel, stride=stride, groups=hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, out_channels, 1),
        )
        self.skips = stride == 1 and in_channels == out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.layers(x_BCHW)
        return x_BCHW + out if self.skips else out


def _same_convolution(in_channels: int, out_channels: int, kernel: int, *, stride: int, groups: int = 1) -> nn.Conv2d:
    """TensorFlow's "same" padding for even sizes. With stride 2 that is one pixel less on the left and on the top,
    which equals symmetric padding and a kernel with one more row and column there, zero at first; runtimes have fast
    paths for symmetric padding only, and the kernel may learn to use them.
    """
    size = kernel if stride == 1 else kernel + 1
    return nn.Conv2d(in_channels, out_channels, size, stride=stride, padding=kernel // 2, groups=groups)


ANALYSES: dict[str, type[Analysis]] = {
    "conv_stem": ConvStemAnalysis,
    "frankensplit": FrankenSplitAnalysis,
    "inverted_residual": InvertedResidualAnalysis,
    "stem": StemAnalysis,
}


def build_analysis(name: str) -> Analysis:
    """The encoder called ``name`` (``ANALYSES`` has them), freshly initialised. Raises ConfigError for another name."""
    return _known(name)()


def latent_shape(name: str) -> LatentShape:
    """What the encoder called ``name`` gives. Raises ConfigError for another name."""
    return _known(name).latent


def _known(name: str) -> type[Analysis]:
    if name not in ANALYSES:
        raise ConfigError(f"unknown encoder {name!r}: choose one of {', '.join(sorted(ANALYSES))}")
    return ANALYSES[name]


def _centred(image_BCHW: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], inside the module so that every exported form takes the same input."""
    return image_BCHW * 2.0 - 1.0
