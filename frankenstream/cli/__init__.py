"""The command `frankenstream`: one module a command, loaded when it is called, so that `--help` is quick.

Exit codes: 0 done, 2 usage or settings, 3 input, 4 network, 5 model, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from cyclopts import App, CycloptsError
from cyclopts.config import Env, Toml
from rich.console import Console

from pipeline.errors import ConfigError, FrankenError

COMMANDS: dict[str, str] = {
    "demo": "The whole system on this machine: server, edge, a recording, four tasks.",
    "try": "Label one image directly and through the codec, side by side.",
    "edge": "Stream a camera, video or folder to a server.",
    "serve": "Answer edges: decode latents, run backbones and task heads.",
    "replay": "Replay videos and recordings through the live path: at their own pace, fast, lossless or step by step.",
    "train": "Train codecs, decoders, heads and backbones on photos of your own.",
    "recordings": "Look at recordings, cut, export, recover and play them.",
    "tasks": "Teach tasks of your own, from pictures or a live camera, while a server runs.",
    "bundle": "Look at bundles and verify them.",
    "keys": "Make and show the keys that encrypt connections.",
    "pair": "A link and its QR code that let one more device stream.",
    "doctor": "Check this installation and say what to do about what is missing.",
    "top": "Watch a server live: sessions, stages, drops, tasks.",
    "bench": "Measure: this device, or how many streams a server carries.",
}


def build_app(config_file: Path | None = None) -> App:
    """The command tree. Settings come from flags, then `FRANKENSTREAM_*`, then a TOML file."""
    toml = Toml(config_file, must_exist=True) if config_file else Toml("frankenstream.toml", search_parents=True)
    app = App(
        name="frankenstream",
        help="Streaming computer vision for cameras that cannot carry the models they need.",
        version=_version,
        config=[Env("FRANKENSTREAM_"), toml],
        help_epilogue="Start with `frankenstream demo`. A flag wins over its environment variable "
        "(FRANKENSTREAM_SERVE_LISTEN for serve --listen), which wins over frankenstream.toml ([serve] listen = …; "
        "or `--config FILE` before the command).",
        result_action="return_value",
    )
    for name, sentence in COMMANDS.items():
        module = f"frankenstream.cli.{'try_' if name == 'try' else name}"
        target = "app" if name in ("tasks", "bundle", "keys", "bench", "recordings", "train") else "command"
        app.command(f"{module}:{target}", name=name, help=sentence)
    app.register_install_completion_command(help="Install completion for your shell.")
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script: runs a command, prints one line on errors, exits."""
    # The products here are small (heads: 0.1 ms); waking a second thread for one costs more than it saves, and on a
    # busy machine milliseconds. Must be set before numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    try:
        config_file, arguments = _take_config(arguments)
        result = build_app(config_file)(arguments, exit_on_error=False, print_error=False)
        return int(result) if isinstance(result, int) else 0
    except FrankenError as error:
        return _fail(str(error), error.exit_code)
    except CycloptsError as error:
        return _fail(f"{str(error).strip()} See `frankenstream --help`.", 2)
    except BrokenPipeError:
        # `frankenstream … | head`: the reader has gone, which is its right. The interpreter would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _take_config(arguments: list[str]) -> tuple[Path | None, list[str]]:
    if arguments[:1] != ["--config"]:
        return None, arguments
    if len(arguments) < 2 or not Path(arguments[1]).is_file():
        raise ConfigError(
            f"--config needs a TOML file, {' '.join(arguments[1:2]) or 'nothing'!r} is none: check the path"
        )
    return Path(arguments[1]), arguments[2:]


def _fail(line: str, code: int) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    console.print(f"[bold red]frankenstream:[/] {_escape(line)}")
    return code


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


def _version() -> str:
    try:
        return metadata.version("frankenstream")
    except metadata.PackageNotFoundError:
        return "0+unknown"
