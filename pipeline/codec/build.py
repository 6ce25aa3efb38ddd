"""Builds the C range coder: `python -m pipeline.codec.build` in a checkout, `hatch_build.py` when a wheel is made.

Needs a C compiler and nothing else. Imports only the standard library, as the build hook loads it by its path.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("_range_coder.c")
LIBRARY: Final = Path(__file__).with_name("_range_coder.so")
INSTALL_HINT: Final = "sudo apt-get install gcc libc6-dev, then python -m pipeline.codec.build"
_FLAGS: Final = ("-O3", "-std=c11", "-fPIC", "-shared", "-fvisibility=hidden")


class BuildError(Exception):
    """No compiler, or it failed. The message is one line."""


def find_compiler() -> list[str] | None:
    """The compiler's command: $CC, else the first of cc, gcc, clang that is there."""
    chosen = os.environ.get("CC")
    if chosen:
        command = shlex.split(chosen)
        return command if shutil.which(command[0]) else None
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    return None


def build(target: Path = LIBRARY, *, extra_flags: Sequence[str] = ()) -> Path:
    """Compile to `target`, replacing it in one step. Raises BuildError."""
    compiler = find_compiler()
    if compiler is None:
        raise BuildError(f"no C compiler found (CC, cc, gcc, clang): {INSTALL_HINT}")
    attempts = [["-march=x86-64-v2"], []] if platform.machine() in ("x86_64", "AMD64") else [[]]
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.part")
    for machine_flags in attempts:
        command = [*compiler, *_FLAGS, *machine_flags, *extra_flags, str(SOURCE), "-o", str(unfinished)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"{compiler[0]} did not run: {error}") from None
        if run.returncode == 0:
            os.replace(unfinished, target)
            return target
    unfinished.unlink(missing_ok=True)
    reason = next((line for line in run.stderr.splitlines() if "error" in line), run.stderr.strip()[-200:])
    raise BuildError(f"{compiler[0]} could not build {SOURCE.name}: {reason}: {INSTALL_HINT}")


def main() -> int:
    try:
        print(f"built {build()}")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
