"""The HTTP port as edges and phones see it: streams, tokens, pairing, the page; and what is refused."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analytics_server.front import FrontSettings
from analytics_server.server import Server
from pipeline.bundle import Bundle
from pipeline.runtime.engine import NullEngine
from pipeline.transports.access import ClientAccess
from pipeline.wire.events import Answered
from tests.streaming import StreamingEdge

TOKEN = "a-token.of_this~test"


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """Built assets, and something beside them that is none."""
    folder = tmp_path / "web"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html>page")
    (folder / "assets" / "app-1.js").write_text("1")
    (folder / "assets" / "model.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.txt").write_text("secret")
    os.symlink(tmp_path / "secret.txt", folder / "link.txt")
    return folder


@pytest.fixture
def server(null_bundle: Bundle, web: Path) -> Iterator[Server]:
    front = FrontSettings(token=TOKEN, web_folder=web)
    engines = [NullEngine("null"), NullEngine("null2")]
    with Server(
        null_bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=engines, admin_token="admin", front=front
    ) as server:
        yield server


def request(
    server: Server, path: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, Any]:
    """(status, body, headers); the path goes out as it stands here."""
    connection = http.client.HTTPConnection(server.http_url.partition("://")[2], timeout=20)
    data = None if body is None else json.dumps(body).encode()
    connection.request(method, path, data, headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, answer.headers


def web_socket_url(server: Server) -> str:
    return server.http_url.replace("http", "ws")


def test_frames_over_the_http_port(server: Server, null_bundle: Bundle) -> None:
    """The admin's port takes frames too, with the streams' token; so does the server's own list of addresses."""
    assert web_socket_url(server) in server.urls
    with StreamingEdge(web_socket_url(server), null_bundle, access=ClientAccess(TOKEN)) as edge:
        edge.wait_connected()
        assert isinstance(edge.wait_ended(edge.send()), Answered)
        assert [row["transport"] for row in server.admin.session_table()] == ["ws"]


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x"])
def test_wrong_token_is_told_in_one_line(server: Server, null_bundle: Bundle, token: str) -> None:
    """Goodbye says so; the edge does not try again."""
    with StreamingEdge(web_socket_url(server), null_bundle, access=ClientAccess(token)) as edge:
        closed = edge.wait_closed()
        assert (closed.reason, "missing or wrong token" in closed.detail) == ("unauthorised", True)


def test_administrator_may_stream(server: Server, null_bundle: Bundle) -> None:
    """The admin's token opens streams; the streams' token does not open the admin interface."""
    with StreamingEdge(web_socket_url(server), null_bundle, access=ClientAccess("admin")) as edge:
        edge.wait_connected()
    assert request(server, "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 401
    assert request(server, "/api/v1/pairings", method="POST")[0] == 401


def test_pairing_gives_a_token_once(server: Server, null_bundle: Bundle) -> None:
    """A link of the administrator pairs one device; its token streams."""
    status, body, _ = request(server, "/api/v1/pairings", method="POST", headers={"Authorization": "Bearer admin"})
    invitation = json.loads(body)
    assert (status, invitation["link"]) == (201, f"{server.http_url}/#pair={invitation['code']}")
    status, body, _ = request(server, "/api/v1/pair", method="POST", body={"code": invitation["code"]})
    assert status == 200
    with StreamingEdge(web_socket_url(server), null_bundle, access=ClientAccess(json.loads(body)["token"])) as edge:
        edge.wait_connected()
    status, body, _ = request(server, "/api/v1/pair", method="POST", body={"code": invitation["code"]})
    assert (status, b"was used or is too old" in body) == (403, True)


def test_pages_of_named_sites_may_stream(null_bundle: Bundle) -> None:
    """Over WebRTC as over WebSocket: they are let in and may read the answer; all others, and all else, are refused."""
    pytest.importorskip("aiortc")
    front = FrontSettings(origins=("https://cameras.example",))
    with Server(null_bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=[NullEngine("null")], front=front) as server:
        offer = "/api/v1/webrtc/offer"
        for origin, allowed, statuses in (
            ("https://cameras.example", "https://cameras.example", (204, 200, 400, 403)),
            ("https://evil.example", None, (403, 403, 403, 403)),
        ):
            page = {"Origin": origin}
            answers = [
                request(server, offer, method="OPTIONS", headers={**page, "Access-Control-Request-Method": "POST"}),
                request(server, "/api/v1/webrtc", headers=page),
                request(server, offer, method="POST", body={}, headers=page),
                request(server, "/api/v1/drain", method="POST", headers=page),
            ]
            assert tuple(status for status, _, _ in answers) == statuses
            told = [headers.get("Access-Control-Allow-Origin") for _, _, headers in answers]
            assert told == [allowed, allowed, allowed, None]


@pytest.mark.parametrize("body", [None, [], "x", {}, {"code": 7}, {"code": ["x"]}])
def test_pairing_takes_no_rubbish(server: Server, body: Any) -> None:
    """A clear refusal each time."""
    status, content, _ = request(server, "/api/v1/pair", method="POST", body=body)
    assert status in (400, 403)
    assert json.loads(content)["error"]


def test_page_and_its_files(server: Server) -> None:
    """Without any token; isolated, so that threads work; the runtime with its proper type."""
    status, body, headers = request(server, "/")
    assert (status, body, headers["Content-Type"]) == (200, b"<!doctype html>page", "text/html")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-cache"
    status, _, headers = request(server, "/assets/model.wasm")
    assert (status, headers["Content-Type"]) == (200, "application/wasm")
    assert "immutable" in headers["Cache-Control"]


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/assets/../../secret.txt",
        "/..%2fsecret.txt",
        "/link.txt",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/assets",
        "/x\0y".replace("\0", "%00"),
        "/" + "a" * 5000,
        "/.%5c..%5cx",
        "/api/v1/nothing",
    ],
)
def test_nothing_beside_the_page_is_served(server: Server, path: str) -> None:
    """Whatever the path says."""
    status, body, _ = request(server, path, headers={"Authorization": "Bearer admin"})
    assert status in (400, 404)
    assert b"secret" not in body.replace(path.encode(), b"")


def test_no_page_is_said_kindly(null_bundle: Bundle, tmp_path: Path) -> None:
    """A checkout without built assets."""
    front = FrontSettings(web_folder=tmp_path / "nowhere")
    engines = [NullEngine("null"), NullEngine("null2")]
    with Server(null_bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=engines, front=front) as server:
        status, body, _ = request(server, "/")
        assert (status, b"has no web page" in body) == (200, True)


@pytest.mark.parametrize("path", ["/api/v1/stream", "/api/v1/webrtc"])
def test_other_pages_are_kept_out(server: Server, path: str) -> None:
    """A page of another site may not open streams through this browser."""
    headers = {
        "Origin": "https://evil.example",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol": "frankenstream.v1",
        "Authorization": f"Bearer {TOKEN}",
    }
    status, body, _ = request(server, path, headers=headers)
    assert (status, b"may not stream here" in body) == (403, True)


def test_no_web_socket_without_the_subprotocol(server: Server) -> None:
    """A plain request, or another protocol: HTTP 400 in one line."""
    status, body, _ = request(server, "/api/v1/stream")
    assert (status, b"frankenstream.v1" in body) == (400, True)


def test_rubbish_on_the_port_disturbs_nobody(server: Server, null_bundle: Bundle) -> None:
    """Bytes that are no HTTP: that connection ends, others go on."""
    host, _, port = server.http_url.partition("://")[2].partition(":")
    with StreamingEdge(web_socket_url(server), null_bundle, access=ClientAccess(TOKEN)) as edge:
        edge.wait_connected()
        for rubbish in (os.urandom(2000), b"\x16\x03\x01" + bytes(500), b"GET " + b"a" * 20_000):
            with socket.create_connection((host, int(port)), 10) as raw:
                raw.sendall(rubbish + b"\r\n\r\n")
                raw.settimeout(10)
                raw.recv(100)
        assert isinstance(edge.wait_ended(edge.send()), Answered)
