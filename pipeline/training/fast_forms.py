"""Forms of modules that train fastest on CPUs: the same function, fewer and cheaper operations.

Only gradients with respect to the *input* of a frozen tail are needed, so its BatchNorm can be folded into the
convolutions (about 1.4 times faster in bfloat16 on CPUs). A strided depthwise convolution's gradient is slow in
oneDNN (27 ms of a 98 ms tail), the unstrided one's is not, so the former is computed as the latter and then
subsampled, which is exact. Use ``load_backbone``'s result itself wherever bit-exactness counts.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pipeline.models.backbones import CutBackbone


class _SubsampledDepthwise(nn.Module):
    """A strided depthwise convolution as an unstrided one, of which every ``stride``-th output is kept."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.step = int(conv.stride[0])
        kernel = int(conv.kernel_size[0])
        # timm's "same" convolutions pad dynamically (type Conv2dSame, padding 0), the others symmetrically.
        self.same = type(conv).__name__ == "Conv2dSame"
        self.kernel = kernel
        self.padding = int(conv.padding[0])  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        left, right = zip(*(self._pads(int(size)) for size in x_BCHW.shape[-2:]), strict=True)
        x_BCHW = nn.functional.pad(x_BCHW, [left[1], right[1], left[0], right[0]])
        y_BCHW = nn.functional.conv2d(x_BCHW, self.conv.weight, self.conv.bias, groups=self.conv.groups)
        return y_BCHW[:, :, :: self.step, :: self.step].contiguous(memory_format=torch.channels_last)

    def _pads(self, size: int) -> tuple[int, int]:
        if not self.same:
            return self.padding, self.padding
        total = max((-(-size // self.step) - 1) * self.step + self.kernel - size, 0)
        return total // 2, total - total // 2


def training_form(backbone: CutBackbone) -> CutBackbone:
    """A copy of ``backbone`` with BatchNorm folded, strided depthwise convolutions subsampled, weights channels-last.
    Equal up to float rounding.
    """
    fast = copy.deepcopy(backbone)
    for parent in list(fast.modules()):
        _fold_batch_norm(parent)
    for parent in list(fast.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child.groups == child.in_channels > 1 and child.stride[0] > 1:
                setattr(parent, name, _SubsampledDepthwise(child))
    fast.requires_grad_(False)
    return fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class _Float32Conv2d(nn.Conv2d):
    """A convolution that leaves autocast for itself."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        with torch.autocast(x_BCHW.device.type, enabled=False):
            return super().forward(x_BCHW.float())


class _SubsampledPointwise(nn.Conv2d):
    """A strided 1x1 convolution as an unstrided one of every ``stride``-th pixel, which is exact."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kept = x_BCHW[:, :, :: self.stride[0], :: self.stride[1]].contiguous(memory_format=torch.channels_last)
        return nn.functional.conv2d(kept, self.weight, self.bias)


def use_fast_strided(module: nn.Module) -> None:
    """Compute the strided convolutions of ``module`` in the form that trains fastest, in place; parameters and their
    names stay.

    3x3: in float32 under autocast, since oneDNN's bfloat16 gradient takes up to 5 times as long and was a fifth of a
    whole training step. 1x1: subsampled first, since oneDNN's gradient for an image of three channels
    (``frankensplit``'s first skip) ends the process with a segmentation fault (torch 2.13, channels-last).
    """
    for child in module.modules():
        if type(child) is not nn.Conv2d or child.stride[0] == 1:
            continue
        if child.kernel_size == (3, 3):
            child.__class__ = _Float32Conv2d
        elif child.kernel_size == (1, 1):
            child.__class__ = _SubsampledPointwise


def autocast_on(device: torch.device, bfloat16: bool | None = None) -> Callable[[], torch.autocast]:
    """Makes contexts in which convolutions run in bfloat16, or not; None: where that is faster."""
    enabled = bfloat16_is_faster(device) if bfloat16 is None else bfloat16
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=enabled)


def bfloat16_is_faster(device: torch.device) -> bool:
    """Whether products of a convolution's size take less time in bfloat16 than in float32: 3 times less on CPUs with
    AMX or AVX512-BF16, 5 times *more* on those without, where oneDNN emulates it.
    """
    if device.type != "cpu":
        return True
    return _product_seconds(torch.bfloat16) < _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    a, b = torch.zeros(2400, 112, dtype=dtype), torch.zeros(112, 672, dtype=dtype)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _fold_batch_norm(parent: nn.Module) -> None:
    """Within one module, fold each BatchNorm into the convolution registered right before it; its activation (timm's
    BatchNormAct2d) stays.
    """
    previous: nn.Module | None = None
    for name, child in list(parent.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
            assert child.running_mean is not None
            assert child.running_var is not None
            weight, bias = fuse_conv_bn_weights(
                previous.weight,
                previous.bias,
                child.running_mean,
                child.running_var,
                child.eps,
                child.weight,
                child.bias,
            )
            previous.weight, previous.bias = weight, bias
            setattr(parent, name, getattr(child, "act", nn.Identity()))
        previous = child
