"""A lesson in a process of its own: what it says, what it leaves, and its errors in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from pipeline.bundle import Bundle
from tasks.head_file import read_head_entry
from tasks.lesson_process import Done, Failed, Order, Said, Step, carry_out, read_heads
from tasks.store import HeadStore
from tests.bundles import backbone, random_bundle
from tests.colour_engine import WIDTH, ColourEngine

pytest.importorskip("scipy")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    only = backbone("null", alias="small", pooled_width=WIDTH, default=True)
    return random_bundle(tmp_path_factory.mktemp("bundle") / "bundle", backbones=(only,))


@pytest.fixture
def order(tmp_path: Path, bundle: Bundle) -> Order:
    """Six pictures of each of two colours, and one that is none."""
    bundle.copy_to(tmp_path / "copy")
    rng = np.random.default_rng(0)
    for name, colour in (("rot", (220, 30, 30)), ("緑", (30, 200, 30))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            noisy = np.clip(np.array(colour) + rng.normal(0, 25, (60, 80, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "pictures" / name / f"{number}.png")
    (tmp_path / "pictures" / "rot" / "text.jpg").write_text("no picture")
    return Order(
        task="farben", pictures=str(tmp_path / "pictures"), source="my colours", out=str(tmp_path / "out"),
        bundle=str(tmp_path / "copy"), backbones=["null"], heads=str(tmp_path / "heads"),
    )  # fmt: skip


def carried_out(order: Order, **fields: Any) -> list[Said]:
    said: list[Said] = []
    changed = msgspec.structs.replace(order, **fields)
    carry_out(changed, said.append, make_engine=lambda *args, **settings: ColourEngine())
    return said


def test_it_says_how_it_goes_and_leaves_heads(order: Order, bundle: Bundle) -> None:
    said = carried_out(order)
    *steps, done = said
    assert isinstance(done, Done)
    assert all(isinstance(step, Step) for step in steps)
    assert steps[0] == Step("starting", 0, 1)
    assert Step("features", 13, 13) in steps
    (report,) = done.reports
    assert (report.backbone, report.classes, report.examples, report.held_out) == ("small", 2, 12, 2)
    assert report.accuracy is not None
    assert report.accuracy.low <= report.accuracy.value <= report.accuracy.high
    assert (done.broken_count, "rot/text.jpg" in done.broken[0]) == (1, True)
    (head,) = read_heads(Path(order.out))
    entry = read_head_entry(head.toml)
    assert (entry.task, entry.names, entry.codec_id) == ("farben", ["rot", "緑"], bundle.codec_id)
    assert "my colours" in entry.trained_on
    assert list(Path(order.heads).rglob("*.safetensors")) != [], "features stay, so that more can be added"


def test_a_server_that_keeps_nothing_gets_heads_all_the_same(order: Order) -> None:
    assert isinstance(carried_out(order, heads="")[-1], Done)
    assert len(read_heads(Path(order.out))) == 1


def test_errors_are_one_line_and_name_no_folder_of_the_server(order: Order, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "broken" / "a").mkdir(parents=True)
    (tmp_path / "broken" / "a" / "1.jpg").write_text("x")
    for fields, words in (
        ({"pictures": str(tmp_path / "none")}, "my colours has no pictures"),
        ({"pictures": str(tmp_path / "broken")}, "none of 1 pictures can be read"),
        ({"bundle": str(tmp_path / "away")}, "is not there"),
        ({"kind": "magic"}, "expected linear"),
        ({"backbones": ["other"]}, "choose one of small"),
    ):
        failed = carried_out(order, **fields)[-1]
        assert isinstance(failed, Failed)
        assert words in failed.error
        assert "\n" not in failed.error
        assert str(tmp_path / "none") not in failed.error


def test_a_second_writer_of_a_task_is_told_of_the_first(order: Order) -> None:
    with HeadStore(Path(order.heads)).lock("farben"):
        failed = carried_out(order)[-1]
    assert isinstance(failed, Failed)
    assert "is being written by another process" in failed.error


def test_broken_pictures_are_named_although_the_lesson_fails(order: Order, tmp_path: Path) -> None:
    """One class is left, and `unknown` is not wanted."""
    for path in (tmp_path / "pictures" / "緑").iterdir():
        path.write_text("no picture")
    failed = carried_out(order, unknown=False)[-1]
    assert isinstance(failed, Failed)
    assert "one class, 'rot'" in failed.error
    assert failed.broken_count == 7


def test_the_process_speaks_only_its_lines(order: Order, tmp_path: Path) -> None:
    """As a server starts it; here it fails, for want of a backbone."""
    path = tmp_path / "order.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(order, backbones=["other"])))
    ended = subprocess.run([sys.executable, "-m", "tasks.lesson_process", str(path)], capture_output=True, check=True)
    lines = [msgspec.json.decode(line, type=Said) for line in ended.stdout.splitlines()]
    assert isinstance(lines[-1], Failed)
    assert len(lines) == 2
