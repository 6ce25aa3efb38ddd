"""`frankenstream keys`: CURVE key pairs. Connections beyond this machine are refused without them."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

app = App(name="keys", help="Make and show the keys that encrypt connections.")
