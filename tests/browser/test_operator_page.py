"""The operator's page in a real browser: what was recognised, tasks from a folder of pictures, recordings; access."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from analytics_server.server import Server
from pipeline.bundle import Bundle
from pipeline.runtime.engine import Engine
from pipeline.wire.events import Answered
from recordings.recorder import Made, Recorder
from recordings.topics import SESSION, THUMBNAIL, Facts, SessionStart, Thumbnail
from tests.browser.test_watch import AXE, GONE, PATIENCE_MS, serious_faults, wait_for_text
from tests.recordings.made import FPS, put_frame
from tests.streaming import StreamingEdge, jpeg

pytest.importorskip("scipy")

Open = Callable[..., Any]
SIZES = {"phone": (390, 844), "small": (320, 640), "desktop": (1280, 900)}
SECONDS = 40
TITLE = "<img src=x onerror=document.title='no'>"
"""Whatever a client calls itself is text."""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 40 s with thumbnails, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("records")
    recorder = Recorder(thread=False)
    track = recorder.record(folder / "porch.mcap", Facts(source=TITLE, role="edge"))
    start = SessionStart(session="s1", client=TITLE, server="server")
    track.put(SESSION, 0.0, lambda: Made(msgspec.json.encode(start)), cost=100)
    for number in range(round(SECONDS * FPS)):
        put_frame(recorder, track, number, bytes(1_000 + number), dropped=number % 10 == 9)
        if number % 10 == 0:
            picture = Thumbnail(captured_ns=0, frame=number, jpeg=jpeg())
            track.put(THUMBNAIL, number / FPS, lambda one=picture: Made(one.encode(), None, one.frame), cost=10)
        if number % 5 == 4:
            recorder.work()
    recorder.close()
    (folder / "text.mcap").write_text("no recording")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and blue ones, eight of each, and one that is cut off."""
    from PIL import Image

    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures") / "farben"
    for name, colour in (("rot", (220, 30, 30)), ("<b>青", (30, 30, 220))):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            noisy = np.clip(np.array(colour) + rng.normal(0, 40, (64, 80, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{number}.jpg")
    (folder / "rot" / "cut off.jpg").write_bytes((folder / "rot" / "0.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("left aside")
    return folder


@pytest.fixture(scope="module")
def make_desk(
    engine: Engine, engines_folder: Path, records: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Server]:
    def make(**settings: Any) -> Server:
        place = tmp_path_factory.mktemp("desk")
        settings = {"heads_dir": place / "heads", "record_dir": records, "cache_dir": engines_folder, **settings}
        return Server(Bundle.open(), [f"ipc://{place}/s"], "127.0.0.1:0", engines=[engine], **settings)

    return make


@pytest.fixture(scope="module")
def desk(make_desk: Callable[..., Server]) -> Iterator[Server]:
    with make_desk() as server:
        yield server


def opened(open_page: Open, server: Server, view: str, **settings: Any) -> Any:
    page = open_page(f"{server.http_url}#operator", **settings)
    wait_for_text(page, "#operator .status", "ready")
    page.click(f"#operator-tab-{view}")
    return page


def choose(page: Any, folder: Path, name: str) -> None:
    page.set_input_files("#choose-folder", str(folder))
    page.wait_for_selector("#task-name", timeout=PATIENCE_MS)
    page.fill("#task-name", name)


def test_what_a_session_last_recognised(desk: Server, open_page: Open) -> None:
    """Labels with score and age, over the same stream of events; while no frames come, the age grows."""
    page = opened(open_page, desk, "Live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    bundle = Bundle.open()
    latent, side = bundle.edge_spec.latent, bundle.edge_spec.preprocess.size // bundle.edge_spec.latent.stride
    grey = bundle.latent_codec().encode(np.zeros((latent.channels, side, side), np.int16), 1)
    with StreamingEdge(desk.urls[0], bundle, client="<i>kitchen") as edge:
        edge.wait_connected()
        wait_for_text(page, "#operator [aria-label=Sessions]", "kitchen.*nothing yet")
        answer = edge.wait_ended(edge.send(grey))
        assert isinstance(answer, Answered)
        (food,) = [one.labels[0].name for one in answer.tasks if one.task == "food101"]
        wait_for_text(page, "#operator .recognised", rf"food101{food}\d+ %")
        wait_for_text(page, "#operator .recognised li.old", r"\d s ago")
        assert page.locator("#operator .recognised li").count() == len(answer.tasks)
    assert asked == [], "nothing is polled"


def test_a_folder_becomes_a_task(desk: Server, pictures: Path, open_page: Open) -> None:
    """Chosen, named, sent, learnt beside the server, served; then removed and taken back."""
    page = opened(open_page, desk, "Tasks")
    choose(page, pictures, "farben")
    shown = page.inner_text(".add-task")
    assert "17 pictures of 2 classes" in shown
    assert "1 file is no picture" in shown
    assert "<b>青" in page.inner_text(".class-chips")
    page.click(".add-task form button.main")
    wait_for_text(page, ".add-task .lesson", "features|learning|starting")
    wait_for_text(page, ".lesson-result", "farben version 1 answers now")
    result = page.inner_text(".lesson-result")
    assert re.search(r"accuracy\s+\d+\.\d % \[\d+\.\d, \d+\.\d\] of \d held-out", result)
    assert "cut off.jpg" in page.inner_text("[aria-label='Broken pictures']")
    assert "removed from the server" in result
    assert list((desk.lessons._folder).rglob("*.jpg")) == []
    assert "farben" in [row["name"] for row in desk.admin.task_table()]

    own = "#operator [data-task=farben]"
    wait_for_text(page, own, "version 1")
    page.click(f"{own} button:has-text('Remove')")
    page.click("dialog button:has-text('Leave it')")
    assert "farben" in [row["name"] for row in desk.admin.task_table()]
    page.click(f"{own} button:has-text('Remove')")
    page.click("dialog button.main")
    wait_for_text(page, own, "removed")
    assert "farben" not in [row["name"] for row in desk.admin.task_table()]
    page.click(f"{own} button:has-text('Take back')")
    page.click("dialog button.main")
    wait_for_text(page, own, "version 1")
    assert "farben" in [row["name"] for row in desk.admin.task_table()]


def test_what_goes_wrong_with_a_lesson_is_said_in_words(
    desk: Server, pictures: Path, tmp_path: Path, open_page: Open
) -> None:
    page = opened(open_page, desk, "Tasks", expected=("422", "409"))
    (tmp_path / "leer").mkdir()
    (tmp_path / "leer" / "notes.txt").write_text("x")
    page.set_input_files("#choose-folder", str(tmp_path / "leer"))
    wait_for_text(page, ".add-task .error", "No pictures found")
    choose(page, pictures, "food101")
    page.click(".add-task form button.main")
    wait_for_text(page, ".add-task .error", "food101 comes with the bundle")
    broken = tmp_path / "kaputt" / "a"
    broken.mkdir(parents=True)
    for number in range(3):
        (broken / f"{number}.jpg").write_text("no picture")
    page.click(".add-task form button:has-text('Another folder')")
    choose(page, tmp_path / "kaputt", "kaputt")
    assert "One class" in page.inner_text(".add-task")
    page.click(".add-task form button.main")
    wait_for_text(page, ".add-task .error", "kaputt was not learnt: none of 3 pictures can be read")
    assert list((desk.lessons._folder).rglob("*.jpg")) == []


def test_a_lesson_is_cancelled(desk: Server, pictures: Path, open_page: Open) -> None:
    page = opened(open_page, desk, "Tasks", expected=("409",))
    choose(page, pictures, "nie")
    page.click(".add-task form button.main")
    page.click(".add-task .lesson button")
    wait_for_text(page, ".add-task .error", "nie was not learnt: it was cancelled")
    assert list((desk.lessons._folder).rglob("*.jpg")) == []
    assert "nie" not in [row["name"] for row in desk.admin.task_table()]


def test_a_recording_is_opened_and_scrubbed_through(desk: Server, open_page: Open) -> None:
    page = opened(open_page, desk, "Recordings")
    assert page.is_disabled(".file:has-text('text')")
    page.click(".file:has-text('porch')")
    page.wait_for_selector(".player .chart canvas", timeout=PATIENCE_MS)
    wait_for_text(page, ".player .results", "zebra")
    assert page.evaluate("document.title") == "FrankenStream"
    assert TITLE in page.inner_text(".player")

    def scrub(seconds: float) -> None:
        page.eval_on_selector(".scrub", "(s, at) => { s.value = at; s.dispatchEvent(new Event('input')); }", seconds)

    scrub(25.46)
    wait_for_text(page, ".player .state", r"Frame 254, answered")
    wait_for_text(page, ".player .moment", "12 of 12|3 of 3")
    page.wait_for_selector(".moment .picture img", timeout=PATIENCE_MS)
    page.click("[aria-label='Next frame']")
    wait_for_text(page, ".player .state", r"Frame 255, answered")
    for _ in range(4):
        page.click("[aria-label='Next frame']")
    wait_for_text(page, ".player .state", r"newest: frame 259, lost, no answer")
    page.focus(".scrub")
    page.keyboard.press("PageUp")
    wait_for_text(page, ".player .clock", r"0:3\d")
    page.click(".transport button:has-text('Play')")
    page.click(".transport button:has-text('Pause')")
    page.click(".player button:has-text('Closer')")
    wait_for_text(page, ".player", r"to 0:\d\d\. Click to go there")
    over = page.locator(".player .u-over").first
    over.click(position={"x": 20, "y": 20})
    page.click(".player button:has-text('Whole recording')")
    scrub(0)
    wait_for_text(page, ".player .clock", r"^0:00\.0 of 0:40")


def test_a_server_that_records_nothing_says_so(make_desk: Callable[..., Server], open_page: Open) -> None:
    with make_desk(record_dir=None) as server:
        page = opened(open_page, server, "Recordings")
        wait_for_text(page, "[aria-label=Recordings]", "--record DIR")


def test_nothing_is_shown_without_the_administrators_token(make_desk: Callable[..., Server], open_page: Open) -> None:
    with make_desk(admin_token="right") as server:
        page = open_page(f"{server.http_url}#operator", expected=("401", *GONE, "ERR_INCOMPLETE"))
        wait_for_text(page, "#operator .status", "token")
        assert page.locator("#operator [role=tab]:visible").count() == 0
        page.fill("#admin-token", "wrong")
        page.keyboard.press("Enter")
        wait_for_text(page, "#operator .status", "is wrong")
        page.fill("#admin-token", "right")
        page.keyboard.press("Enter")
        wait_for_text(page, "#operator .status", "ready")
        page.click("#operator-tab-Recordings")
        wait_for_text(page, "[aria-label=Recordings]", "porch")


def test_views_are_reached_by_keyboard(desk: Server, open_page: Open) -> None:
    page = opened(open_page, desk, "Live")
    page.focus("#operator-tab-Live")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "operator-tab-Tasks"
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".file", timeout=PATIENCE_MS)
    assert page.get_attribute("#operator-tab-Recordings", "aria-selected") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_view_looks_right_and_axe_finds_no_serious_fault(
    desk: Server, pictures: Path, open_page: Open, tmp_path: Path, size: str, scheme: str
) -> None:
    """FRANKENSTREAM_SCREENSHOTS names a folder that keeps the pictures; nothing sticks out sideways."""
    folder = Path(os.environ.get("FRANKENSTREAM_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    width, height = SIZES[size]
    page = opened(open_page, desk, "Live", viewport={"width": width, "height": height}, color_scheme=scheme)

    def look(name: str) -> None:
        page.screenshot(path=str(folder / f"operator-{name}-{size}-{scheme}.png"), full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        if size == "small" or not AXE.is_file():
            return
        assert serious_faults(page) == []

    page.wait_for_selector("#operator .chart canvas", timeout=PATIENCE_MS)
    look("live")
    page.click("#operator-tab-Tasks")
    wait_for_text(page, "#operator [aria-label='Served tasks']", "food101")
    look("tasks")
    choose(page, pictures, "farben")
    look("chosen")
    if page.locator("#operator [data-task=farben] button").count():
        page.click("#operator [data-task=farben] button >> nth=0")
        look("confirm")
        page.keyboard.press("Escape")
    page.click("#operator-tab-Recordings")
    page.click(".file:has-text('porch')")
    page.wait_for_selector(".player .chart canvas", timeout=PATIENCE_MS)
    wait_for_text(page, ".player .results", "zebra")
    look("recording")
