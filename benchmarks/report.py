"""How a benchmark ends: a table for people, a file for programs, a picture; a known failure is one line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.errors import ConfigError, FrankenError

Figures = dict[str, Any]


def report(
    options: argparse.Namespace,
    *,
    run: Callable[[argparse.Namespace, Console], Figures],
    show: Callable[[Console, Figures], None],
    draw: Callable[[Figures, Path], None] | None = None,
    written: Callable[[Figures], Figures] = lambda figures: figures,
) -> int:
    """Measure, print, write `written(figures)` to the file of `--json`, draw into that of `--plot`: the exit code."""
    console = Console()
    try:
        for file in (options.json, getattr(options, "plot", None)):
            if file is not None and not file.parent.is_dir():
                raise ConfigError(f"there is no folder {file.parent} for {file.name}: make it first")
        figures = run(options, console)
    except FrankenError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    show(console, figures)
    if options.json:
        options.json.write_text(json.dumps(written(figures), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if draw is not None and options.plot:
        draw(figures, options.plot)
    return 0
