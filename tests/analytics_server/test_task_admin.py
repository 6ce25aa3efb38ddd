"""Heads over a running server's admin interface: versions, restarts, refusals, captures, other tasks for an edge."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from analytics_server import task_admin
from analytics_server.server import Server
from frankenstream.task_client import TaskClient
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.errors import BundleError, ConfigError, FrankenError, TransportError
from pipeline.runtime.engine import Features, NullEngine
from pipeline.wire.events import Answered, Connected, TasksNow
from tasks import Task, load_catalogue
from tasks.head_file import HeadFile, HeadFiles, pack_head, synthesis_sha256
from tasks.store import HeadStore
from tests.streaming import PATIENCE_S, StreamingEdge
from tests.tasks.test_store import only_toml

WIDTH = 8


class CountingEngine(NullEngine):
    """Each frame's features are ones, times a number that grows."""

    frames = 0

    def from_latents(self, latents_BCHW: np.ndarray) -> Features:
        self.frames += len(latents_BCHW)
        return Features(np.full((len(latents_BCHW), WIDTH), float(self.frames), np.float32), 0.0, 0.0)


def head(answer: int = 1, *, name: str = "birds", on: str = "null", version: int = 1, **fields: Any) -> HeadFiles:
    """Always gives label `answer`."""
    bias = np.eye(2, dtype=np.float32)[answer]
    entry = HeadFile(task=name, backbone=on, classes=2, labels=name, names=["鳥", "wren"], version=version, **fields)
    return pack_head(entry, {"weight": np.zeros((2, WIDTH), np.float32), "bias": bias})


@pytest.fixture
def heads_dir(tmp_path: Path) -> Path:
    return tmp_path / "heads"


def serve(bundle: Bundle, heads_dir: Path | None, **settings: Any) -> Server:
    engines = [CountingEngine("null"), NullEngine("null2")]
    return Server(bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=engines, heads_dir=heads_dir, **settings)


@pytest.fixture
def server(null_bundle: Bundle, heads_dir: Path) -> Iterator[Server]:
    with serve(null_bundle, heads_dir) as server:
        yield server


def answer_of(edge: StreamingEdge, task: str) -> str:
    result = edge.wait_ended(edge.send())
    assert isinstance(result, Answered)
    (found,) = [one for one in result.tasks if one.task == task]
    return found.labels[0].name if found.labels else found.error


def test_a_new_version_reaches_edges_that_stream(server: Server, null_bundle: Bundle) -> None:
    """An edge that wants all tasks hears of the new one; a later version and a rollback change what it is answered."""
    client = TaskClient(server.http_url)
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        edge.stream(2)
        answer = client.put("birds", [head(1)])
        assert answer == {"name": "birds", "version": 1, "backbones": ["null"], "classes": 2, "kept": True}
        edge.wait(lambda: bool(edge.of(TasksNow)))
        assert edge.of(TasksNow)[-1].tasks[-1].name == "birds"
        assert answer_of(edge, "birds") == "wren"
        assert client.put("birds", [head(0)])["version"] == 2
        edge.wait(lambda: edge.of(TasksNow)[-1].tasks[-1].version == 2)
        assert answer_of(edge, "birds") == "鳥"
        assert client.roll_back("birds")["version"] == 1
        assert answer_of(edge, "birds") == "wren"
        client.remove("birds")
        edge.wait(lambda: [task.name for task in edge.of(TasksNow)[-1].tasks][-1] != "birds")
        assert edge.session.account.answered == len(edge.of(Answered)) == 5
        assert not edge.session.account.dropped


def test_an_edge_that_named_its_tasks_keeps_them(server: Server, null_bundle: Bundle) -> None:
    """Other heads are neither computed nor sent for it; the one it named is told about, gone and back."""
    client = TaskClient(server.http_url)
    client.put("birds", [head()])
    with StreamingEdge(server.urls[0], null_bundle, tasks=("birds",)) as edge:
        edge.wait_connected()
        client.put("fish", [head(name="fish")])
        result = edge.wait_ended(edge.send())
        assert isinstance(result, Answered)
        assert [task.task for task in result.tasks] == ["birds"]
        client.remove("birds")
        edge.wait(lambda: any("no longer served: birds" in event.error for event in edge.of(TasksNow)))
        assert "no task birds on null" in answer_of(edge, "birds")
        client.roll_back("birds")
        assert answer_of(edge, "birds") == "wren"


class Slowly(list[NullEngine]):
    """Engines of which the last one takes until `gate` opens."""

    def __init__(self, *engines: NullEngine) -> None:
        super().__init__(engines)
        self.waits, self.gate = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[NullEngine]:
        yield from self[:-1]
        self.waits.set()
        assert self.gate.wait(PATIENCE_S)
        yield self[-1]


def test_changes_wait_until_all_is_loaded(null_bundle: Bundle, heads_dir: Path) -> None:
    """While engines are built every change is 503 with a line, and changes nothing; afterwards it works."""
    engines = Slowly(NullEngine("null"), NullEngine("null2"))
    (heads_dir / "birds" / "examples").mkdir(parents=True)
    server = Server(null_bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=engines, heads_dir=heads_dir)
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        assert engines.waits.wait(PATIENCE_S)
        client = TaskClient(server.http_url)
        for change in (
            lambda: client.put("birds", [head()]),
            lambda: server.admin.add_head(*head()),
            lambda: client.roll_back("birds"),
            lambda: client.remove("food101"),
            lambda: client.capture(frames=1, wait_s=1.0),
            lambda: client.choose("porch", ["food101"], 1),
        ):
            with pytest.raises(FrankenError, match="still loading: try again in a moment"):
                change()
        for method, path, body in (
            ("GET", "examples", None),
            ("POST", "tasks/birds/teach", b""),
            ("POST", "lessons", json.dumps({"task": "birds", "pictures": 2, "bytes": 200}).encode()),
        ):
            request = urllib.request.Request(f"{server.http_url}/api/v1/{path}", body, method=method)
            with pytest.raises(urllib.error.HTTPError, match="503"):
                urllib.request.urlopen(request, timeout=10)
        engines.gate.set()
        starting.join(PATIENCE_S)
        assert client.put("birds", [head()])["version"] == 1
    finally:
        engines.gate.set()
        starting.join(PATIENCE_S)
        server.stop(0.0)


def test_heads_survive_a_restart(null_bundle: Bundle, heads_dir: Path) -> None:
    """Those in the home folder are there from the start; one for another bundle is left out and named."""
    with serve(null_bundle, heads_dir) as server:
        TaskClient(server.http_url).put("鳥", [head(name="鳥"), head(0, name="鳥", on="null2")])
    HeadStore(heads_dir).save("old", [head(name="old", codec_id="0" * 64)])
    with serve(null_bundle, heads_dir) as server:
        table = TaskClient(server.http_url).tasks()
        mine = [(row["name"], row["backbone"], row["source"]) for row in table["tasks"] if row["source"] != "bundle"]
        assert mine == [("鳥", "null", "home"), ("鳥", "null2", "home")]
        assert "was trained for another bundle" in table["refused"]["old@null"]


@pytest.mark.parametrize(
    ("old", "line"),
    [
        (head(codec_id="0" * 64), "was trained for another bundle: its codec is 000000000000"),
        (head(on="resnet50"), "for backbone 'resnet50', this bundle has null"),
        (HeadFiles(head().toml, b"junk"), "does not read"),
        (head(name="fish"), "the head is for task 'fish', the address says 'birds'"),
        (pack_head(HeadFile(task="birds", backbone="null", classes=2, labels="birds", names=["a", "b"]),
                   {"weight": np.full((2, WIDTH), np.nan, np.float32), "bias": np.zeros(2, np.float32)}),
         "weights that are not finite"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("removed", [False, True])
def test_a_version_that_cannot_serve_is_not_rolled_back_to(
    server: Server, heads_dir: Path, old: HeadFiles, line: str, removed: bool
) -> None:
    """What served goes on, on the disk too; a task that was removed stays so."""
    store, client = HeadStore(heads_dir), TaskClient(server.http_url)
    store.save("birds", [old])
    client.put("birds", [head(1)])
    if removed:
        client.remove("birds")
    with pytest.raises(BundleError, match=line):
        client.roll_back("birds", 1)
    assert store.current("birds") == (0 if removed else 2)
    served = [row["version"] for row in client.tasks()["tasks"] if row["name"] == "birds"]
    assert served == ([] if removed else [2])


def test_users_tasks_are_listed_without_reading_their_arrays(heads_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = HeadStore(heads_dir)
    store.save("birds", [head(accuracy_codec=90.0)])
    monkeypatch.setattr(Path, "read_bytes", only_toml)
    row = task_admin.own_task(store, "birds")
    assert (row["heads"][0]["accuracy"], row["error"]) == (90.0, "")


def test_a_version_is_whole(server: Server) -> None:
    """A version without a backbone that the one before had takes that head away."""
    client = TaskClient(server.http_url)
    client.put("birds", [head(), head(on="null2")])
    client.put("birds", [head(0)])
    assert [row["backbone"] for row in client.tasks()["tasks"] if row["name"] == "birds"] == ["null"]


@pytest.mark.parametrize(
    ("name", "files", "line"),
    [
        ("fish", head(), "the head is for task 'birds', the address says 'fish'"),
        ("food101", head(name="food101"), "task food101 comes with the bundle or a package"),
        ("birds", head(codec_id="0" * 64), "was trained for another bundle: its codec is 000000000000"),
        ("birds", head(on="resnet50"), "for backbone 'resnet50', this bundle has null"),
        ("birds", HeadFiles(head().toml, b"junk"), "does not read"),
        (
            "birds",
            pack_head(
                HeadFile(task="birds", backbone="null", classes=2, labels="birds", names=["a", "b"]),
                {"weight": np.full((2, WIDTH), np.nan, np.float32), "bias": np.zeros(2, np.float32)},
            ),
            "weights that are not finite",
        ),
    ],
)
def test_what_is_refused_leaves_what_serves(server: Server, name: str, files: HeadFiles, line: str) -> None:
    client = TaskClient(server.http_url)
    client.put("birds", [head(1)])
    with pytest.raises(BundleError, match=line):
        client.put(name, [files])
    assert [row["version"] for row in client.tasks()["tasks"] if row["name"] == "birds"] == [1]


def test_a_title_that_edges_cannot_read_reaches_none(server: Server, null_bundle: Bundle, heads_dir: Path) -> None:
    """It is refused, by PUT and POST and from the home folder; who streams goes on."""
    long = head(title="t" * 129)
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        edge.stream(1)
        with pytest.raises(BundleError, match="of length <= 128"):
            TaskClient(server.http_url).put("birds", [long])
        with pytest.raises(BundleError, match="of length <= 128"):
            server.admin.add_head(*long)
        edge.stream(1)
    (heads_dir / "birds" / "1").mkdir(parents=True)
    for name, data in {"1/null.toml": long.toml, "1/null.safetensors": long.arrays, "current": b"1\n"}.items():
        (heads_dir / "birds" / name).write_bytes(data)
    with serve(null_bundle, heads_dir) as restarted:
        assert "of length <= 128" in restarted.admin.refused_heads()["birds@null"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("imagenet1k", "task imagenet1k comes with the bundle or a package"),
        ("food101", "task food101 comes with the bundle or a package"),
        ("a@b", "task name 'a@b' has '@' in it"),
    ],
)
def test_a_head_for_a_while_needs_a_name_of_its_own_too(server: Server, name: str, line: str) -> None:
    before = server.admin.task_table()
    with pytest.raises(ConfigError, match=line):
        server.admin.add_head(*head(name=name))
    assert server.admin.task_table() == before
    assert server.admin.add_head(*head())["name"] == "birds"
    server.admin.remove_head("birds")
    assert server.admin.task_table() == before


def test_a_head_on_a_feature_map_of_another_size_is_refused(server: Server) -> None:
    """It is run on a map of the backbone's own size before it serves."""

    def on_map(channels: int) -> HeadFiles:
        entry = HeadFile(task="spots", backbone="null", classes=2, labels="spots", names=["a", "b"], kind="map")
        layers = {"inner": (5, channels), "inner_bias": (5,), "outer": (2, 5), "outer_bias": (2,)}
        return pack_head(entry, {name: np.zeros(shape, np.float32) for name, shape in layers.items()})

    client = TaskClient(server.http_url)
    with pytest.raises(BundleError, match="head spots failed: ValueError"):
        client.put("spots", [on_map(41)])
    assert client.put("spots", [on_map(40)])["version"] == 1


def test_the_decoder_it_was_trained_with(server: Server, null_bundle: Bundle) -> None:
    good = synthesis_sha256(null_bundle, null_bundle.backbone("null"))
    assert TaskClient(server.http_url).put("birds", [head(synthesis_sha256=good)])["version"] == 1


def test_an_upload_that_is_cut_off_leaves_no_trace(server: Server) -> None:
    """Half a body and a closed connection; half a form with a right length."""
    address = urllib.parse.urlsplit(server.http_url)
    body = b'--edge\r\nContent-Disposition: form-data; name="head"\r\n\r\n' + head().toml[:50]
    heading = (
        b"PUT /api/v1/tasks/birds HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
        b"Content-Length: %d\r\n\r\n"
    )
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as raw:
        raw.sendall(heading % 100_000 + body)
    request = urllib.request.Request(
        server.http_url + "/api/v1/tasks/birds", data=body, method="PUT",
        headers={"Content-Type": "multipart/form-data; boundary=edge"},
    )  # fmt: skip
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert (refused.value.code, "cut off" in json.loads(refused.value.read())["error"]) == (400, True)
    assert "birds" not in {row["name"] for row in server.admin.task_table()}
    assert HeadStore(server.tasks._store.folder).names() == []  # type: ignore[union-attr]


def test_many_edges_stream_while_versions_change(server: Server, null_bundle: Bundle) -> None:
    """Sixteen edges, two writers: every frame is answered, every version is whole."""
    edges = [StreamingEdge(server.urls[0], null_bundle) for _ in range(16)]
    client = TaskClient(server.http_url)
    try:
        streams = [threading.Thread(target=edge.stream, args=(8,)) for edge in edges]
        writers = [
            threading.Thread(
                target=lambda answer=answer: [client.put("birds", [head(answer, title=str(i))]) for i in range(4)]
            )
            for answer in (0, 1)
        ]
        for thread in (*streams, *writers):
            thread.start()
        for thread in (*streams, *writers):
            thread.join()
        assert [edge.session.account.answered for edge in edges] == [8] * 16
        assert HeadStore(server.tasks._store.folder).current("birds") == 8  # type: ignore[union-attr]
    finally:
        for edge in edges:
            edge.close()


def test_a_token_is_wanted(null_bundle: Bundle, heads_dir: Path) -> None:
    with serve(null_bundle, heads_dir, admin_token="secret") as server:
        with pytest.raises(ConfigError, match="wants its admin token: give --token"):
            TaskClient(server.http_url).put("birds", [head()])
        assert TaskClient(server.http_url, token="secret").put("birds", [head()])["version"] == 1


def test_nobody_there() -> None:
    with pytest.raises(TransportError, match=r"no server answers at http://127\.0\.0\.1:9"):
        TaskClient("127.0.0.1:9").tasks()
    with pytest.raises(ConfigError, match="expected its admin interface"):
        TaskClient("tcp://127.0.0.1:5555")


# --- Captures ----------------------------------------------------------------------------------------------------


def test_a_capture_takes_the_next_frames_of_one_edge(server: Server, null_bundle: Bundle) -> None:
    """As features, in order, with what they came through; the frames are answered as ever."""
    client = TaskClient(server.http_url)
    with StreamingEdge(server.urls[0], null_bundle, client="porch") as edge:
        edge.wait_connected()
        stop = threading.Event()

        def stream() -> None:
            while not stop.is_set():
                edge.stream(1)

        thread = threading.Thread(target=stream)
        thread.start()
        data = client.capture(frames=5, session="por", every_s=0.0, wait_s=20.0, task="birds", label="鳥")
        stop.set()
        thread.join()
    pooled = load(data)["pooled"][:, 0]
    assert (len(pooled), (np.diff(pooled) > 0).all()) == (5, True)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    assert (header["client"], header["label"], header["codec_id"]) == ("porch", "鳥", null_bundle.codec_id)
    assert len(server.captures) == 0


@pytest.mark.parametrize(
    ("wish", "line"),
    [
        ({"frames": 0}, "frames is 0, expected 1 to 256"),
        ({"frames": limits.CAPTURE_FRAMES_MAX + 1}, "frames is 257"),
        ({"frames": 1, "session": "attic"}, r"no session 'attic' streams here: there are .* \(porch\)"),
        ({"frames": 1, "backbone": "null2"}, "no edge asks for a task of null2"),
        ({"frames": 1, "backbone": "vit"}, "backbone 'vit' is not"),
        ({"frames": 1, "wait_s": 0.05}, "no frame of session .* within 0.05 s: is its camera running"),
    ],
)
def test_captures_that_cannot_be(server: Server, null_bundle: Bundle, wish: dict[str, Any], line: str) -> None:
    with StreamingEdge(server.urls[0], null_bundle, client="porch") as edge:
        edge.wait_connected()
        with pytest.raises(BundleError, match=line):
            TaskClient(server.http_url).capture(**{"wait_s": 1.0, **wish})


def test_two_edges_must_be_told_apart(server: Server, null_bundle: Bundle) -> None:
    with (
        StreamingEdge(server.urls[0], null_bundle, client="porch") as one,
        StreamingEdge(server.urls[0], null_bundle, client="attic") as two,
    ):
        one.wait_connected()
        two.wait_connected()
        with pytest.raises(BundleError, match=r"2 edges stream here: name one session .*porch.*"):
            TaskClient(server.http_url).capture(frames=1, wait_s=1.0)


def test_no_edge_no_capture(server: Server) -> None:
    with pytest.raises(BundleError, match="no edge streams here now: start one"):
        TaskClient(server.http_url).capture(frames=1, wait_s=1.0)


def test_a_server_that_stops_waits_for_no_capture(null_bundle: Bundle) -> None:
    """Whoever waits is told at once."""
    server = serve(null_bundle, None)
    server.start()
    with StreamingEdge(server.urls[0], null_bundle) as edge:
        edge.wait_connected()
        told: list[str] = []

        def capture() -> None:
            try:
                TaskClient(server.http_url).capture(frames=5, wait_s=100.0)
            except FrankenError as error:
                told.append(str(error))

        thread = threading.Thread(target=capture)
        thread.start()
        while thread.is_alive() and not len(server.captures):
            thread.join(0.005)
        server.stop(0.0)
        thread.join(10.0)
    assert not thread.is_alive()
    assert len(told) == 1


# --- Other tasks for an edge ---------------------------------------------------------------------------------------


def test_an_edge_gets_other_tasks(server: Server, null_bundle: Bundle) -> None:
    """As if it had asked itself; a task that is not there is refused and nothing changes."""
    client = TaskClient(server.http_url)
    with StreamingEdge(server.urls[0], null_bundle, client="porch") as edge:
        edge.wait_connected()
        client.choose("porch", ["cifar100", "food101"], 2)
        edge.wait(lambda: bool(edge.of(TasksNow)))
        result = edge.wait_ended(edge.send())
        assert isinstance(result, Answered)
        assert [(task.task, len(task.labels)) for task in result.tasks] == [("cifar100", 2), ("food101", 2)]
        with pytest.raises(BundleError, match="task 'cars' is not served on null"):
            client.choose("porch", ["cars"], 1)


@pytest.mark.parametrize("body", [{"tasks": "food101"}, {"tasks": [7]}, {"tasks": ["food101"], "top_k": "2"}])
def test_a_choice_of_other_types_is_refused(server: Server, body: dict[str, Any]) -> None:
    """A name is no list of letters."""
    url = f"{server.http_url}/api/v1/sessions/porch/tasks"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=10)
    assert refused.value.code == 400
    assert ": Expected `" in json.loads(refused.value.read())["error"]


def test_a_reconnect_keeps_what_was_chosen(server: Server, null_bundle: Bundle) -> None:
    """Tasks that were chosen here stay; one that went meanwhile is an error in the results, not the end."""
    client = TaskClient(server.http_url)
    client.put("birds", [head()])
    with StreamingEdge(server.urls[0], null_bundle, client="porch", tasks=("birds",)) as edge:
        edge.wait_connected()
        client.choose("porch", ["birds", "food101"], 2)
        edge.wait(lambda: bool(edge.of(TasksNow)))
        client.remove("birds")
        edge.wait(lambda: "no longer served: birds" in edge.of(TasksNow)[-1].error)
        told = len(edge.of(TasksNow))
        (handle,) = server.handles()
        handle.call(lambda session, now: session.goodbye("draining", "", now, resumable=True))
        edge.wait(lambda: len(edge.of(Connected)) == 2 and len(edge.of(TasksNow)) == told + 1)
        welcome = edge.of(Connected)[1].welcome
        assert (welcome.resumed, [task.name for task in welcome.tasks]) == (True, ["birds", "food101"])
        assert "no longer served: birds" in edge.of(TasksNow)[-1].error
        result = edge.wait_ended(edge.send())
        assert isinstance(result, Answered)
        assert [(task.task, len(task.labels)) for task in result.tasks] == [("birds", 0), ("food101", 2)]


# --- Packages ------------------------------------------------------------------------------------------------------


class PackageHead:
    """A head of a package, that does what it is told to."""

    backbone, kind, labels, version, title = "null", "other", ("no", "yes"), 1, ""

    def __init__(self, name: str, gives: Any) -> None:
        self.name, self._gives = name, gives

    def logits(self, pooled_BD: np.ndarray) -> np.ndarray:
        return np.asarray(self._gives(pooled_BD))


def _raise(what: Any) -> Any:
    raise RuntimeError("out of cheese")


def test_heads_of_packages_serve_and_fail_alone(null_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """One answers, one cannot be made, one raises and one gives NaN: each is named, and all others go on."""
    catalogue = load_catalogue("food101")
    makers = {
        "good": lambda tag, width: (
            PackageHead("good", lambda x: np.tile([0.0, 1.0], (len(x), 1))) if tag == "null" else None
        ),
        "broken": lambda tag, width: _raise(tag),
        "raises": lambda tag, width: PackageHead("raises", _raise) if tag == "null" else None,
        "nan": lambda tag, width: PackageHead("nan", lambda x: np.full((len(x), 2), np.nan)) if tag == "null" else None,
    }
    tasks = {name: Task(name, catalogue, make) for name, make in makers.items()}
    monkeypatch.setattr(task_admin, "known_tasks", lambda: tasks)
    with serve(null_bundle, None) as server, StreamingEdge(server.urls[0], null_bundle) as edge:
        result = edge.wait_ended(edge.send())
        assert isinstance(result, Answered)
        found = {one.task: one.labels[0].name if one.labels else one.error for one in result.tasks}
        assert found["good"] == "yes"
        assert "failed: RuntimeError: out of cheese: taken out" in found["raises"]
        assert "gave values that are not finite" in found["nan"]
        assert server.admin.refused_heads()["broken@null"] == "RuntimeError: out of cheese"
        assert len(found["imagenet1k"]) > 0
        client = TaskClient(server.http_url)
        with pytest.raises(BundleError, match="task good comes with the bundle or a package"):
            client.put("good", [head(name="good")])
        assert client.put("birds", [head()])["kept"] is False
