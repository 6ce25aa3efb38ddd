"""Several processes on one run, each with its own device and its part of every batch; ``torchrun`` starts them.

    torchrun --nproc-per-node 4 -m frankenstream train codec …

They stay equal bit for bit: same start, gradients and batch statistics averaged after every step, and what depends on
the clock is decided by the first. Alone, everything here does nothing.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from pipeline.errors import ConfigError

_PATIENCE = datetime.timedelta(hours=1)
"""Others wait that long while the first decodes photos or evaluates."""


@dataclass(frozen=True)
class Workers:
    """This process among ``count`` others, and its device."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each float tensor by its mean over all processes, in one exchange."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.count
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view(tensor.shape))

    def share_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by the first process's."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), src=0)

    def agree(self, *values: float) -> list[float]:
        """The first process's numbers."""
        if self.count == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.broadcast(told, src=0)
        return [float(value) for value in told.tolist()]

    def wait(self) -> None:
        """Until all have come here."""
        self.agree(0.0)


def join_workers(device: str = "auto") -> Workers:
    """The processes that torchrun started, or this one alone. ``device``: auto (CUDA where there is one), cpu, cuda.

    Raises ConfigError for a device that is not there.
    """
    count, rank, local = (int(os.environ.get(name, "0")) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    chosen = _device(device, local)
    if count <= 1:
        return Workers(device=chosen)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_PATIENCE)
    return Workers(rank, count, chosen)


def leave_workers() -> None:
    """Take leave of the others at the end of a run."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _device(name: str, local: int) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device is {name!r}, expected auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if local >= torch.cuda.device_count():
        raise ConfigError(f"torch sees {torch.cuda.device_count()} CUDA devices here: train with --device cpu")
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device
