"""Settings of the roles: frozen structs. A flag wins over `FRANKENSTREAM_<COMMAND>_<SETTING>`, which wins over a TOML
file (`--config FILE`, else `frankenstream.toml` in this folder or one above it; one table a command).

The command line reads flags, environment and file with cyclopts; the docstrings below are its `--help`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from pipeline import limits

DEFAULT_URL = "tcp://127.0.0.1:5555"
DEFAULT_HTTP = "127.0.0.1:8080"


def names(text: str) -> tuple[str, ...]:
    """What a comma-separated setting lists; empty for an empty one."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


@Parameter(name="*")
@dataclass(frozen=True)
class EncoderSettings:
    """How the edge turns frames into bytes.

    Parameters
    ----------
    bundle:
        Bundle folder or .zip; the default one if not given.
    quality:
        Operating point: how many bytes a frame may cost, e.g. low, standard, high.
    precision:
        auto measures fp32 and int8 at the start and takes the faster one that the bundle allows.
    provider:
        auto, cpu, cuda or tensorrt.
    threads:
        Threads of the encoder.
    """

    bundle: Path | None = None
    quality: str = ""
    precision: str = "auto"
    provider: str = "auto"
    threads: int = 1


@Parameter(name="*")
@dataclass(frozen=True)
class StreamSettings:
    """What the edge asks for and how long an answer is wanted.

    Parameters
    ----------
    tasks:
        Tasks to answer, comma separated: NAME or NAME@BACKBONE; all of the backbone's if not given.
    backbone:
        Backbone for tasks that name none; the server's default if not given.
    top_k:
        Labels per task.
    budget_ms:
        Age from capture at which an answer is no longer wanted, in milliseconds.
    fps:
        Frames per second at most; the source's own rate if not given.
    link:
        Simulated link in between: lte, wifi, ble or lossy.
    link_seed:
        Seed of the simulated link.
    """

    tasks: str = ""
    backbone: str = ""
    top_k: int = 1
    budget_ms: int = limits.BUDGET_MS_DEFAULT
    fps: float | None = None
    link: str | None = None
    link_seed: int = 0

    @property
    def task_names(self) -> tuple[str, ...]:
        return names(self.tasks)


@Parameter(name="*")
@dataclass(frozen=True)
class ServerSettings:
    """What the server offers and where.

    Parameters
    ----------
    listen:
        URLs to take frames on, comma separated: tcp://HOST:PORT, ipc://PATH. Beyond loopback keys are required.
    http:
        HOST:PORT of /healthz, /readyz, /metrics and the admin interface; empty: none.
    bundle:
        Bundle folder or .zip; the default one if not given.
    backbones:
        Backbones to serve, comma separated, the first is the default; all of the bundle's if not given.
    backend:
        auto measures ONNX Runtime and torch at warm-up; onnx or torch.
    device:
        auto, cpu or cuda.
    threads:
        Threads of the engine; 0: all cores.
    batch_size_max:
        Frames in a batch at most.
    batch_delay_ms:
        How long a busy engine lets a batch fill, in milliseconds.
    keys:
        Folder of the server's CURVE keys (`frankenstream keys create`).
    admin_token:
        Bearer token of the admin interface; required beyond loopback.
    """

    listen: str = DEFAULT_URL
    http: str = DEFAULT_HTTP
    bundle: Path | None = None
    backbones: str = ""
    backend: str = "auto"
    device: str = "auto"
    threads: int = 0
    batch_size_max: int = 16
    batch_delay_ms: float = 4.0
    keys: Path | None = None
    admin_token: str = ""


@Parameter(name="*")
@dataclass(frozen=True)
class OutputSettings:
    """What the edge shows and keeps.

    Parameters
    ----------
    headless:
        A line a second instead of the live table.
    summary:
        Write the summary as JSON to this file.
    log:
        Write a line of JSON for each frame to this file.
    save:
        Write the annotated video to this .mp4 file.
    show:
        Open a window with the annotated video (extra `show`).
    duration:
        End after so many seconds.
    frames:
        End after so many captured frames.
    """

    headless: bool = False
    summary: Path | None = None
    log: Path | None = None
    save: Path | None = None
    show: bool = False
    duration: float | None = None
    frames: int | None = None
