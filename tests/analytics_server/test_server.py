"""The server over real sockets, with engines that cost nothing."""

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

from analytics_server.server import Server
from pipeline.bundle import Bundle, EdgeBundle, EdgeCache
from pipeline.errors import ConfigError, TransportError
from pipeline.runtime.engine import NullEngine
from pipeline.wire.events import Answered, BundlePartReceived, Closed, Connected, FrameDropped, TasksNow
from tests.streaming import PATIENCE_S, StreamingEdge, jpeg

TASKS = ["imagenet1k", "cifar100", "flowers102", "food101"]


@pytest.fixture
def server(null_bundle: Bundle) -> Iterator[Server]:
    engines = [NullEngine("null"), NullEngine("null2")]
    with Server(null_bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=engines) as server:
        yield server


def get(server: Server, path: str, *, token: str = "", body: bytes | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(server.http_url + path, data=body)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_frame_is_answered_for_all_tasks(server: Server, null_bundle: Bundle) -> None:
    """Bitstream in, one label for each task of the default backbone out, in the order of Welcome."""
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        welcome = edge.wait_connected().welcome
        assert [task.name for task in welcome.tasks] == TASKS
        result = edge.wait_ended(edge.send())
        assert isinstance(result, Answered)
        assert [task.task for task in result.tasks] == TASKS
        assert all(len(task.labels) == 1 for task in result.tasks)
        assert (result.decoded_layers, result.layers) == (8, 8)


def test_tasks_on_two_backbones(server: Server, null_bundle: Bundle) -> None:
    """A task names its backbone; the latent is decoded once and computed by both."""
    with StreamingEdge(server.urls[0], null_bundle, tasks=("food101", "food101@second", "cifar100@null2")) as edge:
        result = edge.wait_ended(edge.send())
        assert isinstance(result, Answered)
        assert [task.task for task in result.tasks] == ["food101", "food101@second", "cifar100"]
        assert [len(task.labels) for task in result.tasks] == [1, 1, 1]


def test_other_tasks_from_now_on(server: Server, null_bundle: Bundle) -> None:
    """SetTasks changes what results carry; a wish that cannot be met leaves it."""
    with StreamingEdge(server.urls[0], null_bundle, tasks=("food101",)) as edge:
        edge.wait_connected()
        edge.transport.call(lambda session, now: session.set_tasks(("cifar100",), 3, now))
        edge.wait(lambda: bool(edge.of(TasksNow)))
        result = edge.wait_ended(edge.send())
        assert isinstance(result, Answered)
        assert [(task.task, len(task.labels)) for task in result.tasks] == [("cifar100", 3)]
        edge.transport.call(lambda session, now: session.set_tasks(("birds",), 1, now))
        edge.wait(lambda: len(edge.of(TasksNow)) == 2)
        assert "task 'birds' is not served on null" in edge.of(TasksNow)[1].error


def test_unknown_task_is_refused(server: Server, null_bundle: Bundle) -> None:
    """Hello with a task that is not there: one line, naming those that are."""
    with StreamingEdge(server.urls[0], null_bundle, tasks=("birds",)) as edge:
        closed = edge.wait_closed()
        assert "task 'birds' is not served on null: choose of imagenet1k, cifar100" in closed.detail


def test_other_codec_is_refused(server: Server, null_bundle: Bundle) -> None:
    """An edge with another encoder is told so."""
    with StreamingEdge(server.urls[0], null_bundle, codec_id="0" * 64) as edge:
        closed = edge.wait_closed()
        assert (closed.reason, "use the same bundle on both" in closed.detail) == ("codec", True)


def fetch(edge: StreamingEdge, cache: EdgeCache, codec_id: str) -> EdgeBundle | None:
    """Ask for part after part until the bundle is complete."""
    download = cache.fetch(codec_id)
    bundle, number = None, 0
    while bundle is None:
        offset = download.offset
        edge.transport.call(lambda session, now, at=offset: session.request_bundle(codec_id, at, now))
        edge.wait(lambda seen=number: len(edge.of(BundlePartReceived)) > seen or bool(edge.of(Closed)))
        if edge.of(Closed):
            return None
        part = edge.of(BundlePartReceived)[number].part
        bundle, number = download.add(part.offset, part.total, part.part), number + 1
    return bundle


def test_edge_half_is_handed_out(null_bundle: Bundle, tmp_path: Path) -> None:
    """An edge without a bundle fetches it over a trusted transport, then streams with it."""
    with Server(null_bundle, [f"ipc://{tmp_path}/server.sock"], engines=[NullEngine("null")]) as server:
        with StreamingEdge(server.urls[0], null_bundle, codec_id="") as edge:
            assert edge.wait_connected().welcome.codec_id == null_bundle.codec_id
            fetched = fetch(edge, EdgeCache(tmp_path / "bundles"), null_bundle.codec_id)
        assert fetched is not None
        with StreamingEdge(server.urls[0], fetched) as edge:
            assert isinstance(edge.wait_ended(edge.send()), Answered)


def test_edge_half_over_an_open_transport(server: Server, null_bundle: Bundle, tmp_path: Path) -> None:
    """Without keys only an edge that knows which bundle it wants may have it: it checks the hash."""
    cache = EdgeCache(tmp_path / "bundles")
    with StreamingEdge(server.urls[0], null_bundle, codec_id="") as edge:
        edge.wait_connected()
        assert fetch(edge, cache, null_bundle.codec_id) is None
        assert edge.wait_closed().reason == "unauthorised"
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        edge.wait_connected()
        assert fetch(edge, cache, null_bundle.codec_id) is not None
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        edge.wait_connected()
        assert fetch(edge, cache, "0" * 64) is None
        assert edge.wait_closed().reason == "codec"


@pytest.mark.parametrize(("form", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("WEBP", "RGB")])
def test_pictures_of_unmodified_clients(server: Server, null_bundle: Bundle, form: str, mode: str) -> None:
    """JPEG and WebP frames are answered on the same endpoint."""
    with StreamingEdge(server.urls[0], null_bundle, tasks=("food101",)) as edge:
        result = edge.wait_ended(edge.send(jpeg(form=form, mode=mode), kind="jpeg"))
        assert isinstance(result, Answered)
        assert result.decoded_layers == 0


@pytest.mark.parametrize("payload", [b"", b"nonsense", jpeg()[:-200], b"\xff\xd8\xff" + bytes(50)])
def test_pictures_that_do_not_decode(server: Server, null_bundle: Bundle, payload: bytes) -> None:
    """A broken picture costs itself, with a line that says why."""
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        dropped = edge.wait_ended(edge.send(payload, kind="jpeg"))
        assert isinstance(dropped, FrameDropped)
        assert dropped.cause == "undecodable"
        assert isinstance(edge.wait_ended(edge.send()), Answered)


def test_bitstream_that_does_not_decode(server: Server, null_bundle: Bundle) -> None:
    """A corrupt bitstream is undecodable, the next one is answered."""
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        dropped = edge.wait_ended(edge.send(b"not a bitstream"))
        assert isinstance(dropped, FrameDropped)
        assert dropped.cause == "undecodable"
        assert isinstance(edge.wait_ended(edge.send()), Answered)


def test_cut_bitstream_gives_a_prefix(server: Server, null_bundle: Bundle) -> None:
    """The longest contiguous prefix of good layers decodes and is answered."""
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        whole = edge.bitstream()
        result = edge.wait_ended(edge.send(whole[: len(whole) // 2]))
        assert isinstance(result, Answered)
        assert 0 < result.decoded_layers < result.layers == 8


def test_counts_on_both_sides(server: Server, null_bundle: Bundle) -> None:
    """received = answered + Σ dropped + in_flight on the server, and the edge agrees."""
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        edge.stream(20)
        edge.send(b"broken")
        edge.wait(lambda: bool(edge.of(FrameDropped)))
        (row,) = server.admin.session_table()
        assert (row["received"], row["answered"], row["dropped"]) == (21, 20, {"undecodable": 1})
        assert edge.session.account.balanced
        assert edge.session.account.answered == 20
        assert server.admin.load()["streams"]["active"] == 1


def test_http_interface(server: Server, null_bundle: Bundle) -> None:
    """Health, readiness, load, tasks, sessions and metrics."""
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        edge.stream(3)
        assert get(server, "/healthz") == (200, b'{"healthy": true, "state": "ready"}')
        assert get(server, "/readyz")[0] == 200
        load = json.loads(get(server, "/api/v1/load")[1])
        assert (load["streams"]["active"], load["frames_under_way"]) == (1, 0)
        assert len(json.loads(get(server, "/api/v1/tasks")[1])["tasks"]) == 8
        (session,) = json.loads(get(server, "/api/v1/sessions")[1])["sessions"]
        assert session["answered"] == 3
        metrics = get(server, "/metrics")[1].decode()
        assert 'frankenstream_frames_answered_total{kind="latent"} 3.0' in metrics
        assert 'frankenstream_frames_dropped_total{cause="shed"} 0.0' in metrics
        assert 'frankenstream_stage_seconds_count{stage="synthesis"} 3.0' in metrics
        assert "frankenstream_sessions_active 1.0" in metrics
        assert get(server, "/nothing")[0] == 404


def test_a_transport_that_failed_is_told(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Health looks at every thread that a frame passes, not at the engines alone."""
    transport: Any = server._transports[0]
    url = transport.url
    monkeypatch.setattr(transport, "_step", lambda poll: 1 / 0)
    transport._waker.wake()
    transport._thread.join(PATIENCE_S)
    status, body = get(server, "/healthz")
    assert (status, json.loads(body)) == (503, {"healthy": False, "state": "ready", "dead": [f"transport {url}"]})


def test_drain_over_http(server: Server) -> None:
    """POST /api/v1/drain asks the owner to stop; new sessions are not welcome from then on."""
    assert get(server, "/api/v1/drain", body=b'{"peer": "tcp://127.0.0.1:1"}')[0] == 202
    assert server.drain_requested.is_set()
    assert server.drain_peer == "tcp://127.0.0.1:1"
    assert get(server, "/readyz")[0] == 503
    assert get(server, "/api/v1/drain", body=b"[")[0] == 400


def form(**parts: bytes) -> bytes:
    """A multipart form with boundary `edge`."""
    lines = [
        b'--edge\r\nContent-Disposition: form-data; name="%b"; filename="x"\r\n\r\n%b\r\n' % (name.encode(), data)
        for name, data in parts.items()
    ]
    return b"".join(lines) + b"--edge--\r\n"


def post_head(server: Server, **parts: bytes) -> tuple[int, bytes]:
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    request = urllib.request.Request(server.http_url + "/api/v1/tasks", data=form(**parts), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


HEAD = b'task = "birds"\nbackbone = "null"\nclasses = 2\nlabels = "birds"\nnames = ["jay", "wren"]\n'


def arrays(classes: int = 2, width: int = 8) -> bytes:
    weight = np.zeros((classes, width), np.float16)
    return bytes(save({"weight": weight, "bias": np.arange(classes, dtype=np.float16)}))


def test_heads_come_and_go(server: Server, null_bundle: Bundle) -> None:
    """A head is uploaded, answers, and is removed again; the edge needs nothing but its name."""
    status, body = post_head(server, head=HEAD, arrays=arrays())
    assert (status, json.loads(body)) == (201, {"name": "birds", "backbone": "null", "classes": 2, "version": 1})
    with StreamingEdge(server.urls[0], null_bundle, tasks=("birds",)) as edge:
        result = edge.wait_ended(edge.send())
        assert isinstance(result, Answered)
        assert result.tasks[0].labels[0].name == "wren"
        request = urllib.request.Request(server.http_url + "/api/v1/tasks/birds", method="DELETE")
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 204
        result = edge.wait_ended(edge.send())
        assert isinstance(result, Answered)
        assert "no task birds on null" in result.tasks[0].error


@pytest.mark.parametrize(
    ("parts", "status", "line"),
    [
        ({"head": HEAD}, 400, "the form has no arrays"),
        ({"head": b"task = [", "arrays": b""}, 422, "head does not read"),
        ({"head": HEAD, "arrays": b"junk"}, 422, "heads/birds.null.safetensors does not read"),
        ({"head": HEAD, "arrays": arrays(width=9)}, 422, "weight (2, 9) and bias (2,) do not fit 2 classes"),
        ({"head": HEAD.replace(b'"null"', b'"resnet"'), "arrays": arrays()}, 422, "served are null, null2"),
        ({"head": HEAD.replace(b', "wren"', b""), "arrays": arrays()}, 422, "has 2 classes and 1 labels"),
        ({"head": HEAD.replace(b'names = ["jay", "wren"]', b""), "arrays": arrays()}, 422, "or give them as `names`"),
    ],
)
def test_head_that_does_not_fit(server: Server, parts: dict[str, bytes], status: int, line: str) -> None:
    """A bad head is refused with what is wrong; what is served stays."""
    got, body = post_head(server, **parts)
    assert (got, line in json.loads(body)["error"]) == (status, True), body
    assert len(server.admin.task_table()) == 8


def test_pages_of_other_sites_cannot_stop_the_server(server: Server) -> None:
    """A browser on this machine may show anything; its pages get no say here."""
    request = urllib.request.Request(server.http_url + "/api/v1/drain", data=b"", headers={"Origin": "http://evil"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)
    assert not server.drain_requested.is_set()


def test_admin_token(null_bundle: Bundle) -> None:
    """With a token, everything but health and readiness wants it."""
    with Server(
        null_bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=[NullEngine("null")], admin_token="secret"
    ) as server:
        assert get(server, "/healthz")[0] == 200
        assert get(server, "/metrics")[0] == 401
        assert get(server, "/metrics", token="wrong")[0] == 401
        assert get(server, "/metrics", token="secret")[0] == 200


def test_http_beyond_loopback_needs_a_token(null_bundle: Bundle) -> None:
    """An open admin interface is refused before anything starts."""
    with pytest.raises(ConfigError, match="is beyond loopback: set an admin token"):
        Server(null_bundle, ["tcp://127.0.0.1:0"], "0.0.0.0:0", engines=[NullEngine("null")])


@pytest.mark.parametrize("address", ["8080", "localhost", ":80", "127.0.0.1:99999", "127.0.0.1:http"])
def test_bad_http_address(null_bundle: Bundle, address: str) -> None:
    """HOST:PORT, nothing else."""
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        Server(null_bundle, ["tcp://127.0.0.1:0"], address, engines=[NullEngine("null")])


def test_port_in_use(server: Server, null_bundle: Bundle) -> None:
    """The second server says so and leaves nothing running; so for HTTP."""
    with pytest.raises(TransportError, match="is in use"):
        Server(null_bundle, [server.urls[0]], engines=[NullEngine("null")]).start()
    address = server.http_url.removeprefix("http://")
    with pytest.raises(TransportError, match=f"http address {address} cannot be used"):
        Server(null_bundle, ["tcp://127.0.0.1:0"], address, engines=[NullEngine("null")]).start()


def test_no_url(null_bundle: Bundle) -> None:
    """A server without a door is a mistake."""
    with pytest.raises(ConfigError, match="no URL to listen on"):
        Server(null_bundle, [])


def test_stopping_says_goodbye_with_a_token(null_bundle: Bundle) -> None:
    """An edge learns that the server drains and may come back: it does not count as closed."""
    server = Server(null_bundle, ["tcp://127.0.0.1:0"], engines=[NullEngine("null")])
    server.start()
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        edge.stream(2)
        server.stop()
        edge.wait(lambda: any("draining" in getattr(event, "reason", "") for event in edge.events))
        assert edge.session.account.balanced
        assert edge.session.account.answered == 2
        assert len(edge.of(Connected)) == 1
