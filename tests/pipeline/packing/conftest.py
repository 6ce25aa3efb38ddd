"""Tiny tensors here too."""

from tests.pipeline.training.conftest import _one_thread

__all__ = ["_one_thread"]
