"""A bundle for the null engine, made once."""

from __future__ import annotations

import pytest

from pipeline.bundle import Bundle
from tests.bundles import backbone, random_bundle


@pytest.fixture(scope="session")
def null_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two backbones of eight features, three heads on each."""
    backbones = (
        backbone("null", alias="", pooled_width=8, default=True),
        backbone("null2", alias="second", pooled_width=8),
    )
    return random_bundle(tmp_path_factory.mktemp("bundles") / "null", backbones=backbones)
