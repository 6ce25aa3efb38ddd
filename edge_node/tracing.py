"""One frame in so many as an OpenTelemetry trace, sent by OTLP: what `frankenstream edge --trace URL` does.

A trace is a span `frame` from capture to result, with one span a stage below it; the server's stages are placed by the
clock offset and say so (`frankenstream.clock_error_ms`). OpenTelemetry is loaded by name, and only when it is asked
for: the extra `trace` brings it. Its own thread sends; spans that do not fit its bounded queue are left out.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from typing import Any, Self

from edge_node.records import ANSWERED, UNCHANGED, FrameRecord, LinkState, with_link
from pipeline.clock import Clock, monotonic
from pipeline.errors import ConfigError
from pipeline.stages import CAPTURE_TO_RESULT, SERVER_STAGES

EVERY = 100
"""One frame in so many, if nothing else is said."""
QUEUE_SPANS_MAX = 2_048
EXPORT_TIMEOUT_MS = 2_000

_NETWORK = ("uplink", "downlink")


class FrameTracer:
    """Takes records of ended frames and traces one in `every`. Use as a context manager.

    `endpoint` is the collector's OTLP/HTTP address, http://HOST:4318 (its path /v1/traces is added) or a whole URL.
    Raises ConfigError if OpenTelemetry is not installed or `every` is below 1.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        every: int = EVERY,
        attributes: dict[str, str] | None = None,
        clock: Clock = monotonic,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        if every < 1:
            raise ConfigError(f"trace_every is {every}, expected 1 or more")
        if "://" not in endpoint:
            raise ConfigError(f"trace is {endpoint!r}, expected the URL of a collector, e.g. http://127.0.0.1:4318")
        try:
            exporter = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
            sdk = importlib.import_module("opentelemetry.sdk.trace")
            export = importlib.import_module("opentelemetry.sdk.trace.export")
            resources = importlib.import_module("opentelemetry.sdk.resources")
            self._trace: Any = importlib.import_module("opentelemetry.trace")
        except ModuleNotFoundError as error:
            raise ConfigError(f"tracing needs {error.name}: pip install 'frankenstream[trace]'") from None
        # A collector that is away is no reason to fill the user's screen: it is told once, at the end.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        url = endpoint if "/v1/" in endpoint else endpoint.rstrip("/") + "/v1/traces"
        resource = resources.Resource.create({"service.name": "frankenstream-edge", **(attributes or {})})
        self._provider = sdk.TracerProvider(resource=resource)
        self._provider.add_span_processor(
            export.BatchSpanProcessor(
                exporter.OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_MS / 1e3),
                max_queue_size=QUEUE_SPANS_MAX,
                export_timeout_millis=EXPORT_TIMEOUT_MS,
            )
        )
        self._tracer: Any = self._provider.get_tracer("frankenstream")
        self._every = every
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Send what waits, at most EXPORT_TIMEOUT_MS."""
        self._provider.force_flush(EXPORT_TIMEOUT_MS)
        self._provider.shutdown()

    def write(self, record: FrameRecord, link: LinkState | None = None) -> None:
        """A frame has ended."""
        if record.frame % self._every:
            return
        record = with_link(record, link)
        # From our monotonic clock to the wall's: spans carry Unix time.
        began = self._wall_clock_ns() - round((self._clock() - record.captured_at) * 1e9)
        ends = began + round(record.capture_to_result_ms * 1e6) if record.answered else self._wall_clock_ns()
        root = self._tracer.start_span("frame", start_time=began, attributes=_attributes(record))
        parent = self._trace.set_span_in_context(root)
        at = began
        for stage in CAPTURE_TO_RESULT if record.answered else ():
            until = at + round(record.stages_ms.get(stage, 0.0) * 1e6)
            self._tracer.start_span(stage, context=parent, start_time=at, attributes=_place(stage)).end(until)
            at = until
        if record.state not in (ANSWERED, UNCHANGED):
            root.set_status(self._trace.Status(self._trace.StatusCode.ERROR, f"{record.state}: {record.detail}"))
        root.end(ends)


def _attributes(record: FrameRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "frame": record.frame, "state": record.state, "payload_bytes": record.payload_bytes,
        "wire_bytes": record.wire_bytes, "bits_per_pixel": record.bits_per_pixel, "layers": record.layers,
        "decoded_layers": record.decoded_layers, "batch": record.batch, "credits": record.credits,
        "clock_offset_ms": record.clock_offset_ms, "clock_error_ms": record.clock_error_ms,
        "operating_point": record.operating_point,
    }  # fmt: skip
    for task, labels in record.tasks.items():
        facts[f"task.{task}"] = labels[0].label if labels else ""
    return {f"frankenstream.{name}": value for name, value in facts.items() if value is not None}


def _place(stage: str) -> dict[str, str]:
    where = "network" if stage in _NETWORK else "server" if stage in SERVER_STAGES else "edge"
    return {"frankenstream.where": where}
