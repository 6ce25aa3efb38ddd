"""Teaching from a live stream: kept under a label, learnt, served, forgotten, and every refusal a line."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from analytics_server.few_shot import VIEWS_MIN
from analytics_server.server import Server
from frankenstream.task_client import TaskClient
from pipeline.bundle import Bundle
from pipeline.errors import InputError
from pipeline.runtime.engine import NullEngine
from tasks.captured import read_capture
from tasks.example_store import ExampleStore
from tasks.head_file import synthesis_sha256

pytest.importorskip("scipy", reason="learning needs scipy")

WIDTH = 8


@pytest.fixture
def heads_dir(tmp_path: Path) -> Path:
    return tmp_path / "heads"


def serve(bundle: Bundle, heads_dir: Path | None, **settings: Any) -> Server:
    engines = [NullEngine("null")]
    return Server(bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=engines, heads_dir=heads_dir, **settings)


@pytest.fixture
def server(null_bundle: Bundle, heads_dir: Path) -> Iterator[Server]:
    with serve(null_bundle, heads_dir) as server:
        yield server


def capture(bundle: Bundle, axis: int, views: int = VIEWS_MIN, **header: str) -> bytes:
    """Features along one axis, as a server captures them."""
    rng = np.random.default_rng(axis)
    pooled = np.abs(0.1 * rng.standard_normal((views, WIDTH))) + 4 * np.eye(WIDTH)[axis]
    metadata = {
        "backbone": "null", "codec_id": bundle.codec_id,
        "synthesis_sha256": synthesis_sha256(bundle, bundle.backbone("null")), **header,
    }  # fmt: skip
    return bytes(save({"pooled": pooled.astype(np.float32)}, metadata=metadata))


def call(
    server: Server, method: str, path: str, body: bytes | None = None, kind: str = "", token: str = ""
) -> tuple[int, Any]:
    headers = {"Content-Type": kind} if kind else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{server.http_url}/api/v1/{path}", body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def form(label: str | None, *captures: bytes) -> tuple[bytes, str]:
    parts = [("label", label.encode())] if label is not None else []
    parts += [("capture", data) for data in captures]
    body = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), data)
        for name, data in parts
    )
    return body + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def add(server: Server, label: str, *captures: bytes, task: str = "things") -> tuple[int, Any]:
    return call(server, "POST", f"tasks/{task}/examples", *form(label, *captures))


def test_two_things_are_taught_served_and_forgotten(server: Server, null_bundle: Bundle, heads_dir: Path) -> None:
    """From the first one on there is a task; it goes with the last."""
    halves = [capture(null_bundle, 0, VIEWS_MIN // 2) for _ in range(2)]
    status, row = add(server, " 青い  cup ", *halves)
    assert (status, row["labels"], row["views"]) == (201, {"青い cup": VIEWS_MIN}, VIEWS_MIN)
    status, lesson = call(server, "POST", "tasks/things/teach", b"{}", "application/json")
    assert (status, lesson["version"], lesson["kept"]) == (200, 1, True)
    assert any("one class" in note for note in lesson["notes"])
    add(server, "hand", capture(null_bundle, 1, 12))
    status, lesson = call(server, "POST", "tasks/things/teach", b'{"title": "My things"}', "application/json")
    assert (lesson["labels"], lesson["accuracy"]) == ({"青い cup": 8, "hand": 12}, 100.0)
    (served,) = [one for one in TaskClient(server.http_url).tasks()["tasks"] if one["name"] == "things"]
    assert (served["title"], served["version"], served["source"]) == ("My things", 2, "home")
    status, known = call(server, "GET", "examples")
    assert known == {"tasks": [{"task": "things", "labels": {"青い cup": 8, "hand": 12}, "error": ""}]}

    status, left = call(server, "DELETE", "tasks/things/examples?label=hand")
    assert (status, left["labels"]) == (200, {"青い cup": 8})
    status, left = call(server, "DELETE", "tasks/things/examples")
    assert (status, left["labels"]) == (200, {})
    assert list((heads_dir / "things" / "examples").iterdir()) == []
    assert call(server, "GET", "examples")[1] == {"tasks": []}


def test_all_is_forgotten_whatever_it_came_through(server: Server, null_bundle: Bundle, heads_dir: Path) -> None:
    """Captures of the bundle before and damaged ones too; a label however its spaces were typed."""
    examples = ExampleStore(heads_dir / "things" / "examples")
    pooled, origin = read_capture(capture(null_bundle, 2, codec_id="d" * 64))
    examples.save_capture("old", pooled, origin)
    add(server, "blue cup", capture(null_bundle, 0))
    add(server, "hand", capture(null_bundle, 1))
    status, left = call(server, "DELETE", "tasks/things/examples?label=blue%20%20cup%20")
    assert (status, left["labels"]) == (200, {"hand": VIEWS_MIN})
    (examples.folder / "capture-0009.null.safetensors").write_bytes(b"junk")
    status, left = call(server, "DELETE", "tasks/things/examples")
    assert (status, left["labels"]) == (200, {})
    assert list(examples.folder.iterdir()) == []
    status, answer = call(server, "DELETE", "tasks/things/examples")
    assert (status, answer["error"]) == (422, "task things has no captures: there is nothing")


def test_what_the_command_line_captured_is_taught_from_too(
    server: Server, null_bundle: Bundle, heads_dir: Path
) -> None:
    pooled, origin = read_capture(capture(null_bundle, 2))
    ExampleStore(heads_dir / "things" / "examples").save_capture("lamp", pooled, origin)
    status, row = add(server, "door", capture(null_bundle, 3))
    assert (status, row["labels"]) == (201, {"lamp": VIEWS_MIN, "door": VIEWS_MIN})


def test_refusals_are_a_line_and_leave_nothing(server: Server, null_bundle: Bundle, heads_dir: Path) -> None:
    good = capture(null_bundle, 0)
    cases = [
        (add(server, "cup", capture(null_bundle, 0, 3)), "3 views of 'cup', expected at least 8"),
        (add(server, "  ", good), "printable characters"),
        (add(server, "cup", good[:50]), "no capture"),
        (add(server, "cup", capture(null_bundle, 0, codec_id="x")), "another bundle or backbone"),
        (add(server, "cup", capture(null_bundle, 0, backbone="null2")), "another bundle or backbone (null2)"),
        (add(server, "cup", good, task="imagenet1k"), "comes with the bundle"),
        (add(server, "cup", good, task="..%2Fup"), "leave out"),
        (call(server, "POST", "tasks/things/teach", b"{}", "application/json"), "show something first"),
        (call(server, "DELETE", "tasks/things/examples?label=cup"), "no captures of 'cup': there is nothing"),
    ]
    for (status, answer), line in cases:
        assert status == 422, answer
        assert line in answer["error"]
        assert "\n" not in answer["error"]
    assert not list(heads_dir.glob("**/*.safetensors"))


@pytest.mark.parametrize(
    ("body", "kind", "line"),
    [
        (b"", "text/plain", "no form"),
        (form("cup")[0], form("cup")[1], "0 captures"),
        (form("cup", b"x" * 100)[0][:60], "multipart/form-data; boundary=edge", ""),
        (form("cup", b"x" * 5_000_000)[0], "multipart/form-data; boundary=edge", "larger than"),
    ],
    ids=["no form", "no capture", "cut off", "too large"],
)
def test_what_is_no_such_form_is_refused(server: Server, body: bytes, kind: str, line: str) -> None:
    status, answer = call(server, "POST", "tasks/things/examples", body, kind)
    assert status in (400, 413)
    assert line in answer["error"]


def test_a_server_that_keeps_nothing_says_so(null_bundle: Bundle) -> None:
    with serve(null_bundle, None) as server:
        assert call(server, "GET", "examples") == (200, {"tasks": []})
        status, answer = add(server, "cup", capture(null_bundle, 0))
        assert (status, "keeps no tasks" in answer["error"]) == (422, True)


def test_only_the_administrator_teaches(null_bundle: Bundle, heads_dir: Path) -> None:
    with serve(null_bundle, heads_dir, admin_token="secret") as server:
        for method, path in (
            ("GET", "examples"), ("POST", "tasks/things/examples"), ("DELETE", "tasks/things/examples"),
            ("POST", "tasks/things/teach"),
        ):  # fmt: skip
            assert call(server, method, path, b"" if method == "POST" else None)[0] == 401
        assert call(server, "GET", "examples", token="secret") == (200, {"tasks": []})


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, bytes(save({"other": np.zeros((2, 2), np.float32)}))])
def test_no_capture(data: bytes) -> None:
    with pytest.raises(InputError, match="no capture"):
        read_capture(data)


def test_a_capture_that_is_not_finite_is_none(null_bundle: Bundle) -> None:
    data = bytearray(capture(null_bundle, 0))
    data[-4:] = np.float32(np.nan).tobytes()
    with pytest.raises(InputError, match="not finite"):
        read_capture(bytes(data))
