"""Teaching from the camera's page in a real browser: by mouse, finger and keyboard, and every failure in words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analytics_server.front import FrontSettings
from analytics_server.server import Server
from pipeline.bundle import Bundle
from pipeline.runtime.engine import Engine
from tasks.example_store import ExampleStore
from tests.browser.test_watch import AXE, CLIP_SHOWS, serious_faults, wait_for_encoder, wait_for_text

Open = Callable[..., Any]
Teacher = Callable[..., Server]
ENOUGH = r"(8|9|\d\d) views"


@pytest.fixture
def teacher(engine: Engine, tmp_path: Path) -> Iterator[Teacher]:
    """A server that keeps what it is taught in `tmp_path / "heads"`, unless `keeps` is false."""
    servers = []

    def start(*, admin_token: str = "", keeps: bool = True) -> Server:
        server = Server(
            Bundle.open(), [f"ipc://{tmp_path}/s"], "127.0.0.1:0", engines=[engine], admin_token=admin_token,
            front=FrontSettings(), heads_dir=tmp_path / "heads" if keeps else None,
        )  # fmt: skip
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop(0.0)


def shoot(page: Any, name: str) -> None:
    """FRANKENSTREAM_SCREENSHOTS names a folder that keeps what was seen."""
    if folder := os.environ.get("FRANKENSTREAM_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png")
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


def hold(page: Any, *, name: str = "") -> None:
    """By mouse, until there is enough."""
    page.locator("#teach-hold").scroll_into_view_if_needed()
    page.hover("#teach-hold")
    page.mouse.down()
    wait_for_text(page, "#teach-hold-text", ENOUGH)
    if name:
        shoot(page, name)
    page.mouse.up()
    page.wait_for_selector("#teach-form:not([hidden])")


def label(page: Any, text: str) -> None:
    page.fill("#teach-label", text)
    page.keyboard.press("Enter")
    wait_for_text(page, "#teach-say", "Learnt")


def test_a_thing_is_taught_recognised_told_from_another_and_forgotten(
    teacher: Teacher, open_page: Open, tmp_path: Path
) -> None:
    server = teacher()
    page = open_page(f"{server.http_url}/?source=camera", permissions=["camera"])
    wait_for_text(page, "#labels", "pizza")
    hold(page, name="teach-holding-phone")
    shoot(page, "teach-naming-phone")
    label(page, "my lunch")
    wait_for_text(page, "#teach-say", "“my lunch” alone.*show what it is not")
    wait_for_text(page, "#labels li[data-task=things]", "my lunch")

    page.click("#use-sample")
    page.evaluate("document.querySelector('video').currentTime = 8")
    page.focus("#teach-hold")
    page.keyboard.down(" ")
    wait_for_text(page, "#teach-hold-text", ENOUGH)
    page.keyboard.up(" ")
    page.wait_for_selector("#teach-form:not([hidden])")
    wait_for_text(page, "#teach-chips", "my lunch")
    label(page, "on the road")
    wait_for_text(page, "#teach-say", "apart|few views|alike")
    page.click("#use-camera")
    wait_for_text(page, "#labels li[data-task=things]", "my lunch")
    assert not list(tmp_path.glob("heads/**/*.jpg"))
    assert {file.suffix for file in (tmp_path / "heads/things/examples").iterdir()} == {".safetensors"}

    page.click("#teach-details summary")
    shoot(page, "teach-known-phone")
    road = page.query_selector("#teach-known button[aria-label^='Forget on the road']")
    for text in ("my lunch", "on the road"):
        forget = page.get_by_role("button", name=f"Forget {text}")
        forget.click()
        assert forget.inner_text() == "Really forget?"
        forget.click()
        wait_for_text(page, "#teach-say", f"“{text}” is forgotten")
        assert forget.count() == 0
        if text == "my lunch":
            assert road.evaluate("button => button.isConnected"), "the next button to press stays the same one"
    page.wait_for_function("() => !document.querySelector('#labels li[data-task=things]')")
    page.wait_for_function("() => !document.querySelector('#tasks input[value=things]')")
    assert "things" not in {row["name"] for row in server.admin.task_table()}
    assert not list((tmp_path / "heads/things/examples").iterdir())


def test_a_finger_holds_the_button(teacher: Teacher, open_page: Open) -> None:
    """And slipping off it neither ends the hold nor scrolls the page."""
    page = open_page(f"{teacher().http_url}/?source=camera", permissions=["camera"], has_touch=True, is_mobile=True)
    wait_for_text(page, "#labels", "pizza")
    page.locator("#teach-hold").scroll_into_view_if_needed()
    box = page.locator("#teach-hold").bounding_box()
    finger = page.context.new_cdp_session(page)
    before = page.evaluate("scrollY")

    def touch(kind: str, *points: tuple[float, float]) -> None:
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    x, y = box["x"] + 20, box["y"] + 20
    touch("touchStart", (x, y))
    wait_for_text(page, "#teach-hold-text", "view")
    touch("touchMove", (x, y - 120))
    wait_for_text(page, "#teach-hold-text", ENOUGH)
    assert page.evaluate("scrollY") == before
    touch("touchEnd")
    page.wait_for_selector("#teach-form:not([hidden])")  # what is to be filled in comes into view: that may scroll
    page.click("#teach-discard")
    assert page.is_hidden("#teach-form")


def test_a_server_that_wants_its_administrator_says_so_and_takes_the_token(teacher: Teacher, open_page: Open) -> None:
    page = open_page(f"{teacher(admin_token='admin-token').http_url}/", expected=("401",))
    wait_for_encoder(page)
    page.hover("#teach-hold")
    page.mouse.down()
    wait_for_text(page, "#teach-say", "Only the administrator")
    page.mouse.up()
    shoot(page, "teach-token-phone")
    page.fill("#teach-token", "admin-token")
    page.keyboard.press("Enter")
    wait_for_text(page, "#teach-say", "hold the button again")
    hold(page)


def test_what_cannot_be_taught_is_said_in_words(teacher: Teacher, open_page: Open) -> None:
    page = open_page(f"{teacher(keeps=False).http_url}/?source=none", expected=("422",))
    wait_for_text(page, "#status", "Ready")
    page.hover("#teach-hold")
    page.mouse.down()
    wait_for_text(page, "#teach-say", "Start the camera first")
    page.mouse.up()
    page.click("#use-sample")
    wait_for_text(page, "#labels", CLIP_SHOWS)
    page.click("#teach-hold")
    wait_for_text(page, "#teach-say", "8 are needed. Hold it for two seconds or longer")
    page.check("#send-pictures")
    page.click("#teach-hold")
    wait_for_text(page, "#teach-say", "untick “Send pictures”")
    page.uncheck("#send-pictures")
    hold(page)
    page.fill("#teach-label", "a thing")
    page.keyboard.press("Enter")
    wait_for_text(page, "#teach-say", "This server keeps no tasks")


def test_a_name_that_is_taken_is_refused_and_nothing_is_lost(teacher: Teacher, open_page: Open, tmp_path: Path) -> None:
    page = open_page(f"{teacher().http_url}/", viewport={"width": 1280, "height": 900}, expected=("422",))
    wait_for_encoder(page)
    hold(page)
    page.fill("#teach-task", "food101")
    page.fill("#teach-label", "x")
    page.click("#teach-form button[type=submit]")
    wait_for_text(page, "#teach-say", "comes with the bundle")
    shoot(page, "teach-refused-desktop")
    page.fill("#teach-task", "mine")
    label(page, "street")
    assert ExampleStore(tmp_path / "heads/mine/examples").folder.is_dir()


def test_axe_finds_no_serious_fault_while_it_is_taught(teacher: Teacher, open_page: Open) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm ci in web/")
    page = open_page(f"{teacher().http_url}/", color_scheme="dark")
    wait_for_encoder(page)
    hold(page)
    page.evaluate("document.querySelector('#teach-details').open = true")
    assert serious_faults(page) == []
    shoot(page, "teach-naming-dark")
