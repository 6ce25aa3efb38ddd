"""The public names: all load, and importing the package itself costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import frankenstream


@pytest.mark.parametrize("name", frankenstream.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(frankenstream, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = frankenstream.nonsense


def test_importing_the_package_loads_no_library() -> None:
    """Names load when they are first used."""
    code = "import frankenstream, sys; print({'numpy', 'zmq', 'onnxruntime', 'torch'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
