"""The whole codec as one trainable module: one encoder, operating points, layers, and a decoder for each backbone.

    image -> analysis -> latent -> x gain - median -> round -> symbols          (edge)
    symbols -> + median -> / gain -> latent -> synthesis[backbone] -> feature   (server)

An *operating point* is a rate choice: a gain for each channel (a finer or coarser quantiser) and a prior of its own.
Encoder and decoders do not know which one is in use.  *Layers* are groups of channels in order of importance; a
missing layer's symbols are ``FILL_SYMBOL``, the channel's median.

Axes: B batch, C channels, H height, W width, P operating points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.codec import LatentShape
from pipeline.errors import ConfigError
from pipeline.models.analysis import build_analysis, latent_shape
from pipeline.models.backbones import cut_stride
from pipeline.models.entropy_bottleneck import EntropyBottleneck
from pipeline.models.synthesis import NormalisedSynthesis, build_synthesis

LAYERS = 8
DEEP_BLOCKS = 4
DEEP_STRIDE_MIN = 16
"""At 1/8 of the resolution a deep decoder would take longer than what it replaces."""
FILL_SYMBOL = 0
_DOT = ":"


@dataclass(frozen=True)
class CodecConfig:
    """What a codec is made of; stored in checkpoints and bundles. ``initial_gains`` belong to ``operating_points``
    one by one. ``deep_decoders``: the backbones whose decoders have twice as many blocks as usual where the grid is
    coarse enough (docs/training.md says what that brings).
    """

    analysis: str = "inverted_residual"
    backbones: tuple[str, ...] = ("tf_efficientnet_lite0", "tf_efficientnet_lite2")
    operating_points: tuple[str, ...] = ("low", "standard", "high")
    initial_gains: tuple[float, ...] = (0.6, 1.0, 1.6)
    deep_decoders: tuple[str, ...] = ("tf_efficientnet_lite2",)

    @property
    def latent(self) -> LatentShape:
        """What the encoder gives. Raises ConfigError for an unknown encoder."""
        return latent_shape(self.analysis)

    @property
    def cut_stride(self) -> int:
        """At which fraction of the resolution the backbones are cut."""
        return cut_stride(self.latent)

    def build_synthesis(self, tag: str) -> NormalisedSynthesis:
        """A fresh decoder for the backbone ``tag``. Raises ConfigError for one without a blueprint."""
        deep = tag.partition(".")[0] in self.deep_decoders and self.cut_stride >= DEEP_STRIDE_MIN
        return build_synthesis(tag, self.latent, blocks=DEEP_BLOCKS if deep else 0)


class Decoders(nn.ModuleDict):
    """Backbone tag -> g_s. torch allows no dots in a module's name, timm's tags have them (``resnet50.a1_in1k``), so a
    tag's dots are ``:`` in names of modules and keys of state dicts; whoever uses tags never sees that.
    """

    def __getitem__(self, tag: str) -> nn.Module:
        return super().__getitem__(decoder_name(tag))

    def __setitem__(self, tag: str, synthesis: nn.Module) -> None:
        super().__setitem__(decoder_name(tag), synthesis)

    def __contains__(self, tag: str) -> bool:
        return super().__contains__(decoder_name(tag))

    def keys(self) -> Iterable[str]:  # type: ignore[override]
        """The tags."""
        return [name.replace(_DOT, ".") for name in self._modules]

    def items(self) -> Iterable[tuple[str, nn.Module]]:  # type: ignore[override]
        """(tag, g_s) of each backbone."""
        return list(zip(self.keys(), self.values(), strict=True))


def decoder_name(tag: str) -> str:
    """The name of a backbone's decoder in state dicts: ``synthesis.<decoder_name>.…``."""
    return tag.replace(".", _DOT)


class FeatureCodec(nn.Module):
    """Encoder, quantisers, priors and decoders. ``synthesis`` maps a backbone's tag to its g_s."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.analysis = build_analysis(config.analysis)
        gains_P1 = torch.tensor(config.initial_gains).log().view(-1, 1)
        self.log_gain_PC = nn.Parameter(gains_P1.repeat(1, config.latent.channels))
        self.bottlenecks = nn.ModuleList(
            EntropyBottleneck(config.latent.channels, init_scale=4.0) for _ in config.operating_points
        )
        self.synthesis = Decoders({tag: config.build_synthesis(tag) for tag in config.backbones})

    def bottleneck(self, point: int) -> EntropyBottleneck:
        """The prior of operating point number ``point``."""
        module = self.bottlenecks[point]
        assert isinstance(module, EntropyBottleneck)
        return module

    def gain_1C11(self, point: int) -> Tensor:
        """Symbols per unit of latent, float32."""
        return self.log_gain_PC[point].exp().view(1, -1, 1, 1)

    def median_1C11(self, point: int) -> Tensor:
        """The channels' medians in symbol units, float32."""
        return self.bottleneck(point).medians_C.view(1, -1, 1, 1)

    def quantise(self, latent_BCHW: Tensor, point: int) -> Tensor:
        """Latent -> symbols, int32 of the same shape; what an edge sends."""
        y = latent_BCHW.float() * self.gain_1C11(point)
        return torch.round(y - self.median_1C11(point)).to(torch.int32)

    def dequantise(self, symbols_BCHW: Tensor, point: int) -> Tensor:
        """Symbols -> float32 latent; what a server feeds to g_s."""
        return (symbols_BCHW.float() + self.median_1C11(point)) / self.gain_1C11(point)

    def symbol_bits(self, symbols_BCHW: Tensor, point: int) -> Tensor:
        """-log2 p of each symbol under the learned prior, float32 [B, C, H, W]; counted tables do slightly better."""
        return self.bottleneck(point).bits(symbols_BCHW.float() + self.median_1C11(point))

    def simulate(
        self,
        latent_BCHW: Tensor,
        point: int,
        *,
        noise_BCHW: Tensor,
        rounded: bool,
        layers_B: Tensor,
        encoder_pays: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Differentiable stand-in for quantise and dequantise while training: (latent as the server sees it, bits of
        each symbol).

        Rate always sees uniform noise in [-0.5, 0.5) (its likelihood is then a smooth bound on the true one). The
        decoder sees the same noise, or, with ``rounded``, truly rounded values whose gradient passes straight
        through. ``layers_B`` (int64, 1 ... LAYERS) keeps that many layers of each frame; the bits count all of them,
        since the sender pays before the network drops. Without ``encoder_pays`` the bits depend on the point's gains
        and prior only, so the rate's gradient does not reach the encoder.
        """
        y = latent_BCHW.float() * self.gain_1C11(point)
        median = self.median_1C11(point)
        noisy = y + noise_BCHW
        priced = noisy if encoder_pays else latent_BCHW.detach().float() * self.gain_1C11(point) + noise_BCHW
        bits = self.bottleneck(point).bits_interpolated(priced)
        seen = y + (torch.round(y - median) + median - y).detach() if rounded else noisy
        kept = keep_mask(layers_B, self.config.latent.channels).to(seen.device)
        seen = torch.where(kept, seen, median + FILL_SYMBOL)
        return seen / self.gain_1C11(point), bits

    def update_quantiles(self) -> None:
        """Recompute the medians of all operating points (a few milliseconds)."""
        for point in range(len(self.bottlenecks)):
            self.bottleneck(point).update_quantiles()


def channels_per_layer(channels: int) -> int:
    """All layers have equally many. Raises ConfigError for a latent that cannot be shared out so."""
    if channels % LAYERS:
        raise ConfigError(f"a latent of {channels} channels cannot be shared out among {LAYERS} layers")
    return channels // LAYERS


def keep_mask(layers_B: Tensor, channels: int) -> Tensor:
    """Which of ``channels`` are there when frame b has its first ``layers_B[b]`` layers: bool [B, C, 1, 1]."""
    layer_of_channel_C = torch.arange(channels) // channels_per_layer(channels)
    return (layer_of_channel_C.view(1, -1) < layers_B.view(-1, 1)).view(len(layers_B), channels, 1, 1)


def drop_tail(symbols_BCHW: Tensor, layers: int | Sequence[int]) -> Tensor:
    """Symbols of which only the first layers arrived; the others are FILL_SYMBOL."""
    count_B = torch.as_tensor([layers] * len(symbols_BCHW) if isinstance(layers, int) else list(layers))
    kept = keep_mask(count_B, symbols_BCHW.shape[1]).to(symbols_BCHW.device)
    return torch.where(kept, symbols_BCHW, torch.full_like(symbols_BCHW, FILL_SYMBOL))
