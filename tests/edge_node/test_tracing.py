"""Traces as a collector receives them: OTLP over HTTP, one frame in so many, stages without gaps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from edge_node.records import FrameRecord, LabelScore
from edge_node.tracing import FrameTracer
from pipeline.errors import ConfigError
from pipeline.stages import CAPTURE_TO_RESULT

service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")

WALL_NS = 1_700_000_000_000_000_000


class Collector:
    """Takes POST /v1/traces and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                request = service.ExportTraceServiceRequest.FromString(body)
                for one in request.resource_spans:
                    collector.resources.append(one.resource)
                    collector.spans += [span for scope in one.scope_spans for span in scope.spans]
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                """Quiet."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def answered(frame: int) -> FrameRecord:
    stages = {stage: 1.0 + place for place, stage in enumerate(CAPTURE_TO_RESULT)}
    return FrameRecord(
        frame=frame, state="answered", captured_at=10.0, stages_ms=stages, capture_to_result_ms=sum(stages.values()),
        payload_bytes=4000, clock_error_ms=0.5, tasks={"food101": [LabelScore("pizza", 0.9)]},
    )  # fmt: skip


def trace(url: str, records: list[FrameRecord], *, every: int) -> None:
    with FrameTracer(url, every=every, clock=lambda: 10.1, wall_clock_ns=lambda: WALL_NS) as tracer:
        for record in records:
            tracer.write(record)


def test_one_frame_in_so_many_with_all_its_stages(collector: Collector) -> None:
    """Spans of a frame follow each other without gaps from capture to result, on the wall's clock."""
    trace(collector.url, [answered(number) for number in range(25)], every=10)
    roots = [span for span in collector.spans if span.name == "frame"]
    assert len(roots) == 3
    root = roots[0]
    stages = [span for span in collector.spans if span.trace_id == root.trace_id and span.name != "frame"]
    stages.sort(key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in stages] == list(CAPTURE_TO_RESULT)
    assert {span.parent_span_id for span in stages} == {root.span_id}
    assert root.start_time_unix_nano == stages[0].start_time_unix_nano
    assert root.start_time_unix_nano == pytest.approx(WALL_NS - 100_000_000, abs=1_000)
    assert [span.end_time_unix_nano for span in stages[:-1]] == [span.start_time_unix_nano for span in stages[1:]]
    assert root.end_time_unix_nano == stages[-1].end_time_unix_nano
    facts = {one.key: one.value for one in root.attributes}
    assert facts["frankenstream.task.food101"].string_value == "pizza"
    assert facts["frankenstream.clock_error_ms"].double_value == 0.5
    assert any(one.value.string_value == "frankenstream-edge" for one in collector.resources[0].attributes)


def test_a_drop_is_an_error_with_its_cause(collector: Collector) -> None:
    dropped = FrameRecord(frame=0, state="shed", captured_at=10.0, detail="the server is too busy to answer in time")
    trace(collector.url, [dropped], every=1)
    (span,) = collector.spans
    assert span.status.message == "shed: the server is too busy to answer in time"


def test_a_repeated_answer_is_no_error(collector: Collector) -> None:
    """A still picture is not a failing camera."""
    trace(collector.url, [FrameRecord(frame=0, state="unchanged", captured_at=10.0, reference=7)], every=1)
    (span,) = collector.spans
    assert span.status.code == 0  # unset


def test_a_collector_that_is_away_costs_nothing_but_the_traces() -> None:
    """No exception, and the end comes within the time limit."""
    trace("http://127.0.0.1:9", [answered(0)], every=1)


@pytest.mark.parametrize(
    ("endpoint", "every", "words"), [("localhost:4318", 1, "URL"), ("http://127.0.0.1:9", 0, "1 or more")]
)
def test_wrong_settings_are_one_line(endpoint: str, every: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FrameTracer(endpoint, every=every)


def test_what_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def missing(name: str, package: str | None = None) -> Any:
        raise ModuleNotFoundError("No module named 'opentelemetry'", name="opentelemetry")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"frankenstream\[trace\]"):
        FrameTracer("http://127.0.0.1:9")
