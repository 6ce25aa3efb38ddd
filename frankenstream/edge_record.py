"""`--record` on the edge: opens the recording, lets it hear what the edge sends and is told, closes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from edge_node import RunFacts
from frankenstream.config import OutputSettings
from pipeline.bundle import EdgeBundle, EdgeCache
from pipeline.clock import monotonic
from pipeline.errors import ConfigError
from pipeline.transports import EdgeTransport, connect
from pipeline.wire import EdgeSession
from pipeline.wire.events import EdgeEvent
from recordings.edge_recording import EdgeRecording
from recordings.recorder import Recorder, program_facts
from recordings.topics import Facts

THUMBNAILS_MAX = 60.0
"""Thumbnails a second at most."""

Say = Callable[[str], None]


@contextlib.contextmanager
def recorded(
    output: OutputSettings,
    bundle: EdgeBundle | None,
    facts: RunFacts,
    *,
    say: Say,
    codec_id: str = "",
    on_gap: Callable[[], None] = lambda: None,
) -> Iterator[EdgeRecording | None]:
    """Record while the block runs, if `output` wants it; `say` hears what goes wrong and, at the end, what there is.

    `bundle` is kept under the home folder, so that the recording decodes when edges have another one; without it
    `codec_id` says what the frames are coded with.

    Raises ConfigError if the file exists or cannot be made.
    """
    check_record(output)
    if output.record is None:
        yield None
        return
    recorder = Recorder(notify=say)
    try:
        track = recorder.record(output.record, edge_facts(codec_id if bundle is None else bundle.codec_id, facts))
        if bundle is not None:
            _keep(bundle)
        yield EdgeRecording(recorder, track, thumbnails_per_s=output.record_thumbnails, on_gap=on_gap)
    finally:
        recorder.close()
    say(track.report())


def check_record(output: OutputSettings) -> None:
    """What can be said beforehand, so that no server is started in vain. Raises ConfigError."""
    if output.record is None and output.record_thumbnails:
        raise ConfigError("--record-thumbnails needs a recording: add --record FILE.mcap")
    if not 0.0 <= output.record_thumbnails <= THUMBNAILS_MAX:
        raise ConfigError(f"--record-thumbnails is {output.record_thumbnails:g}, expected 0 to {THUMBNAILS_MAX:g}")
    if output.record is not None and output.record.exists():
        raise ConfigError(f"recording {str(output.record)!r} exists already: choose another name, or remove it first")


def _keep(bundle: EdgeBundle) -> None:
    cache = EdgeCache()
    with contextlib.suppress(OSError):  # a home that cannot be written costs the copy, not the recording
        if cache.get(bundle.codec_id) is None:
            cache.put(bundle)


def edge_facts(codec_id: str, facts: RunFacts) -> Facts:
    """What a run of the edge is about, for its recording."""
    return Facts(
        role="edge", source=facts.source, codec_id=codec_id, bundle_id=facts.bundle_id,
        operating_point=facts.operating_point, encoder=facts.encoder, coder=facts.coder, **program_facts(),
    )  # fmt: skip


def connect_recorded(
    recording: EdgeRecording | None,
    url: str,
    session: EdgeSession,
    on_event: Callable[[EdgeEvent], None],
    **options: Any,
) -> EdgeTransport:
    """pipeline.transports.connect, heard by `recording`."""
    if recording is None:
        return connect(url, session, on_event, **options)

    def heard(event: EdgeEvent) -> None:
        recording.event(session, event, monotonic())
        on_event(event)

    return connect(url, session, heard, on_traffic=recording.traffic, **options)
