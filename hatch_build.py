"""Build hook: compiles the C range coder into the wheel, or into the checkout for an editable install.

Without a compiler the install succeeds all the same; the Python reference takes over and says so when it is used.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RangeCoderHook(BuildHookInterface):  # type: ignore[type-arg,misc]
    """Named by `[tool.hatch.build.hooks.custom] path = "hatch_build.py"`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        builder = _load_builder(Path(self.root))
        try:
            library = builder.build()
        except builder.BuildError as error:
            self.app.display_warning(f"the C range coder was not built, the slow Python one will be used: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = False
        build_data["tag"] = f"py3-none-{_platform_tag()}"
        build_data["artifacts"].append(library.relative_to(self.root).as_posix())


def _load_builder(root: Path) -> ModuleType:
    """`pipeline.codec.build` by its path: the package itself needs numpy, which a build environment lacks."""
    path = root / "pipeline" / "codec" / "build.py"
    spec = importlib.util.spec_from_file_location("range_coder_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _platform_tag() -> str:
    """Tag of this machine: the library needs no Python interface, so any Python 3 will do."""
    from packaging.tags import platform_tags

    return next(iter(platform_tags()))
