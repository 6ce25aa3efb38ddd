"""g_s for Swin Transformers: twice a restoration block and a pair of Swin blocks (plain and shifted windows), as in
FrankenSplit, up to the feature at the cut: at 1/8 the one *before* patch merging (timm >= 0.9 opens the next stage with
it).

timm's own blocks hold masks for one input size. Ours make the mask for the size that comes: windows that the size does
not fill are padded, and neither padding nor tokens that the cyclic shift brings together from opposite borders attend
to each other. Parameters carry timm's names, and at sizes that windows divide the function is timm's too.

Axes: B batch, C channels, H height, W width, N windows in a frame, T tokens in a window, A attention heads.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.analysis import ResidualBlock
from pipeline.models.synthesis.normalised import NormalisedSynthesis

HEAD_CHANNELS = 32
MASKED = -100.0  # as in Swin: finite, so that a window of nothing but padding gives numbers


class WindowAttention(nn.Module):
    """Self-attention of the tokens of each window, with a learned bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, *, window: int) -> None:
        super().__init__()
        self.heads = max(channels // HEAD_CHANNELS, 1)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, self.heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        index_TT = torch.from_numpy(_relative_position_index(window))
        self.register_buffer("relative_position_index", index_TT, persistent=False)

    def forward(self, x_BNTC: Tensor, mask_NTT: Tensor | None) -> Tensor:
        batch, windows, tokens, channels = x_BNTC.shape
        qkv = self.qkv(x_BNTC).reshape(batch, windows, tokens, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # each B N A T channels-of-a-head
        bias_ATT = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias_ATT[None, None] if mask_NTT is None else bias_ATT[None, None] + mask_NTT[None, :, None]
        weights = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5 + bias
        out_BNTC = (weights.softmax(dim=-1).to(v.dtype) @ v).transpose(2, 3).reshape(batch, windows, tokens, channels)
        projected: Tensor = self.proj(out_BNTC)
        return projected


class SwinMlp(nn.Module):
    """Two linear layers, 4-fold expansion, GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.activation = nn.GELU()
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.activation(self.fc1(x)))
        return out


class SwinBlock(nn.Module):
    """Windowed attention and an MLP, each after LayerNorm and with a skip. ``shifted`` moves windows by half a window;
    an axis that a single window covers is never shifted.
    """

    def __init__(self, channels: int, *, window: int, shifted: bool) -> None:
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, window=window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = SwinMlp(channels)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = x_BHWC + self._attend(self.norm1(x_BHWC))
        out: Tensor = x_BHWC + self.mlp(self.norm2(x_BHWC))
        return out

    def _attend(self, x_BHWC: Tensor) -> Tensor:
        height, width, channels = (int(size) for size in x_BHWC.shape[1:])  # plain numbers: an export fixes the size
        w = self.window
        rows, columns = -(-height // w), -(-width // w)  # windows, rounded up
        shift = (self.shift if rows > 1 else 0, self.shift if columns > 1 else 0)
        padded = F.pad(x_BHWC, (0, 0, 0, columns * w - width, 0, rows * w - height))
        shifted = torch.roll(padded, (-shift[0], -shift[1]), dims=(1, 2)) if any(shift) else padded
        windows = shifted.reshape(-1, rows, w, columns, w, channels).transpose(2, 3)
        mask = attention_mask(height, width, w, shift)
        mask_NTT = None if mask is None else torch.from_numpy(mask).to(x_BHWC)
        attended = self.attn(windows.reshape(-1, rows * columns, w * w, channels), mask_NTT)
        joined = attended.reshape(-1, rows, columns, w, w, channels).transpose(2, 3)
        joined = joined.reshape(-1, rows * w, columns * w, channels)
        restored = torch.roll(joined, shift, dims=(1, 2)) if any(shift) else joined
        return restored[:, :height, :width]


class SwinStage(nn.Module):
    """A restoration block ``in_channels`` -> ``out_channels``, then a plain and a shifted Swin block, with a skip past
    the pair.
    """

    def __init__(self, in_channels: int, out_channels: int, *, window: int) -> None:
        super().__init__()
        self.restore = ResidualBlock(in_channels, out_channels, activation=nn.LeakyReLU())
        self.blocks = nn.Sequential(
            SwinBlock(out_channels, window=window, shifted=False), SwinBlock(out_channels, window=window, shifted=True)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.restore(x_BCHW)
        tokens_BHWC: Tensor = self.blocks(x_BCHW.permute(0, 2, 3, 1))
        return tokens_BHWC.permute(0, 3, 1, 2)


class SwinSynthesis(NormalisedSynthesis):
    """Two Swin stages, the first of ``width`` channels, the second of the target's; the windows are the backbone's."""

    def __init__(self, out_channels: int, *, latent_channels: int, width: int, window: int) -> None:
        super().__init__(out_channels)
        self.stages = nn.Sequential(
            SwinStage(latent_channels, width, window=window), SwinStage(width, out_channels, window=window)
        )

    def restored(self, planes_BCHW: Tensor) -> Tensor:
        feature_BCHW: Tensor = self.stages(planes_BCHW)
        return feature_BCHW


@lru_cache(maxsize=64)
def attention_mask(height: int, width: int, window: int, shift: tuple[int, int]) -> np.ndarray | None:
    """What to add to the attention of tokens that must not see each other, float32 [N, T, T]; None where all may.

    Numbers every token of the padded and shifted grid by the region that it comes from; tokens of one window that
    have different numbers are kept apart.
    """
    padded = [-(-size // window) * window for size in (height, width)]
    if padded == [height, width] and not any(shift):
        return None
    region_H, region_W = _regions(height, padded[0], shift[0]), _regions(width, padded[1], shift[1])
    region_HW = region_H[:, None] * 3 + region_W[None, :]
    rows, columns = padded[0] // window, padded[1] // window
    region_NT = region_HW.reshape(rows, window, columns, window).swapaxes(1, 2).reshape(rows * columns, -1)
    apart_NTT = region_NT[:, :, None] != region_NT[:, None, :]
    return np.where(apart_NTT, np.float32(MASKED), np.float32(0.0))


def _regions(size: int, padded: int, shift: int) -> np.ndarray:
    """Along one axis: 0 for what stays, 1 for what the shift brings over from the other border, 2 for padding."""
    region = np.zeros(padded, np.int64)
    region[size:] = 2
    region[:shift] = 1  # rolled to the far end, beside tokens that were never its neighbours
    return np.roll(region, -shift)


def _relative_position_index(window: int) -> np.ndarray:
    """Row of the bias table for each pair of tokens of a window, int64 [T, T]."""
    row, column = np.divmod(np.arange(window * window), window)
    rows = row[:, None] - row[None, :] + window - 1
    columns = column[:, None] - column[None, :] + window - 1
    index: np.ndarray = rows * (2 * window - 1) + columns
    return index
