"""POST /api/v1/captures: the features of a live session's next frames, as a safetensors file.

pooled    float32 (M, D), M at most the frames that were asked for
metadata  session, client, backbone, codec_id, synthesis_sha256, task, label: what they are features of
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as NotYet
from typing import Protocol

import structlog

from analytics_server.captures import Captures
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.errors import ConfigError, InputError
from pipeline.transports.base import SessionHandle
from pipeline.wire.states import OPEN
from tasks.head_file import synthesis_sha256

log = structlog.get_logger(__name__)


class Lane(Protocol):
    @property
    def backbone(self) -> str: ...


def capture_frames(
    bundle: Bundle,
    captures: Captures,
    lanes: Mapping[str, Lane],
    handles: Sequence[SessionHandle],
    default_backbone: str,
    *,
    frames: int,
    session: str = "",
    backbone: str = "",
    every_s: float = 0.0,
    wait_s: float = 30.0,
    task: str = "",
    label: str = "",
) -> bytes:
    """Wait for the frames and pack their features; fewer than asked for if `wait_s` is over. Raises FrankenError.

    `session`: id or client of the edge, or the beginning of it; empty: the only one. `every_s`: time between frames.
    """
    from safetensors.numpy import save

    tag = bundle.backbone(backbone).tag if backbone else default_backbone
    if tag not in lanes:
        raise ConfigError(f"backbone {backbone!r} is not served here: choose one of {', '.join(lanes)}")
    if not 0 <= every_s <= limits.CAPTURE_S_MAX or not 0 < wait_s <= limits.CAPTURE_S_MAX:
        raise ConfigError(f"every_s is {every_s}, wait_s {wait_s}: expected at most {limits.CAPTURE_S_MAX}")
    handle = find_session(handles, session, backbone=tag)
    capture = captures.start(handle.id, tag, frames, every_s)
    try:
        with contextlib.suppress(NotYet):
            capture.done.result(wait_s)
        pooled = capture.so_far()
    finally:
        captures.end(capture)
    if not len(pooled):
        raise InputError(
            f"no frame of session {handle.id[:8]} was computed on {tag} within {wait_s:g} s: is its camera running, "
            f"and does it ask for a task of {tag}?"
        )
    log.info("captured", session=handle.id, task=task, label=label, frames=len(pooled), backbone=tag)
    metadata = {
        "session": handle.id, "client": handle.session.client, "backbone": tag, "codec_id": bundle.codec_id,
        "synthesis_sha256": synthesis_sha256(bundle, bundle.backbone(tag)), "task": task, "label": label,
    }  # fmt: skip
    return bytes(save({"pooled": pooled}, metadata=metadata))


def find_session(handles: Sequence[SessionHandle], wanted: str, *, backbone: str = "") -> SessionHandle:
    """The open session that `wanted` names, or the only one. Raises ConfigError that lists those there are.

    `backbone`: only sessions that have a task on it.
    """
    live = [handle for handle in handles if handle.session.state == OPEN]
    fits = [handle for handle in live if not backbone or any(t.backbone == backbone for t in handle.session.tasks)]
    chosen = [one for one in fits if wanted and (one.id.startswith(wanted) or one.session.client.startswith(wanted))]
    chosen = chosen if wanted else fits
    if len(chosen) == 1:
        return chosen[0]
    there = ", ".join(f"{handle.id[:8]} ({handle.session.client or 'unnamed'})" for handle in fits[:8])
    if not fits:
        what = f"asks for a task of {backbone}" if live and backbone else "streams here now"
        raise ConfigError(f"no edge {what}: start one with `frankenstream edge`")
    if not chosen:
        raise ConfigError(f"no session {wanted!r} streams here: there are {there}")
    what = f"edges fit {wanted!r}" if wanted else "edges stream here"
    raise ConfigError(f"{len(chosen)} {what}: name one session (--session) of {there}")
