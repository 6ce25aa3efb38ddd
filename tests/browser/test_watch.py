"""The phone page in a real browser, on a real server: labels, recovery, tokens, errors in words, access."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analytics_server.front import FrontSettings
from analytics_server.server import Server

ROOT = Path(__file__).parents[2]
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE_MS = 120_000
"""Far above what anything takes, even on a busy machine."""
CLIP_SHOWS = "pizza|coffee|espresso|zebra|cheeseburger|hamburger|airliner|airplane|warplane|cab|cat|dog|tabby"
RUNTIME = "**/ort/*.wasm.gz"
GONE = ("WebSocket", "ERR_CONNECTION_REFUSED")
"""What the browser says by itself when a server has gone."""
Open = Callable[..., Any]


def wait_for_text(page: Any, selector: str, pattern: str) -> None:
    page.wait_for_function(
        "([selector, pattern]) => new RegExp(pattern, 'i').test(document.querySelector(selector)?.textContent ?? '')",
        arg=[selector, pattern],
        timeout=PATIENCE_MS,
    )


def wait_for_encoder(page: Any) -> None:
    """Until features go up, no longer pictures of the sample clip, and the clip is labelled."""
    wait_for_text(page, "#encoder-text", r"\d ms")
    wait_for_text(page, "#labels", CLIP_SHOWS)


def label_of(page: Any, task: str) -> str:
    text: str = page.inner_text(f"#labels li[data-task={task}] .name")
    return text


def counts(page: Any) -> tuple[int, int, int, int]:
    """(captured, answered, dropped, under way), as the page says."""
    page.eval_on_selector("#details", "details => { details.open = true; }")
    wait_for_text(page, "#counts", "captured")
    captured, answered, dropped, under_way = map(int, re.findall(r"\d+", page.inner_text("#counts")))
    return captured, answered, dropped, under_way


def wait_for_more_answers(page: Any) -> None:
    """Until more frames are answered than now."""
    page.wait_for_function(
        "(before) => Number(/= (\\d+) answered/.exec(document.querySelector('#counts').textContent)[1]) > before",
        arg=counts(page)[1],
        timeout=PATIENCE_MS,
    )


def serious_faults(page: Any) -> list[tuple[str, list[Any]]]:
    """What axe finds serious or critical: (rule, where)."""
    page.evaluate(AXE.read_text())
    faults = page.evaluate("axe.run().then(({ violations }) => violations)")
    return [
        (fault["id"], [node["target"] for node in fault["nodes"]])
        for fault in faults
        if fault["impact"] in ("serious", "critical")
    ]


@pytest.fixture
def open_waiting(open_page: Open) -> Open:
    """A page whose encoder does not load before the second value is called."""

    def open_(url: str, **more: Any) -> tuple[Any, Callable[[], None]]:
        page, held = open_page("about:blank", **more), []
        page.route(RUNTIME, lambda route: held.append(route))
        page.goto(url)

        def let_go() -> None:
            for route in held:
                route.continue_()
            page.unroute(RUNTIME)

        return page, let_go

    return open_


def test_first_labels_do_not_wait_for_the_encoder(make_server: Callable[..., Server], open_waiting: Open) -> None:
    """Pictures of the sample clip go up until it is there; it cannot be taught from them."""
    with make_server() as server:
        page, let_go = open_waiting(server.http_url, expected=GONE)
        wait_for_text(page, "#labels", CLIP_SHOWS)
        wait_for_text(page, "#status", "pictures of the sample clip while the encoder loads")
        assert sum("web page," in row["client"] for row in server.admin.session_table()) == 1
        assert not re.search(r"\d ms", page.inner_text("#encoder-text"))
        page.click("#teach-hold")
        wait_for_text(page, "#teach-say", "still loading")
        let_go()
        wait_for_encoder(page)
        assert page.get_attribute("#status", "data-share") == "", "nothing is left to load"
        wait_for_text(page, "#status", r"^Live from [\d.:]+$")
        wait_for_text(page, "#rate-text", "Quality")
        captured, answered, dropped, under_way = counts(page)
        assert captured == answered + dropped + under_way


def test_a_camera_waits_for_the_encoder(make_server: Callable[..., Server], open_waiting: Open) -> None:
    """What it shows never leaves the browser as pictures of its own accord, not even for a moment."""
    with make_server() as server:
        page, let_go = open_waiting(f"{server.http_url}/?source=camera", permissions=["camera"], expected=GONE)
        wait_for_text(page, "#status", "Loading the encoder")
        page.wait_for_function("() => document.querySelector('video').currentTime > 1", timeout=PATIENCE_MS)
        page.wait_for_function("() => document.querySelector('#transport-text').textContent !== 'none yet'")
        assert counts(page)[0] == 0
        page.click("#use-sample")
        wait_for_text(page, "#labels", CLIP_SHOWS)
        page.click("#use-camera")
        wait_for_text(page, "#status", "Loading the encoder")
        page.wait_for_function("() => document.querySelector('video').currentTime > 1", timeout=PATIENCE_MS)
        pictures = counts(page)[0]
        page.wait_for_function("() => document.querySelector('video').currentTime > 2", timeout=PATIENCE_MS)
        assert counts(page)[0] == pictures
        let_go()
        wait_for_text(page, "#encoder-text", r"\d ms")
        wait_for_more_answers(page)
        wait_for_text(page, "#figure-bytes", r"^([1-5](\.\d)? kB|\d+ B)$")  # features: pictures take 20 kB


LATE = """
    const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wish) => {
        await new Promise((allow) => { window.allow = allow; });
        return (window.got = await real(wish));
    };
"""


def test_a_permission_that_comes_late_opens_no_camera(server: Server, open_page: Open) -> None:
    """The sample clip was chosen meanwhile: the camera is let go at once, and the clip goes on."""
    page = open_page("about:blank", permissions=["camera"])
    page.add_init_script(LATE)
    page.goto(f"{server.http_url}/?source=none")
    wait_for_text(page, "#status", "Ready")
    page.click("#use-camera")
    page.wait_for_function("() => window.allow")
    page.click("#use-sample")
    wait_for_text(page, "#labels", CLIP_SHOWS)
    page.evaluate("window.allow()")
    page.wait_for_function("() => window.got?.getTracks().every((track) => track.readyState === 'ended')")
    assert page.evaluate("document.querySelector('video').srcObject === null")
    assert page.get_attribute("#use-sample", "aria-pressed") == "true"
    wait_for_more_answers(page)


def test_sample_clip_is_labelled_at_once(server: Server, open_page: Open) -> None:
    """Open the link, see the labels: no tap, no camera."""
    page = open_page(server.http_url)
    wait_for_text(page, "#labels", CLIP_SHOWS)
    wait_for_text(page, "#status", "Live")
    wait_for_text(page, "#figure-fps", r"[1-9]")
    assert page.evaluate("crossOriginIsolated")
    captured, answered, dropped, under_way = counts(page)
    assert answered > 0
    assert captured == answered + dropped + under_way


def test_camera_is_labelled(server: Server, open_page: Open) -> None:
    """The fake camera shows the sample's pizza."""
    page = open_page(f"{server.http_url}?source=none", permissions=["camera"])
    wait_for_text(page, "#status", "Ready")
    page.click("#use-camera")
    wait_for_text(page, "#labels li[data-task=food101]", "pizza")
    wait_for_text(page, "#labels li[data-task=imagenet1k]", "pizza")
    assert page.get_attribute("#use-camera", "aria-pressed") == "true"
    page.click("#stop")
    wait_for_text(page, "#status", "Stopped")
    assert page.evaluate("document.querySelector('video').srcObject === null")


def test_ticking_tasks_off_takes_their_labels_away(server: Server, open_page: Open) -> None:
    page = open_page(server.http_url)
    wait_for_text(page, "#labels", CLIP_SHOWS)
    for task in ("imagenet1k", "cifar100", "flowers102"):
        page.uncheck(f"#tasks input[value={task}]")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#labels li')].map((row) => row.dataset.task).join() === 'food101'",
        timeout=PATIENCE_MS,
    )
    page.click("#tasks input[value=food101]")
    assert page.is_checked("#tasks input[value=food101]"), "the last task stays"


def test_quality_and_pictures_change_what_is_sent(server: Server, open_page: Open) -> None:
    page = open_page(server.http_url)
    wait_for_encoder(page)
    page.focus("#quality")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    assert not page.is_checked("#quality-auto"), "a slider that is moved is the user's"
    assert page.get_attribute("#quality", "aria-valuetext").startswith("low")
    wait_for_text(page, "#rate-text", r"^Quality low, your choice")
    page.check("#send-pictures")
    wait_for_text(page, "#figure-bytes", r"^([6-9]|[1-9]\d)(\.\d)? kB")
    wait_for_text(page, "#labels", CLIP_SHOWS)


def test_the_strip_says_what_was_chosen_by_itself_and_what_it_loses(server: Server, open_page: Open) -> None:
    """And the slider follows."""
    page = open_page(server.http_url)
    wait_for_text(page, "#rate-text", r"^Quality \w+, chosen for a link of about [\d.]+ .bit/s: [\d.]+ frames/s\.")
    loss = r"(Expected loss \d+\.\d points|No loss expected) against the unmodified backbone\."
    wait_for_text(page, "#rate-text", loss)
    assert page.is_checked("#quality-auto")
    page.wait_for_function(
        """() => {
            const [rate, quality] = ['#rate-text', '#quality-text'].map((id) => document.querySelector(id).textContent);
            return quality.startsWith(`automatic: ${/^Quality (\\w+)/.exec(rate)[1]},`);
        }""",
        timeout=PATIENCE_MS,
    )


def test_server_off_and_on_again_recovers(make_server: Callable[..., Server], free_port: int, open_page: Open) -> None:
    first = make_server(free_port)
    first.start()
    page = open_page(first.http_url, expected=GONE)
    wait_for_text(page, "#labels", CLIP_SHOWS)
    first.stop(0.0)
    wait_for_text(page, "#status", "Trying again")
    with make_server(free_port):
        wait_for_text(page, "#status", "Live")
        wait_for_more_answers(page)


@pytest.mark.parametrize(
    ("reason", "words", "button"),
    [
        ("error", "^Something went wrong on the server: the engine is gone", "#again"),
        ("done", "^The server has ended the session", "#use-sample"),
    ],
)
def test_an_end_for_good_is_said_in_words_and_started_again(
    make_server: Callable[..., Server], open_page: Open, reason: str, words: str, button: str
) -> None:
    """What the server ends without a token or a time to come back; like an edge, the page does not go on by itself."""
    with make_server() as server:
        page = open_page(server.http_url, expected=GONE)
        wait_for_encoder(page)
        wait_for_text(page, "#status", "^Live from")
        assert not page.is_visible("#again")
        for handle in server.handles():
            handle.call(lambda session, now: session.goodbye(reason, "the engine is gone", now))
        wait_for_text(page, "#status", "^Not connected")
        wait_for_text(page, "#error", words)
        assert page.is_visible("#again")
        page.click(button)
        wait_for_text(page, "#status", "^Live from")
        wait_for_more_answers(page)
        assert not page.is_visible("#again")
        assert not page.is_visible("#error")


def test_a_server_that_says_when_to_come_back_is_tried_again_and_its_reason_said(
    make_server: Callable[..., Server], open_page: Open
) -> None:
    with make_server() as server:
        page = open_page(server.http_url, expected=GONE)
        wait_for_encoder(page)
        wait_for_text(page, "#status", "^Live from")
        for handle in server.handles():
            handle.call(lambda session, now: session.goodbye("full", "1 sessions, limit 1", now, retry_after_s=3.0))
        wait_for_text(page, "#status", "^The server has no room for another session: 1 sessions, limit 1. Trying again")
        wait_for_text(page, "#status", "^Live from")
        wait_for_more_answers(page)


def test_the_title_is_clear_of_the_tabs_on_a_small_phone(server: Server, open_page: Open) -> None:
    page = open_page(f"{server.http_url}?source=none", viewport={"width": 320, "height": 640})
    gap_px = page.evaluate("""() => {
        const title = document.createRange();
        title.selectNodeContents(document.querySelector('h1'));
        return document.querySelector('nav a').getBoundingClientRect().left - title.getBoundingClientRect().right;
    }""")
    assert gap_px >= 8


def test_wrong_token_is_refused_and_the_right_one_accepted(make_server: Callable[..., Server], open_page: Open) -> None:
    with make_server(front=FrontSettings(token="right-token")) as server:
        page = open_page(f"{server.http_url}#token=wrong-token", expected=GONE)
        page.wait_for_selector("#token-form:not([hidden])", timeout=PATIENCE_MS)
        wait_for_text(page, "#status", "token")
        assert "wrong-token" not in page.url
        page.fill("#token", "right-token")
        page.keyboard.press("Enter")
        wait_for_text(page, "#labels", CLIP_SHOWS)


def test_pairing_link_needs_no_token(make_server: Callable[..., Server], open_page: Open) -> None:
    with make_server(front=FrontSettings(token="right-token")) as server:
        assert server._http is not None
        link = server._http.front.link()
        page = open_page(link, expected=GONE)
        wait_for_text(page, "#labels", CLIP_SHOWS)
        assert "pair" not in page.url
        again = open_page(link, expected=("403", *GONE))
        wait_for_text(again, "#error", "used or is too old")


@pytest.mark.parametrize(
    ("failure", "words"),
    [("NotAllowedError", "not allowed"), ("NotFoundError", "No camera"), ("NotReadableError", "in use")],
)
def test_camera_trouble_is_said_in_words(server: Server, open_page: Open, failure: str, words: str) -> None:
    page = open_page(f"{server.http_url}?source=none")
    page.evaluate(
        "(name) => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', name)); }", failure
    )
    page.click("#use-camera")
    wait_for_text(page, "#error", words)


def test_no_server_is_said_in_words(make_server: Callable[..., Server], open_page: Open) -> None:
    server = make_server()
    server.start()
    page = open_page(f"{server.http_url}?source=none", expected=GONE, permissions=["camera"])
    wait_for_text(page, "#status", "Ready")
    server.stop(0.0)
    page.click("#use-sample")
    wait_for_text(page, "#error", "did not load")
    page.click("#use-camera")
    wait_for_text(page, "#status", "No answer from 127.0.0.1")


def test_golden_vectors_pass_in_the_browser(server: Server, open_page: Open) -> None:
    page = open_page(f"{server.http_url}/check.html")
    vectors = sorted((ROOT / "tests" / "golden" / "bitstream").glob("*.json"))
    page.set_input_files("#files", [str(file) for file in vectors])
    wait_for_text(page, "#outcome", "equal")
    outcome = page.inner_text("#outcome")
    assert outcome.count("equal") == len(vectors)
    assert "differs" not in outcome


def test_operator_sees_the_session(server: Server, open_page: Open) -> None:
    watching = open_page(server.http_url)
    wait_for_text(watching, "#labels", CLIP_SHOWS)
    page = open_page(f"{server.http_url}#operator", viewport={"width": 1280, "height": 900})
    wait_for_text(page, "#operator [aria-label=Sessions]", "web page")
    wait_for_text(page, "#operator [aria-label=Tasks]", "food101")
    page.wait_for_selector("#operator .chart canvas", timeout=PATIENCE_MS)


def test_operator_asks_for_the_administrators_token(make_server: Callable[..., Server], open_page: Open) -> None:
    with make_server(admin_token="admin-token") as server:
        page = open_page(f"{server.http_url}#operator", expected=("401", *GONE, "ERR_INCOMPLETE"))
        wait_for_text(page, "#operator [role=status]", "token")
        page.fill("#admin-token", "admin-token")
        page.keyboard.press("Enter")
        wait_for_text(page, "#operator [aria-label=Tasks]", "food101")


@pytest.mark.parametrize("tab", ["", "#operator"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(server: Server, open_page: Open, tab: str, scheme: str) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm install in web/")
    page = open_page(server.http_url + tab, color_scheme=scheme)
    wait_for_text(page, "#operator [aria-label=Tasks]" if tab else "#labels", "food101" if tab else CLIP_SHOWS)
    assert serious_faults(page) == []


def test_everything_is_reached_by_keyboard(server: Server, open_page: Open) -> None:
    page = open_page(server.http_url)
    wait_for_encoder(page)
    reached = []
    for _ in range(17):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.value || ''"))
    wanted = "tab-operator use-camera use-sample use-file stop quality quality-auto send-pictures food101"
    assert set(wanted.split()) <= set(reached)
