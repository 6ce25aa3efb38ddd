"""The factorized prior: a learned density per channel, after Balle et al. 2018 (arXiv 1802.01436, appendix 6.1), as
CompressAI has it.

It exists for training and for taking over CompressAI checkpoints. Nothing of it runs on an edge: after training,
symbols are counted into integer tables (``pipeline.packing.tables``), which both ends share, so that float rounding
can never desynchronise a decoder.

Two things differ from CompressAI on purpose. Quantiles (and so medians) are found by bisection on the density
instead of being trained with an auxiliary loss, which never quite converges (CompressAI #52, #236). The density is
always evaluated in float32, also under autocast: bfloat16 turns small likelihoods into NaN (#92).

Axes: B batch, C channels, H height, W width, N any number of values.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILTERS = (1, 3, 3, 3, 3, 1)  # widths of the monotone network, ends included
DENSITY_LAYERS = len(FILTERS) - 1
LIKELIHOOD_MIN = 1e-9
TAIL_MASS = 1e-9
_SEARCH_LIMIT = 2.0**20  # quantiles are looked for within +- this many symbols
_BISECTIONS = 60
_GRID_PER_SYMBOL = 8


class EntropyBottleneck(nn.Module):
    """``likelihood(y)`` of values quantised to unit steps, one density for each channel; 58 parameters a channel and
    3 quantiles.

    ``quantiles`` is a float32 buffer [C, 1, 3]: lower tail, median, upper tail; stale until ``update_quantiles``.
    """

    quantiles: Tensor

    def __init__(self, channels: int, *, init_scale: float = 10.0) -> None:
        super().__init__()
        self.channels = channels
        scale = init_scale ** (1 / DENSITY_LAYERS)
        for layer in range(DENSITY_LAYERS):
            rows, columns = FILTERS[layer + 1], FILTERS[layer]
            start = math.log(math.expm1(1 / scale / rows))
            self.register_parameter(f"_matrix{layer}", nn.Parameter(torch.full((channels, rows, columns), start)))
            self.register_parameter(f"_bias{layer}", nn.Parameter(torch.empty(channels, rows, 1).uniform_(-0.5, 0.5)))
            if layer < DENSITY_LAYERS - 1:
                self.register_parameter(f"_factor{layer}", nn.Parameter(torch.zeros(channels, rows, 1)))
        quantiles = torch.tensor([-init_scale, 0.0, init_scale]).repeat(channels, 1, 1)
        self.register_buffer("quantiles", quantiles)

    @torch.no_grad()
    def begin(self, mean_C: Tensor, std_C: Tensor) -> None:
        """Before training: be logistic densities of these means and deviations, in symbols.

        A fresh network is affine in y (its factors are 0), so its logit is that of a logistic distribution already; the
        first matrices and last biases give it its place and width.
        """
        first_matrix, last_bias = (getattr(self, name) for name in ("_matrix0", f"_bias{DENSITY_LAYERS - 1}"))
        zero_C11, mean_C11 = torch.zeros_like(mean_C).view(-1, 1, 1), mean_C.view(-1, 1, 1)
        slope_C11 = self.cumulative_logits(zero_C11 + 1) - self.cumulative_logits(zero_C11)
        wanted_C11 = math.pi / math.sqrt(3) / std_C.view(-1, 1, 1)
        first_matrix.copy_(torch.expm1(F.softplus(first_matrix) * wanted_C11 / slope_C11).log())
        last_bias -= self.cumulative_logits(mean_C11)
        self.update_quantiles()

    @property
    def medians_C(self) -> Tensor:
        """float32 [C]; quantisation rounds the distance to these."""
        return self.quantiles[:, 0, 1]

    def cumulative_logits(self, y_C1N: Tensor) -> Tensor:
        """The logit of the cumulative distribution at each value; same shape, increasing along N."""
        logits = y_C1N
        for layer in range(DENSITY_LAYERS):
            matrix, bias = getattr(self, f"_matrix{layer}"), getattr(self, f"_bias{layer}")
            logits = torch.matmul(F.softplus(matrix), logits) + bias
            if layer < DENSITY_LAYERS - 1:
                logits = logits + torch.tanh(getattr(self, f"_factor{layer}")) * torch.tanh(logits)
        return logits

    def likelihood_C1N(self, y_C1N: Tensor) -> Tensor:
        """P(round = y) = F(y + 1/2) - F(y - 1/2), at least LIKELIHOOD_MIN."""
        lower, upper = self.cumulative_logits(y_C1N - 0.5), self.cumulative_logits(y_C1N + 0.5)
        # Subtract in the tail where the sigmoid has its precision: left tail as it is, right tail mirrored.
        # (CompressAI's sign is 0 where the two are exactly symmetric, and the likelihood with it.)
        sign = torch.where(lower + upper > 0, -1.0, 1.0)
        likelihood = torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))
        return _LowerBound.apply(likelihood, LIKELIHOOD_MIN)

    def bits(self, y_BCHW: Tensor) -> Tensor:
        """-log2 of the likelihood of each value, float32 [B, C, H, W]; y in symbol units, not yet centred on the
        medians.
        """
        with torch.autocast(y_BCHW.device.type, enabled=False):
            B, C, H, W = y_BCHW.shape
            y_C1N = y_BCHW.float().permute(1, 0, 2, 3).reshape(C, 1, -1)
            bits_C1N = -torch.log2(self.likelihood_C1N(y_C1N))
            return bits_C1N.view(C, B, H, W).permute(1, 0, 2, 3)

    def bits_interpolated(self, y_BCHW: Tensor) -> Tensor:
        """``bits`` by linear interpolation in a table of the density, for training: about 4 times faster, within
        0.001 bits, same gradients within 3 %.

        The monotone network runs on a grid of ``_GRID_PER_SYMBOL`` points a symbol instead of on every value; values
        lie within the grid by construction.
        """
        with torch.autocast(y_BCHW.device.type, enabled=False):
            B, C, H, W = y_BCHW.shape
            y_CN = y_BCHW.float().permute(1, 0, 2, 3).reshape(C, -1).contiguous()
            low, high = math.floor(float(y_CN.detach().min())) - 1, math.ceil(float(y_CN.detach().max())) + 1
            steps_G = torch.arange((high - low) * _GRID_PER_SYMBOL + 1, device=y_CN.device)
            grid_G = low + steps_G / _GRID_PER_SYMBOL
            table_CG = -torch.log2(self.likelihood_C1N(grid_G.view(1, 1, -1).repeat(C, 1, 1)))[:, 0]
            bits_CN = _Interpolate.apply(table_CG, (y_CN - low) * _GRID_PER_SYMBOL)
            return bits_CN.view(C, B, H, W).permute(1, 0, 2, 3)

    def pmf(self, minimum: int, maximum: int) -> Tensor:
        """Probabilities of the symbols minimum ... maximum around the medians, float64 [C, maximum - minimum + 1];
        rows sum to less than 1.
        """
        with torch.no_grad():
            symbols = torch.arange(minimum, maximum + 1, dtype=torch.float32, device=self.quantiles.device)
            y_C1N = symbols.view(1, 1, -1) + self.medians_C.view(-1, 1, 1)
            return self.likelihood_C1N(y_C1N)[:, 0].double()

    @torch.no_grad()
    def update_quantiles(self) -> None:
        """Set ``quantiles`` to the 0.5e-9, 0.5 and 1 - 0.5e-9 points of each density, by bisection."""
        logit = math.log(TAIL_MASS / 2) - math.log1p(-TAIL_MASS / 2)
        target_C13 = self.quantiles.new_tensor([logit, 0.0, -logit]).repeat(self.channels, 1, 1)
        low, high = torch.full_like(target_C13, -_SEARCH_LIMIT), torch.full_like(target_C13, _SEARCH_LIMIT)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below = self.cumulative_logits(middle) < target_C13
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        self.quantiles.copy_((low + high) / 2)

    def compressai_state_dict(self, *, parameter_lists: bool = True) -> dict[str, Tensor]:
        """The state as CompressAI names it, without its integer tables.

        ``matrices.0 ...`` as in version 1.2.8, or ``_matrix0 ...`` as in older ones and in our own checkpoints.
        """
        names = {"_matrix": "matrices.", "_bias": "biases.", "_factor": "factors."}
        state: dict[str, Tensor] = {}
        for key, value in self.state_dict().items():
            match = re.fullmatch(r"(_matrix|_bias|_factor)(\d)", key)
            state[f"{names[match[1]]}{match[2]}" if match and parameter_lists else key] = value.clone()
        return state

    def load_compressai_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a CompressAI EntropyBottleneck's state, either naming scheme; its integer tables are left out.

        Raises RuntimeError (as ``load_state_dict`` does) if parameters are missing or of another shape.
        """
        names = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}
        own: dict[str, Tensor] = {}
        for key, value in state.items():
            match = re.fullmatch(r"(matrices|biases|factors)\.(\d)", key)
            if match:
                own[f"{names[match[1]]}{match[2]}"] = value
            elif re.fullmatch(r"(_matrix|_bias|_factor)\d|quantiles", key):
                own[key] = value
        self.load_state_dict(own)


class _LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient still pulls values below the bound upwards (CompressAI ``ops/bound_ops.py``)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, bound: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        ctx.bound = bound  # type: ignore[attr-defined]
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        passes = (x >= ctx.bound) | (gradient < 0)  # type: ignore[attr-defined]
        return gradient * passes, None


class _Interpolate(torch.autograd.Function):
    """table[c, position] for fractional positions, linear between entries; gathers and histograms, since index
    backward is slow on CPUs.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, table_CG: Tensor, position_CN: Tensor) -> Tensor:  # type: ignore[override]
        C, G = table_CG.shape
        index_CN = position_CN.to(torch.int32).clamp_(0, G - 2)
        fraction_CN = position_CN - index_CN
        flat = (index_CN + torch.arange(C, dtype=torch.int32, device=table_CG.device).view(-1, 1) * G).view(-1)
        left = table_CG.reshape(-1).index_select(0, flat)
        slope_CN = (table_CG.reshape(-1)[1:].index_select(0, flat) - left).view_as(position_CN)
        ctx.save_for_backward(flat, fraction_CN, slope_CN)
        ctx.table_shape = (C, G)  # type: ignore[attr-defined]
        return left.view_as(position_CN) + slope_CN * fraction_CN

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient_CN: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        flat, fraction_CN, slope_CN = ctx.saved_tensors  # type: ignore[attr-defined]
        C, G = ctx.table_shape  # type: ignore[attr-defined]
        to_right = torch.bincount(flat, weights=(gradient_CN * fraction_CN).reshape(-1), minlength=C * G)
        table = torch.bincount(flat, weights=gradient_CN.reshape(-1), minlength=C * G) - to_right
        table[1:] += to_right[:-1]
        return table.view(C, G).to(gradient_CN.dtype), gradient_CN * slope_CN
