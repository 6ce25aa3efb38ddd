"""`frankenstream tasks`: pictures in, a task out, on a small bundle with an engine that sees colours."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analytics_server.server import Server
from frankenstream.cli import run
from frankenstream.cli.tasks import adding, trying
from pipeline.bundle import Bundle, home_folder
from tasks.store import HeadStore
from tests.bundles import backbone, random_bundle
from tests.colour_engine import WIDTH, ColourEngine
from tests.streaming import StreamingEdge

pytest.importorskip("scipy")

COLOURS = {"rot": (220, 30, 30), "синий": (30, 30, 220), "緑": (30, 200, 30)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    only = backbone("null", alias="small", pooled_width=WIDTH, default=True)
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    random_bundle(folder, backbones=(only,))
    return folder


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setenv("FRANKENSTREAM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    for module in (adding, trying):
        monkeypatch.setattr(module, "build_engine", lambda *args, **settings: ColourEngine())
    for command in ("ADD", "TEACH", "TEST", "LIST", "INFO"):
        monkeypatch.setenv(f"FRANKENSTREAM_TASKS_{command}_BUNDLE", str(bundle))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten noisy pictures of each colour, in folders; among them what systems and accidents leave behind."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures") / "farben"
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(10):
            noisy = np.clip(np.array(colour) + rng.normal(0, 25, (60, 80, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{number}.{'png' if number % 2 else 'jpg'}")
    (folder / "rot" / "cut off.jpg").write_bytes((folder / "rot" / "0.jpg").read_bytes()[:300])
    (folder / "rot" / "text.jpg").write_text("no picture")
    (folder / "rot" / "._0.jpg").write_bytes(b"\0" * 30)
    (folder / "empty").mkdir()
    return folder


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_the_life_of_a_task(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Added, asked, added again, rolled back, exported, removed, taken back, sent to another name."""
    assert run(["tasks", "add", "farben", str(pictures)]) == 0
    out = said(capsys)
    for words in (
        "farben: 32 pictures of 3 classes", "accuracy 100.0", "95 % interval", "not readable: rot/cut off.jpg",
        "not readable: rot/text.jpg", "no pictures in empty", "ms a frame", "farben version 1 is in",
    ):  # fmt: skip
        assert words in out, out
    assert run(["tasks", "test", "farben", str(pictures / "緑" / "1.png"), "--top-k", "1"]) == 0
    assert "緑" in said(capsys)
    assert run(["tasks", "add", "farben", str(pictures), "--kind", "nearest", "--views", "1"]) == 0
    assert run(["tasks", "list"]) == 0
    assert "farben 2 3 small (nearest) 100.0" in said(capsys)
    assert run(["tasks", "rollback", "farben"]) == 0
    assert "farben is version 1 again (before: 2)" in said(capsys)
    assert run(["tasks", "info", "farben"]) == 0
    assert "rot, синий, 緑" in said(capsys)
    assert run(["tasks", "export", "farben", str(tmp_path / "farben.zip")]) == 0
    assert run(["tasks", "add", "色", str(tmp_path / "farben.zip")]) == 0
    assert run(["tasks", "remove", "farben"]) == 0
    assert HeadStore().names() == ["色"]
    assert run(["tasks", "rollback", "farben"]) == 0
    assert run(["tasks", "remove", "farben", "--purge"]) == 0
    assert run(["tasks", "rollback", "farben"]) == 2
    assert "there is no task 'farben' of yours: you have 色" in said(capsys)


def test_a_head_on_the_feature_map(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Added and asked like any other; what is kept for later are pooled features, which cannot teach one."""
    assert run(["tasks", "add", "farben", str(pictures), "--kind", "map", "--views", "1"]) == 0
    assert "never answers 'unknown'" in said(capsys)
    assert run(["tasks", "test", "farben", str(pictures / "緑" / "1.png"), "--top-k", "1"]) == 0
    assert "緑" in said(capsys)
    assert run(["tasks", "teach", "farben", "--kind", "map"]) == 3
    assert "heads of kind map learn from pictures" in said(capsys)


def test_a_running_server_takes_it_over(pictures: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While an edge streams; a few-shot task from that edge, too."""
    opened = Bundle.open(bundle)
    with (
        Server(
            opened, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=[ColourEngine()], heads_dir=home_folder() / "heads"
        ) as server,
        StreamingEdge(server.urls[0], opened) as edge,
    ):
        edge.stream(1)
        address = ["--server", server.http_url]
        assert run(["tasks", "add", "farben", str(pictures), *address]) == 0
        assert "serves farben version 1 on null, kept across restarts" in said(capsys)
        import threading

        stop = threading.Event()

        def stream() -> None:
            while not stop.is_set():
                edge.stream(1)

        thread = threading.Thread(target=stream)
        thread.start()
        try:
            for label in ("шум", "more noise"):
                command = [
                    "tasks",
                    "capture",
                    "probe",
                    label,
                    "--frames",
                    "8",
                    "--every",
                    "0",
                    *address,
                ]
                assert run(command) == 0, said(capsys)
            assert "probe: 8 frames of 'more noise'; in all шум 8, more noise 8" in said(capsys)
            assert run(["tasks", "teach", "probe", *address]) == 0
            assert "serves probe version 1" in said(capsys)
        finally:
            stop.set()
            thread.join()
        assert run(["tasks", "list", *address]) == 0
        assert "probe null 3 1 linear home" in said(capsys)
        assert not edge.session.account.dropped


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["add", "food101", "{pictures}"], 2, "task food101 comes with FrankenStream"),
        (["add", "a/b", "{pictures}"], 2, "has '/' in it"),
        (["add", "birds", "/nowhere"], 3, "no data set at /nowhere"),
        (["add", "birds", "{pictures}/empty"], 3, "no pictures"),
        (["add", "birds", "{pictures}/rot"], 3, "no labelled pictures"),
        (["add", "birds", "{pictures}", "--kind", "forest"], 2, "kind is 'forest'"),
        (["add", "birds", "{pictures}", "--title", "t" * 129], 2, "title is 129 characters, limit 128: shorten it"),
        (["teach", "birds", "--title", "t" * 129], 2, "title is 129 characters, limit 128: shorten it"),
        (["add", "birds", "{pictures}", "--backbone", "vit"], 5, "vit"),
        (["add", "birds", "{pictures}", "--server", "tcp://127.0.0.1:5555"], 2, "expected its admin interface"),
        (["add", "birds", "{pictures}", "--server", "http://127.0.0.1:9"], 4, "no server answers"),
        (["test", "birds", "x.jpg"], 2, "there is no task 'birds' of yours: you have none"),
        (["teach", "birds"], 3, "task birds has no examples on small"),
        (["capture", "birds", " ", "--server", "http://127.0.0.1:9"], 2, "label is ' '"),
        (["remove", "birds"], 2, "there is no task 'birds' of yours"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], code: int, words: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tasks", *(word.format(pictures=pictures) for word in arguments)]) == code
    assert words in said(capsys)


def test_one_class_and_one_picture_a_class(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One class is a detector by distance, or refused with what to do; single pictures are learnt and said."""
    one, few = tmp_path / "one", tmp_path / "few"
    one.mkdir()
    os.symlink(pictures / "緑", one / "緑")
    for name in COLOURS:
        (few / name).mkdir(parents=True)
        (few / name / "1.png").write_bytes((pictures / name / "1.png").read_bytes())
    (one / "real").mkdir()
    for number in range(1, 10, 2):
        (one / "real" / f"{number}.png").write_bytes((pictures / "緑" / f"{number}.png").read_bytes())
    assert run(["tasks", "add", "one", str(one / "real"), "--no-unknown"]) == 3
    (tmp_path / "single").mkdir()
    (one / "real").rename(tmp_path / "single" / "緑")
    capsys.readouterr()
    assert run(["tasks", "add", "one", str(tmp_path / "single"), "--no-unknown"]) == 3
    assert "has one class, '緑': a head needs two to tell apart" in said(capsys)
    assert run(["tasks", "add", "few", str(few)]) == 0
    out = said(capsys)
    assert "3 classes have one picture" in out
    assert "accuracy not measured" in out


def test_a_second_add_of_the_same_name_is_refused_while_the_first_runs(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with HeadStore().lock("farben"):
        assert run(["tasks", "add", "farben", str(pictures)]) == 2
    assert "is being written by another process" in said(capsys)
