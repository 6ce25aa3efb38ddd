"""/api/v1/sessions and /api/v1/events over real HTTP, with an edge that streams."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest

from analytics_server.event_log import EVENTS_KEPT, EventLog
from analytics_server.heads import without_head
from analytics_server.server import Server
from analytics_server.watch_routes import STREAMS_MAX
from pipeline.bundle import Bundle
from pipeline.runtime.engine import NullEngine
from pipeline.stages import SERVER_STAGES
from tests.streaming import StreamingEdge


@pytest.fixture
def server(null_bundle: Bundle) -> Iterator[Server]:
    engines = [NullEngine("null"), NullEngine("null2")]
    with Server(null_bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=engines) as server:
        yield server


def opened(server: Server, path: str) -> HTTPResponse:
    response: HTTPResponse = urllib.request.urlopen(server.http_url + path, timeout=20)
    return response


def next_event(response: HTTPResponse) -> tuple[str, dict[str, Any]]:
    """(event, data) of the next server-sent event."""
    fields: dict[str, str] = {}
    while line := response.readline().decode().rstrip("\n"):
        name, _, value = line.partition(": ")
        fields[name] = value
    return fields["event"], json.loads(fields["data"])


def test_sessions_have_counts_rates_and_clock(server: Server, null_bundle: Bundle) -> None:
    with StreamingEdge(server.urls[0], null_bundle, client="porch", tasks=("food101",)) as edge:
        edge.stream(5)
        rows = json.load(opened(server, "/api/v1/sessions"))["sessions"]
    assert [(row["client"], row["answered"], row["tasks"], row["state"]) for row in rows] == [
        ("porch", 5, ["food101"], "open")
    ]
    assert rows[0]["answer_ms"]["p95"] >= rows[0]["answer_ms"]["p50"] > 0
    assert set(rows[0]) >= {"fps", "payload_kbps", "one_way_ms", "clock_error_ms", "credit_window"}


def test_figures_tell_the_whole_server(server: Server, null_bundle: Bundle) -> None:
    """Sessions, stages, engines, tasks with their cost, process: what `top` draws."""
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        edge.stream(5)
        event, figures = next_event(opened(server, "/api/v1/events?every=1"))
    assert event == "figures"
    assert figures["state"] == "ready"
    assert list(figures["frames"]["stages_ms"]) == list(SERVER_STAGES)
    assert figures["sessions_open"] == 1
    assert [engine["backbone"] for engine in figures["engines"]] == ["null", "null2"]
    asked = {task["name"]: task["sessions"] for task in figures["tasks"] if task["backbone"] == "null"}
    assert asked == {"imagenet1k": 1, "food101": 1, "cifar100": 1, "flowers102": 1}
    assert figures["process"]["rss_mb"] > 10
    assert figures["drift"] == []


def test_what_happens_is_told_as_it_happens(server: Server, null_bundle: Bundle) -> None:
    """A session opens and closes; `after=0` tells what happened before as well."""
    listening = opened(server, "/api/v1/events?every=0&after=0")
    assert next_event(listening)[1]["what"] == "ready"
    with StreamingEdge(server.urls[0], null_bundle, client="porch") as edge:
        edge.wait_connected()
        event, data = next_event(listening)
        assert (event, data["what"], data["client"]) == ("session", "opened", "porch")
    assert [next_event(listening)[1]["what"]] == ["closed"]
    server.replace_heads("null", without_head(server.lanes["null"].heads, "food101"))
    event, data = next_event(listening)
    assert (event, data["what"], data["task"]) == ("task", "removed", "food101")


@pytest.mark.parametrize(
    ("query", "words"), [("every=fast", "number"), ("every=0.01", "0.2 to 60"), ("after=x", "number")]
)
def test_wishes_that_cannot_be_met(server: Server, query: str, words: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        opened(server, f"/api/v1/events?{query}")
    assert refused.value.code == 400
    assert words in refused.value.read().decode()


def test_listeners_are_limited_and_do_not_hold_up_the_end(null_bundle: Bundle) -> None:
    """One more than STREAMS_MAX is refused; a server that stops ends all streams at once."""
    engines = [NullEngine("null"), NullEngine("null2")]
    with Server(null_bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=engines) as s:
        streams = [opened(s, "/api/v1/events") for _ in range(STREAMS_MAX)]
        for stream in streams:
            next_event(stream)
        with pytest.raises(urllib.error.HTTPError) as refused:
            opened(s, "/api/v1/events")
        assert refused.value.code == 503
    for stream in streams:
        stream.read()  # ends


def test_the_log_keeps_the_last_events() -> None:
    """A reader that was away sees by the numbers that it missed some."""
    log = EventLog(lambda: 5.0)
    for _ in range(EVENTS_KEPT + 10):
        log.post("session", "opened")
    events = log.after(0)
    assert (len(events), events[0].number, log.last) == (EVENTS_KEPT, 11, EVENTS_KEPT + 10)
    assert log.after(log.last) == []
