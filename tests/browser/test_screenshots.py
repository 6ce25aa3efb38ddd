"""Screenshots of every state at phone and desktop size, light and dark; nothing may stick out sideways.

FRANKENSTREAM_SCREENSHOTS names a folder that keeps them, for looking at.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analytics_server.front import FrontSettings
from analytics_server.server import Server
from tests.browser.test_watch import CLIP_SHOWS, GONE, wait_for_text

SIZES = {"phone": (390, 844), "small": (320, 640), "desktop": (1280, 900)}
COUNT_POINTS = """() => {
    window.points = 0;
    const count = (changes) => { window.points += changes.length; };
    const chart = document.querySelector('#operator .chart');
    new MutationObserver(count).observe(chart, { attributeFilter: ['aria-label'] });
}"""
Open = Callable[..., Any]


@pytest.fixture
def shoot(tmp_path: Path) -> Callable[[Any, str], None]:
    folder = Path(os.environ.get("FRANKENSTREAM_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def shoot(page: Any, name: str) -> None:
        page.screenshot(path=str(folder / f"{name}.png"), full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0

    return shoot


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_states(server: Server, open_page: Open, shoot: Callable[[Any, str], None], size: str, scheme: str) -> None:
    width, height = SIZES[size]
    page = open_page(
        f"{server.http_url}?source=none", viewport={"width": width, "height": height}, color_scheme=scheme,
        permissions=["camera"],
    )  # fmt: skip
    wait_for_text(page, "#status", "Ready")
    shoot(page, f"ready-{size}-{scheme}")
    page.click("#use-sample")
    wait_for_text(page, "#labels", CLIP_SHOWS)
    wait_for_text(page, "#figure-fps", r"[1-9]")
    wait_for_text(page, "#figure-bytes", "kB")
    shoot(page, f"live-{size}-{scheme}")
    page.eval_on_selector("#details", "details => { details.open = true; }")
    wait_for_text(page, "#counts", "captured")
    shoot(page, f"details-{size}-{scheme}")
    page.click("#tab-operator")
    wait_for_text(page, "#operator [aria-label=Sessions]", "web page")
    page.wait_for_selector("#operator .chart canvas")
    page.evaluate(COUNT_POINTS)
    page.wait_for_function("() => points >= 3")
    shoot(page, f"operator-{size}-{scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_troubles(
    make_server: Callable[..., Server], open_page: Open, shoot: Callable[[Any, str], None], scheme: str
) -> None:
    with make_server(front=FrontSettings(token="right-token")) as server:
        page = open_page(server.http_url, color_scheme=scheme, expected=GONE)
        page.wait_for_selector("#token-form:not([hidden])")
        shoot(page, f"token-phone-{scheme}")
        page.evaluate(
            "() => { const refuse = () => Promise.reject(new DOMException('', 'NotAllowedError'));"
            " navigator.mediaDevices.getUserMedia = refuse; }"
        )
        page.click("#use-camera")
        wait_for_text(page, "#error", "not allowed")
        page.fill("#token", "right-token")
        page.keyboard.press("Enter")
        page.click("#use-sample")
        wait_for_text(page, "#labels", CLIP_SHOWS)
    wait_for_text(page, "#age", r"\d s old")
    shoot(page, f"gone-phone-{scheme}")
