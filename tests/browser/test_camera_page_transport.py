"""The camera's page over WebRTC in a real browser: data channels, going over to WebSocket and back, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from analytics_server.server import Server
from tests.browser.test_watch import CLIP_SHOWS, GONE, counts, wait_for_more_answers, wait_for_text

pytest.importorskip("aiortc", reason="WebRTC is not installed: pip install 'frankenstream[webrtc]'")

Open = Callable[..., Any]

BLOCKABLE = """
    window.peers = [];
    window.blockUdp = sessionStorage.blockUdp === "yes";
    const real = RTCPeerConnection.prototype.setRemoteDescription;
    RTCPeerConnection.prototype.setRemoteDescription = function ({ type, sdp }) {
        window.peers.push(this);
        // With a wrong password no check of a way is answered, which is what a firewall makes of it.
        if (window.blockUdp) sdp = sdp.replace(/a=ice-pwd:.*/g, "a=ice-pwd:0000000000000000000000");
        return real.call(this, { type, sdp });
    };
"""


@pytest.fixture
def open_blockable(open_page: Open) -> Open:
    """A page whose WebRTC finds no way while `blockUdp` is set; it opens at about:blank first."""

    def open_(server: Server, search: str, *, blocked: bool = False, **more: Any) -> Any:
        page = open_page("about:blank", **more)
        page.add_init_script(BLOCKABLE + ("window.blockUdp = true;" if blocked else ""))
        page.goto(f"{server.http_url}/{search}")
        return page

    return open_


def sessions(server: Server) -> list[str]:
    return [
        row["session"]
        for row in server.admin.session_table()
        if "web page," in row["client"] and row["state"] == "open"
    ]


def test_labels_come_over_data_channels(server: Server, open_page: Open) -> None:
    page = open_page(f"{server.http_url}/?transport=webrtc")
    wait_for_text(page, "#labels", CLIP_SHOWS)
    wait_for_text(page, "#transport-text", "WebRTC: chosen in the address")
    wait_for_text(page, "#figure-fps", r"[1-9]")  # figures follow the labels, now and then
    captured, answered, dropped, under_way = counts(page)
    assert answered > 0
    assert captured == answered + dropped + under_way


def test_this_machine_takes_websocket_and_says_why(server: Server, open_page: Open) -> None:
    page = open_page(server.http_url)
    wait_for_text(page, "#transport-text", "WebSocket: on this machine nothing gets lost")


def test_without_udp_it_takes_websocket_and_says_why(server: Server, open_blockable: Open) -> None:
    page = open_blockable(server, "?transport=auto", blocked=True)
    wait_for_text(page, "#labels", CLIP_SHOWS)
    wait_for_text(page, "#transport-text", "WebSocket: no UDP path to the server within 3 s")
    page.reload()
    wait_for_text(page, "#transport-text", "WebSocket: no UDP path")
    assert page.evaluate("peers.length") == 0, "the wait is spared after a reload"


def test_a_server_without_webrtc_is_not_asked_twice(server: Server, open_blockable: Open) -> None:
    page = open_blockable(server, "?transport=auto&source=none")
    page.route("**/api/v1/webrtc", lambda route: route.fulfill(json={"ice_servers": [], "webrtc": False}))
    wait_for_text(page, "#status", "Ready")
    page.click("#use-sample")
    wait_for_text(page, "#transport-text", "WebSocket: the server has no WebRTC")
    wait_for_text(page, "#labels", CLIP_SHOWS)


def test_a_session_that_loses_webrtc_goes_on_over_websocket_and_comes_back(
    server: Server, open_blockable: Open
) -> None:
    page = open_blockable(server, "?transport=auto")
    wait_for_text(page, "#labels", CLIP_SHOWS)
    wait_for_text(page, "#transport-text", "^WebRTC$")
    (session,) = sessions(server)
    page.evaluate("() => { blockUdp = true; peers.at(-1).close(); }")
    wait_for_text(page, "#transport-text", "WebSocket: no UDP path")
    wait_for_more_answers(page)
    assert sessions(server) == [session], "resumed, not begun anew"
    captured, answered, dropped, under_way = counts(page)
    assert captured == answered + dropped + under_way


def test_server_off_and_on_again_recovers_over_webrtc(
    make_server: Callable[..., Server], free_port: int, open_page: Open
) -> None:
    first = make_server(free_port)
    first.start()
    page = open_page(f"{first.http_url}/?transport=webrtc", expected=(*GONE, "ERR_", "503"))
    wait_for_text(page, "#labels", CLIP_SHOWS)
    first.stop(0.0)
    wait_for_text(page, "#status", "Trying again")
    with make_server(free_port):
        wait_for_text(page, "#status", "Live")
        wait_for_more_answers(page)
