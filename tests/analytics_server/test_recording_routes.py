"""Recordings over HTTP: listed, looked through, and nothing else of the disk is ever shown."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analytics_server.server import Server
from pipeline.bundle import Bundle
from pipeline.runtime.engine import NullEngine
from tests.recordings.made import record
from tests.streaming import StreamingEdge


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings, and what is none or lies elsewhere."""
    tmp_path = tmp_path_factory.mktemp("records")
    place = tmp_path / "recordings"
    place.mkdir()
    record(place / "a.mcap", [bytes(40)] * 20, dropped=[3])
    record(place / "b ü.mcap", [bytes(40)] * 4)
    os.utime(place / "a.mcap", (1, 1))
    (place / "notes.txt").write_text("secret")
    (place / "text.mcap").write_text("secret")
    os.utime(place / "text.mcap", (0, 0))
    (tmp_path / "outside.mcap").write_bytes((place / "a.mcap").read_bytes())
    (place / "link.mcap").symlink_to(tmp_path / "outside.mcap")
    (place / "sub").mkdir()
    (place / "sub" / "c.mcap").write_bytes((place / "a.mcap").read_bytes())
    return place


@pytest.fixture(scope="module")
def server(null_bundle: Bundle, folder: Path) -> Iterator[Server]:
    with serve(null_bundle, record_dir=folder) as server:
        yield server


def serve(bundle: Bundle, **settings: Any) -> Server:
    engines = [NullEngine("null"), NullEngine("null2")]
    return Server(bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=engines, **settings)


def ask(server: Server, path: str, token: str = "") -> tuple[int, Any]:
    """(status, JSON or bytes); the path goes out as it stands here."""
    connection = http.client.HTTPConnection(server.http_url.partition("://")[2], timeout=20)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content) if "json" in answer.getheader("Content-Type", "") else content


def test_they_are_listed_newest_first_and_in_pages(server: Server) -> None:
    status, whole = ask(server, "/api/v1/recordings")
    assert status == 200
    assert [row["name"] for row in whole["recordings"]] == ["b ü.mcap", "a.mcap", "text.mcap"]
    first = ask(server, "/api/v1/recordings?limit=1")[1]
    assert (first["recordings"][0]["name"], first["more"]) == ("b ü.mcap", True)
    rest = ask(server, "/api/v1/recordings?limit=5&before=b%20%C3%BC.mcap")[1]
    assert ([row["name"] for row in rest["recordings"]], rest["more"]) == (["a.mcap", "text.mcap"], False)


def test_one_is_looked_through(server: Server) -> None:
    about = ask(server, "/api/v1/recordings/a.mcap")[1]
    assert (about["indexed"], about["session"]["session"], round(about["duration_s"], 2)) == (True, "s1", 1.95)
    course = ask(server, "/api/v1/recordings/a.mcap/course?points=10")[1]
    assert len(course["answers_per_s"]) == 10
    page = ask(server, "/api/v1/recordings/a.mcap/frames?from=0&to=5&limit=8")[1]
    assert [frame["frame"] for frame in page["frames"]] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert page["frames"][3]["state"] == "lost"
    assert page["frames"][0]["tasks"][0]["labels"][0]["name"] == "zebra"
    after = ask(server, f"/api/v1/recordings/a.mcap/frames?from={page['next_s']!r}&to=5&limit=100")[1]
    assert [frame["frame"] for frame in after["frames"]] == list(range(8, 20))
    assert ask(server, "/api/v1/recordings/a.mcap/picture?at=1") == (404, {"error": "no picture was recorded then"})


@pytest.mark.parametrize(
    "name",
    [
        "..%2foutside.mcap", "%2e%2e/outside.mcap", "../outside.mcap", "sub%2fc.mcap", "sub/c.mcap", "link.mcap",
        "notes.txt", ".mcap", "none.mcap", "text.mcap", "a.mcap%00", "%2fetc%2fpasswd", "a" * 3000 + ".mcap",
    ],
)  # fmt: skip
def test_nothing_else_is_shown(server: Server, name: str) -> None:
    """One line, whatever the name; and not the text of a file."""
    status, body = ask(server, f"/api/v1/recordings/{name}/frames")
    assert status in (404, 422)
    assert set(body) == {"error"}
    assert "secret" not in body["error"]
    assert "\n" not in body["error"]


@pytest.mark.parametrize("query", ["from=x", "from=-5&to=1", "limit=0", "limit=1e6", "from=nan", "from=5&to=1"])
def test_wishes_that_make_no_sense(server: Server, query: str) -> None:
    status, body = ask(server, f"/api/v1/recordings/a.mcap/frames?{query}")
    assert status in (400, 422)
    assert "\n" not in body["error"]


def test_a_session_is_seen_while_it_is_recorded(server: Server, null_bundle: Bundle) -> None:
    """With what it was answered, once it is on the disk."""
    with StreamingEdge(server.urls[0], null_bundle, client="porch") as edge:
        edge.stream(3)
        names = [row["name"] for row in ask(server, "/api/v1/recordings")[1]["recordings"]]
        (name,) = set(names) - {"a.mcap", "b ü.mcap", "text.mcap"}
    server._recordings.close()  # type: ignore[union-attr]
    about = ask(server, f"/api/v1/recordings/{name}")[1]
    assert (about["facts"]["source"], about["facts"]["role"]) == ("porch", "server")
    assert len(ask(server, f"/api/v1/recordings/{name}/frames")[1]["frames"]) == 3


def test_a_server_that_records_nothing_says_so(null_bundle: Bundle) -> None:
    with serve(null_bundle) as server:
        assert ask(server, "/api/v1/recordings")[1] == {"recording": False, "recordings": [], "more": False}
        status, body = ask(server, "/api/v1/recordings/a.mcap")
        assert (status, "--record DIR" in body["error"]) == (404, True)


def test_the_administrators_token_guards_them(null_bundle: Bundle, folder: Path) -> None:
    with serve(null_bundle, record_dir=folder, admin_token="right") as server:
        for path in ("", "/a.mcap", "/a.mcap/frames", "/a.mcap/picture", "/a.mcap/course"):
            assert ask(server, f"/api/v1/recordings{path}")[0] == 401
            assert ask(server, f"/api/v1/recordings{path}", "wrong")[0] == 401
        assert ask(server, "/api/v1/recordings/a.mcap", "right")[0] == 200
