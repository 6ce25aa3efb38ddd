"""Settings of the roles: frozen structs. A flag wins over `FRANKENSTREAM_<COMMAND>_<SETTING>`, which wins over a TOML
file (`--config FILE`, else `frankenstream.toml` in this folder or one above it; one table a command).

The command line reads flags, environment and file with cyclopts; the docstrings below are its `--help`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pipeline import limits
from pipeline.errors import ConfigError
from pipeline.transports.access import ClientAccess, IceServer

DEFAULT_URL = "tcp://127.0.0.1:5555"
DEFAULT_HTTP = "127.0.0.1:8080"

AdminToken = Annotated[str, Parameter(env_var="FRANKENSTREAM_ADMIN_TOKEN")]
"""`--token` of commands that talk to a server's admin interface."""


def names(text: str) -> tuple[str, ...]:
    """What a comma-separated setting lists; empty for an empty one."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def picture_size(text: str) -> tuple[int, int] | None:
    """(width, height) of 1280x720; None for nothing. Raises ConfigError."""
    if not text:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text.lower())
    if found is None:
        raise ConfigError(f"size is {text!r}, expected WIDTHxHEIGHT, for example 1280x720")
    return int(found[1]), int(found[2])


def given(settings: object, *fields: str) -> list[str]:
    """The flags of those fields that are not what they are by default."""
    default = type(settings)()
    return [f"--{field.replace('_', '-')}" for field in fields if getattr(settings, field) != getattr(default, field)]


@Parameter(name="*")
@dataclass(frozen=True)
class EncoderSettings:
    """How the edge turns frames into bytes.

    Parameters
    ----------
    bundle:
        Bundle folder or .zip; the default one if not given.
    quality:
        Operating point: how many bytes a frame may cost, e.g. low, standard, high. If not given, rate control chooses
        the best one that a live stream's link carries; elsewhere it is the bundle's default.
    layers:
        Layers of a frame that are sent, from the most important one; all if not given.
    sticky:
        How far the scene may move before it is sent anew, in steps of the quantiser (0.5 to 4), or off: more means
        fewer bytes and less accuracy; as the bundle says if not given.
    precision:
        auto measures fp32 and int8 at the start and takes the faster one that the bundle allows.
    provider:
        auto, cpu, cuda or tensorrt.
    threads:
        Threads of the encoder.
    """

    bundle: Path | None = None
    quality: str = ""
    layers: int | None = None
    sticky: float | Literal["off"] | None = None
    precision: str = "auto"
    provider: str = "auto"
    threads: int = 1

    @property
    def sticky_threshold(self) -> float | None:
        """In symbols; None: as the bundle says. Raises ConfigError if it is out of range."""
        reach = 0.0 if self.sticky == "off" else self.sticky
        if reach is not None and not 0.0 <= reach <= limits.STICKY_THRESHOLD_MAX:
            raise ConfigError(f"sticky is {reach:g}, expected 0 to {limits.STICKY_THRESHOLD_MAX:g}, or off")
        return reach


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
        Frames per second at most, and what a camera is asked for; the source's own rate if not given (cameras: 30).
    repeat_ms:
        Repeat the last answer, if it is not older than this, for a frame in which nothing worth sending has changed; 0:
        send every frame.
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
    repeat_ms: int = limits.REPEAT_MS_DEFAULT
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
        URLs to take frames on, comma separated: tcp://HOST:PORT, ipc://PATH; beyond loopback keys are required. On
        loopback also ws://HOST:PORT and webrtc+http://HOST:PORT, which the HTTP port is beside the rest in any case.
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
        Bearer token of the admin interface; beyond loopback one is made for the run if none is given.
    record:
        Record every session to a .mcap file of its own in this folder.
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
    admin_token: Annotated[str, Parameter(env_var=["FRANKENSTREAM_SERVE_ADMIN_TOKEN", "FRANKENSTREAM_ADMIN_TOKEN"])] = (
        ""
    )
    record: Path | None = None


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
    trace:
        Send traces to the OpenTelemetry collector at this OTLP/HTTP URL, e.g. http://127.0.0.1:4318 (extra `trace`).
    trace_every:
        Trace one frame in so many.
    save:
        Write the annotated video to this .mp4 file.
    show:
        Open a window with the annotated video (extra `show`).
    duration:
        End after so many seconds.
    frames:
        End after so many captured frames.
    record:
        Record what is sent and answered to this new .mcap file (`frankenstream recordings`, Foxglove).
    record_thumbnails:
        Small pictures in the recording, a second at most; 0: none.
    """

    headless: bool = False
    summary: Path | None = None
    log: Path | None = None
    save: Path | None = None
    show: bool = False
    duration: float | None = None
    frames: int | None = None
    record: Path | None = None
    record_thumbnails: float = 0.0
    trace: str = ""
    trace_every: int = 100


@Parameter(name="*")
@dataclass(frozen=True)
class AccessSettings:
    """How the edge shows who it is over ws:// and webrtc+http://, and whom it trusts.

    Parameters
    ----------
    token:
        Token of a server on ws(s):// or webrtc+http(s)://.
    ca:
        Certificate of a local authority (the server's ca.pem); the system's authorities if not given.
    ice:
        STUN and TURN servers, comma separated: stun:HOST:PORT, turn:USER:PASSWORD@HOST:PORT.
    fallback:
        Go over to WebSocket where WebRTC finds no way.
    """

    token: str = ""
    ca: Path | None = None
    ice: str = ""
    fallback: bool = True

    def client(self) -> ClientAccess:
        """For `connect`. Raises ConfigError."""
        return ClientAccess(self.token, self.ca, ice_servers(self.ice), self.fallback)


@Parameter(name="*")
@dataclass(frozen=True)
class DoorSettings:
    """How edges and phones get in on the HTTP port.

    Parameters
    ----------
    stream_token:
        Token that edges show on ws:// and webrtc+http://; beyond loopback only paired devices get in without one.
    pair:
        Print a link and its QR code that pair one device (a phone), once.
    tls:
        HTTPS: the server's certificate (PEM, with its chain), or `local` for one of a local authority made here.
    tls_key:
        Private key of the certificate; in the same file if not given.
    origins:
        Foreign web pages that may stream, comma separated, e.g. https://cameras.example.
    ice:
        STUN and TURN servers that WebRTC may use, comma separated: stun:HOST:PORT, turn:USER:PASSWORD@HOST:PORT.
    """

    stream_token: str = ""
    pair: bool = False
    tls: str = ""
    tls_key: Path | None = None
    origins: str = ""
    ice: str = ""


def ice_servers(text: str) -> tuple[IceServer, ...]:
    """What a comma-separated setting lists. Raises ConfigError."""
    return tuple(IceServer.parse(name) for name in names(text))
