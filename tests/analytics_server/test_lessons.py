"""Teaching from pictures over HTTP: what comes in, what becomes of it, what is refused, and that nothing stays."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import json
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analytics_server import lessons as lessons_module
from analytics_server.lessons import Lessons, RequestRefused, picture_path
from analytics_server.server import Server
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.runtime.engine import NullEngine
from pipeline.wire.events import TasksNow
from tasks.head_file import HeadFile, pack_head
from tasks.lesson_process import Done
from tasks.store import HeadStore
from tests.streaming import PATIENCE_S, StreamingEdge, jpeg

WIDTH = 8
TEACHES = """
import json, os, pathlib, shutil, sys, time
order = json.loads(pathlib.Path(sys.argv[1]).read_bytes())
def say(**said): print(json.dumps(said), flush=True)
say(type="step", what="features", done=1, total=2)
seen = sorted(str(p.relative_to(order["pictures"])) for p in pathlib.Path(order["pictures"]).rglob("*.jpg"))
while not os.path.exists({go!r}): time.sleep(0.01)
assert pathlib.Path(order["bundle"], "manifest.toml").is_file()
mode = {mode!r}
if mode == "dies": os.kill(os.getpid(), 9)
if mode == "fails": say(type="failed", error="one class, 'a'", broken=["a/1.jpg: no picture"], broken_count=1)
if mode == "teaches":
    shutil.copytree({heads!r}, order["out"])
    say(type="done", pictures=len(seen), reports=[], notes=seen, broken=[], broken_count=0)
"""


class Desk:
    """A server whose lessons are held by a process of the test's."""

    def __init__(self, bundle: Bundle, tmp_path: Path, mode: str, token: str = "") -> None:
        self.go = tmp_path / "go"
        heads = tmp_path / "made"
        heads.mkdir()
        files = pack_head(
            HeadFile(task="birds", backbone="null", classes=2, labels="birds", names=["鳥", "wren"]),
            {"weight": np.zeros((2, WIDTH), np.float32), "bias": np.array([0, 1], np.float32)},
        )
        (heads / "null.toml").write_bytes(files.toml)
        (heads / "null.safetensors").write_bytes(files.arrays)
        script = TEACHES.format(go=str(self.go), mode=mode, heads=str(heads))
        engines = [NullEngine("null"), NullEngine("null2")]
        self.home = tmp_path / "home"
        self.server = Server(
            bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=engines, heads_dir=self.home / "heads",
            admin_token=token,
        )  # fmt: skip
        self.server.lessons._command = (sys.executable, "-c", script)
        self.token = token

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(self.server.http_url.partition("://")[2], timeout=20)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        wanted = self.token if token is None else token
        connection.request(method, path, data, {"Authorization": f"Bearer {wanted}"} if wanted else {})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        connection.close()
        return answer.status, content

    def begin(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        return self.ask("POST", "/api/v1/lessons", {"task": "birds", "pictures": 3, "bytes": 100_000, **fields})

    def send(self, lesson: str, path: str, data: bytes | None = None) -> tuple[int, dict[str, Any]]:
        quoted = urllib.parse.quote(path)
        return self.ask("PUT", f"/api/v1/lessons/{lesson}/pictures/{quoted}", jpeg() if data is None else data)

    def wait_over(self) -> dict[str, Any]:
        thread = self.server.lessons._thread
        assert thread is not None
        thread.join(PATIENCE_S)
        row = self.ask("GET", "/api/v1/lessons")[1]["lesson"]
        assert row["state"] not in ("uploading", "learning")
        return dict(row)

    def left(self) -> list[Path]:
        """Everything that lies in the folder of uploads."""
        return list((self.home / "uploads").rglob("*"))


@pytest.fixture
def desk(null_bundle: Bundle, tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(mode: str = "teaches", token: str = "") -> Desk:
        desks.append(Desk(null_bundle, tmp_path, mode, token))
        desks[-1].server.start()
        return desks[-1]

    yield make
    for one in desks:
        one.server.stop(0.0)
        assert one.left() == [], "no picture stays"


def test_pictures_become_a_task_that_is_answered(desk: Callable[..., Desk], null_bundle: Bundle) -> None:
    """Announced, sent, learnt beside an edge that streams; it hears of the task, and the pictures are gone."""
    one = desk()
    status, lesson = one.begin(source="my birds")
    assert (status, lesson["state"], lesson["total"]) == (201, "uploading", 3)
    with StreamingEdge(one.server.urls[0], null_bundle) as edge:
        edge.wait_connected()
        for path in ("wren/1.jpg", "wren/2.jpg", "鳥/1.jpg"):
            assert one.send(lesson["id"], path)[0] == 200
        assert one.ask("POST", f"/api/v1/lessons/{lesson['id']}/start")[0] == 202
        edge.stream(2)
        assert one.server.admin.figures()["lesson"]["state"] == "learning"
        one.go.touch()
        done = one.wait_over()
        edge.wait(lambda: bool(edge.of(TasksNow)))
        assert edge.of(TasksNow)[-1].tasks[-1].name == "birds"
        assert not edge.session.account.dropped
    assert (done["state"], done["version"], done["kept"], done["pictures"]) == ("done", 1, True, 3)
    assert done["notes"] == ["wren/1.jpg", "wren/2.jpg", "鳥/1.jpg"]
    assert one.left() == []
    own = one.ask("GET", "/api/v1/tasks")[1]["own"]
    assert [(task["name"], task["current"], task["versions"]) for task in own] == [("birds", 1, [1])]
    assert [event.what for event in one.server.admin.events.after(0) if event.kind == "lesson"] == ["done"]


@pytest.mark.parametrize(("mode", "words"), [("fails", "one class, 'a'"), ("dies", "without a result"), ("", "exit")])
def test_a_lesson_that_fails_says_why(desk: Callable[..., Desk], mode: str, words: str) -> None:
    one = desk(mode)
    lesson = one.begin()[1]["id"]
    one.send(lesson, "a/1.jpg")
    one.ask("POST", f"/api/v1/lessons/{lesson}/start")
    one.go.touch()
    row = one.wait_over()
    assert row["state"] == "failed"
    assert words in row["error"]
    assert "\n" not in row["error"]
    assert one.left() == []
    assert one.begin()[0] == 201, "the next one may come"


def test_what_cannot_end_well_is_refused_at_once(desk: Callable[..., Desk]) -> None:
    one = desk()
    for fields, status, words in (
        ({"task": "food101"}, 422, "comes with the bundle"),
        ({"task": "a/b"}, 422, "leave out"),
        ({"pictures": 0}, 422, "folder for each class"),
        ({"pictures": limits.LESSON_PICTURES_MAX + 1}, 413, "limit 20,000"),
        ({"bytes": limits.LESSON_BYTES_MAX + 1}, 413, "limit 2,147"),
        ({"kind": "magic"}, 422, "linear, mlp"),
        ({"backbones": ["other"]}, 422, "not served"),
        ({"pictures": "3"}, 400, "the body's pictures is '3': Expected `int`, got `str`"),
        ({"unknown": "false"}, 400, "the body's unknown is 'false': Expected `bool`, got `str`"),
        ({"backbones": "null"}, 400, "Expected `array`, got `str`"),
        ({"title": 7}, 400, "Expected `str`, got `int`"),
        ({"more": 1}, 400, "'more'"),
    ):
        answer = one.begin(**fields)
        assert answer[0] == status, fields
        assert words in answer[1]["error"]
    assert one.ask("GET", "/api/v1/lessons")[1]["lesson"] is None


def test_a_full_disk_is_told_before_and_during(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    one = desk()
    usage = lessons_module.shutil.disk_usage
    with monkeypatch.context() as patch:
        patch.setattr(lessons_module.shutil, "disk_usage", lambda path: usage(path)._replace(free=10_000_000))
        status, body = one.begin(bytes=1_000_000)
        assert (status, "disk has 10" in body["error"]) == (507, True)
    lesson = one.begin()[1]["id"]

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        status, body = one.send(lesson, "a/1.jpg")
    assert (status, "disk is full" in body["error"]) == (507, True)
    assert one.left() == []
    status, body = one.send(lesson, "a/2.jpg")
    assert (status, "disk is full" in body["error"]) == (409, True)


def test_more_than_announced_is_refused(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    one = desk()
    lesson = one.begin(pictures=2, bytes=5_000)[1]["id"]
    assert one.send(lesson, "a/1.jpg", b"x" * 3_000)[0] == 200
    assert one.send(lesson, "a/1.jpg", b"x" * 4_000)[0] == 200, "sent again, it takes the place of the first"
    assert one.send(lesson, "a/2.jpg", b"x" * 1_001)[0] == 413
    assert one.send(lesson, "a/2.jpg", b"x" * 1_000)[0] == 200
    assert one.send(lesson, "a/3.jpg", b"")[0] == 413
    monkeypatch.setattr(limits, "PICTURE_BYTES_MAX", 100)
    status, body = one.send(lesson, "a/2.jpg", b"x" * 101)
    assert (status, "limit 100" in body["error"]) == (413, True)


@pytest.mark.parametrize(
    "path",
    [
        "../a/1.jpg", "a/../../1.jpg", "/etc/1.jpg", "a//1.jpg", "a/.1.jpg", "1.jpg", "a/b/c/d/1.jpg", "a/1.txt",
        "a\\b/1.jpg", "a/" + "ü" * 101 + ".jpg", "a/\n.jpg", "",
    ],
)  # fmt: skip
def test_a_picture_cannot_go_elsewhere(path: str) -> None:
    with pytest.raises(RequestRefused):
        picture_path(path)


def test_paths_that_try_over_http(desk: Callable[..., Desk]) -> None:
    one = desk()
    lesson = one.begin()[1]["id"]
    for path in ("%2e%2e/%2e%2e/x.jpg", "..%2f..%2fx.jpg", "a/%00.jpg", "%2ftmp/x.jpg"):
        connection = http.client.HTTPConnection(one.server.http_url.partition("://")[2], timeout=20)
        connection.request("PUT", f"/api/v1/lessons/{lesson}/pictures/{path}", b"x")
        assert connection.getresponse().status in (404, 405, 422)
        connection.close()
    assert [file for file in one.left() if file.suffix == ".jpg"] == []


def test_one_lesson_at_a_time(desk: Callable[..., Desk]) -> None:
    """The second is told which comes first; once that is cancelled, it may come."""
    one = desk()
    lesson = one.begin()[1]["id"]
    one.send(lesson, "a/1.jpg")
    status, body = one.begin(task="fish")
    assert (status, "birds comes first" in body["error"]) == (409, True)
    assert one.ask("DELETE", f"/api/v1/lessons/{lesson}")[1]["state"] == "cancelled"
    assert one.left() == []
    assert one.send(lesson, "a/2.jpg")[0] == 409
    assert one.begin(task="fish")[0] == 201
    assert one.send(lesson, "a/2.jpg")[0] == 404


def test_a_cancelled_process_ends(desk: Callable[..., Desk]) -> None:
    one = desk()
    lesson = one.begin()[1]["id"]
    one.send(lesson, "a/1.jpg")
    one.ask("POST", f"/api/v1/lessons/{lesson}/start")
    assert one.ask("DELETE", f"/api/v1/lessons/{lesson}")[1]["state"] == "cancelled"
    assert one.wait_over()["state"] == "cancelled"
    assert "birds" not in [row["name"] for row in one.server.admin.task_table()]


def test_the_administrators_token_guards_all_of_it(desk: Callable[..., Desk]) -> None:
    one = desk(token="right")
    lesson = one.begin()[1]["id"]
    for method, path in (
        ("GET", ""), ("POST", ""), ("PUT", f"/{lesson}/pictures/a/1.jpg"), ("POST", f"/{lesson}/start"),
        ("DELETE", f"/{lesson}"),
    ):  # fmt: skip
        for token in ("", "wrong"):
            assert one.ask(method, f"/api/v1/lessons{path}", token=token)[0] == 401
    assert one.server.lessons.row()["state"] == "uploading"  # type: ignore[index]


class _Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pictures_that_stop_coming_are_removed(null_bundle: Bundle, tmp_path: Path) -> None:
    time = _Time()
    lessons = Lessons(null_bundle, put=lambda *_: {}, tell=lambda *_, **__: None, folder=tmp_path / "u", clock=time)
    lesson = lessons.begin("birds", ["null"], pictures=2, size=100)["id"]
    time.now = limits.LESSON_IDLE_S
    lessons.add_picture(lesson, "a/1.jpg", b"x")
    time.now += limits.LESSON_IDLE_S
    lessons.sweep()
    assert lessons.row()["state"] == "uploading"  # type: ignore[index]
    time.now += 1
    lessons.sweep()
    row = lessons.row()
    assert row is not None
    assert (row["state"], "10 minutes" in row["error"]) == ("failed", True)
    assert list((tmp_path / "u").iterdir()) == []


def test_nobody_learns_from_half_a_picture(
    null_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is still being written when the lesson starts is not there, and its sender is told."""
    lessons = Lessons(null_bundle, put=lambda *_: {}, tell=lambda *_, **__: None, folder=tmp_path)
    monkeypatch.setattr(lessons, "_learn", lambda lesson: None)
    lesson = lessons.begin("birds", ["null"], pictures=2, size=100)["id"]
    write, seen = Path.write_bytes, []

    def slowly(path: Path, data: bytes) -> int:
        write(path, data[:2])
        with pytest.raises(RequestRefused, match="has no pictures") if data == b"first" else contextlib.nullcontext():
            lessons.start(lesson)
        seen.append([file.name for file in tmp_path.glob("lesson-*/pictures/*/*")])
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", slowly)
    assert lessons.add_picture(lesson, "a/1.jpg", b"first")["received"] == 1
    with pytest.raises(RequestRefused, match="takes no pictures, it is learning"):
        lessons.add_picture(lesson, "a/2.jpg", b"second")
    assert seen == [[], ["1.jpg"]]
    assert [file.name for file in tmp_path.glob("lesson-*/pictures/*/*")] == ["1.jpg"]


@pytest.mark.parametrize("late", [False, True])
def test_a_cancelled_lesson_serves_nothing(
    null_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Also when its heads were read already; once they are being put in place, a cancel is refused."""
    served: list[str] = []

    def put(task: str, heads: object) -> dict[str, Any]:
        if late:
            with pytest.raises(RequestRefused, match="is learnt and being put in place"):
                lessons.cancel(lesson)
        served.append(task)
        return {"version": 1, "kept": True}

    def read(out: Path) -> list[object]:
        if not late:
            assert lessons.cancel(lesson)["state"] == "cancelled"
        return []

    lessons = Lessons(null_bundle, put=put, tell=lambda *_, **__: None, folder=tmp_path)
    monkeypatch.setattr(lessons, "_run", lambda lesson: Done(1, [], [], [], 0))
    monkeypatch.setattr(lessons_module, "read_heads", read)
    lesson = lessons.begin("birds", ["null"], pictures=1, size=100)["id"]
    lessons.add_picture(lesson, "a/1.jpg", b"x")
    lessons.start(lesson)
    assert lessons._thread is not None
    lessons._thread.join(PATIENCE_S)
    assert (served, lessons.row()["state"]) == ((["birds"], "done") if late else ([], "cancelled"))  # type: ignore[index]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_behind_goes(null_bundle: Bundle, tmp_path: Path) -> None:
    """But not what belongs to one that lives."""
    for name in ("lesson-dead", "lesson-alive"):
        (tmp_path / name / "pictures").mkdir(parents=True)
    with (tmp_path / "lesson-alive" / "lock").open("a") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        Lessons(null_bundle, put=lambda *_: {}, tell=lambda *_, **__: None, folder=tmp_path).sweep_leftovers()
        assert [path.name for path in tmp_path.iterdir()] == ["lesson-alive"]


def test_many_pictures_at_once(desk: Callable[..., Desk]) -> None:
    """From several connections, all of them arrive."""
    one = desk()
    lesson = one.begin(pictures=40)[1]["id"]
    answers: list[int] = []

    def send(numbers: range) -> None:
        answers.extend(one.send(lesson, f"{n % 2}/{n}.jpg")[0] for n in numbers)

    threads = [threading.Thread(target=send, args=(range(k, 40, 8),)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 40
    assert one.ask("GET", "/api/v1/lessons")[1]["lesson"]["done"] == 40
    assert len([file for file in one.left() if file.suffix == ".jpg"]) == 40


def test_own_tasks_tell_versions_and_worth(desk: Callable[..., Desk]) -> None:
    """Removed ones stay in the list, so that they can be taken back."""
    one = desk()
    store = HeadStore(one.home / "heads")
    head = {"weight": np.zeros((2, WIDTH), np.float32), "bias": np.array([0, 1], np.float32)}
    for accuracy in (81.0, 92.5):
        entry = HeadFile(
            task="fish", backbone="null", classes=2, labels="fish", names=["a", "b"], accuracy_codec=accuracy,
            accuracy_interval=[accuracy - 5, accuracy + 5],
        )  # fmt: skip
        store.save("fish", [pack_head(entry, head)])
    store.remove("fish")
    (row,) = one.ask("GET", "/api/v1/tasks")[1]["own"]
    assert (row["name"], row["current"], row["versions"]) == ("fish", 0, [1, 2])
    assert (row["heads"][0]["accuracy"], row["heads"][0]["interval"]) == (92.5, [87.5, 97.5])
    assert one.ask("POST", "/api/v1/tasks/fish/rollback", {"version": 1})[0] == 200
    assert one.ask("GET", "/api/v1/tasks")[1]["own"][0]["current"] == 1
