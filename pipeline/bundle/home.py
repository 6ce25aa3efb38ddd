"""Where FrankenStream keeps what it fetches and builds: `$FRANKENSTREAM_HOME`, else the platform's data folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home_folder() -> Path:
    """The folder for bundles, exported engines and the like; not made here."""
    named = os.environ.get("FRANKENSTREAM_HOME")
    if named:
        return Path(named).expanduser()
    return _data_folder() / "frankenstream"


def _data_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
