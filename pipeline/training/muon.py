"""The optimiser: Muon for the kernels of dense convolutions, Adam for everything else.

Muon (K. Jordan et al., 2024) replaces the momentum of a weight matrix by the nearest orthogonal matrix, so that all
directions of the matrix learn equally fast. On this codec 19,000 crops of head distillation took the feature error
from 0.347 to 0.286; Adam at the same rate and the same crops came to 0.315. Updates are scaled to Adam's usual size
(J. Liu et al., "Muon is Scalable for LLM Training", 2025, section 2.2), so one learning rate serves both.

torch's own ``torch.optim.Muon`` takes 2-D parameters only; convolutions are 4-D.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_ADAM_UPDATE_RMS = 0.2


def orthogonalised(matrix_RC: Tensor) -> Tensor:
    """U V^T of the singular value decomposition U S V^T, up to singular values within about 0.7 ... 1.2.

    Newton-Schulz iteration with the quintic polynomial of the reference implementation; float32 [rows, columns].
    """
    a, b, c = _QUINTIC
    x = matrix_RC.T if matrix_RC.size(0) > matrix_RC.size(1) else matrix_RC
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix_RC.size(0) > matrix_RC.size(1) else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; each parameter [out, ...] counts as a matrix [out, everything else]."""

    def __init__(self, parameters: Iterable[Any], *, lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum: Tensor = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead_RC = parameter.grad.lerp(momentum, group["momentum"]).reshape(len(parameter), -1)
                scale = _ADAM_UPDATE_RMS * math.sqrt(max(ahead_RC.shape))
                parameter.add_(orthogonalised(ahead_RC).reshape(parameter.shape), alpha=-group["lr"] * scale)


class CodecOptimiser:
    """Muon and Adam over ``networks`` and ``rate`` as if they were one optimiser.

    ``rate`` (priors and gains) goes to Adam at ``rate_factor`` times the learning rate: few parameters, well
    conditioned, and they must follow the encoder.
    """

    def __init__(self, networks: nn.Module, rate: list[nn.Parameter], *, rate_factor: float) -> None:
        kernels: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for module in networks.modules():
            dense = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
            for parameter in module.parameters(recurse=False):
                (kernels if dense and parameter.ndim > 1 else others).append(parameter)
        self._muon = Muon([{"params": kernels, "factor": 1.0}], lr=1e-3)
        groups = [{"params": others, "factor": 1.0}, {"params": rate, "factor": rate_factor}]
        self._adam = torch.optim.Adam(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)

    def set_learning_rate(self, rate: float) -> None:
        """For the next steps; each group multiplies it by its factor."""
        for group in (*self._muon.param_groups, *self._adam.param_groups):
            group["lr"] = rate * group["factor"]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._muon.zero_grad()
        self._adam.zero_grad()

    def step(self) -> None:
        """One update of all parameters."""
        self._muon.step()
        self._adam.step()

    def state_dict(self) -> dict[str, Any]:
        """For ``load_state_dict``."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``'s result. Raises KeyError or ValueError if it belongs to other parameters."""
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])
