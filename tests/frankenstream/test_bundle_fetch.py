"""`bundle fetch`: what comes over a session, what a broken connection costs, and when it is given up."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from frankenstream.bundle_fetch import fetch_edge_bundle
from pipeline import limits
from pipeline.bundle import Bundle
from pipeline.errors import TransportError
from pipeline.transports import SessionHandle, memory
from pipeline.wire import ServerSession, SessionDirectory
from pipeline.wire.events import BundleRequested, ServerEvent
from tests.bundles import random_bundle
from tests.pipeline.wire.pairs import make_offer

URL = "memory://bundles"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return random_bundle(tmp_path_factory.mktemp("bundles") / "random")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRANKENSTREAM_HOME", str(tmp_path))


class HandingServer:
    """Hands out a bundle; `instead[n]`, if there is one, happens instead of the n-th part."""

    def __init__(self, bundle: Bundle) -> None:
        self.packed, self.codec_id = bundle.pack_edge(), bundle.codec_id
        self.instead: dict[int, Callable[[], None]] = {}
        self.asked: list[int] = []
        self.transport = memory.listen(
            URL,
            SessionDirectory(lambda peer: ServerSession(make_offer(codec_id=bundle.codec_id), random=os.urandom)),
            self._on_event,
        )

    def cut(self) -> None:
        """The connection breaks."""
        for edge in list(self.transport._edges.values()):
            edge.cut()

    def _on_event(self, handle: SessionHandle, event: ServerEvent) -> None:
        if not isinstance(event, BundleRequested):
            return
        at, packed, codec_id = event.offset, self.packed, self.codec_id
        self.asked.append(at)
        instead = self.instead.get(len(self.asked) - 1)
        if instead is not None:
            instead()
            return
        part = packed[at : at + limits.BUNDLE_PART_BYTES // 8]
        handle.call(lambda session, now: session.send_bundle_part(codec_id, at, len(packed), part, now))


@pytest.fixture
def server(bundle: Bundle) -> Iterator[HandingServer]:
    server = HandingServer(bundle)
    yield server
    server.transport.close()


def test_a_bundle_comes_in_parts(server: HandingServer, bundle: Bundle, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    fetched, path = fetch_edge_bundle(URL, progress=lambda done, total: told.append((done, total)))
    assert (bundle.codec_id, tmp_path / "bundles") == (fetched.codec_id, path.parent)
    assert len(told) > 2
    assert told[-1] == (len(server.packed), len(server.packed))


def test_a_connection_that_breaks_costs_what_was_under_way(server: HandingServer, bundle: Bundle) -> None:
    """The part is asked for again once there is a connection; those before it are not."""
    server.instead = {1: server.cut}
    fetched, _ = fetch_edge_bundle(URL)
    assert bundle.codec_id == fetched.codec_id
    assert server.asked[1] == server.asked[2] > 0
    assert sorted(server.asked) == server.asked


def test_a_server_that_goes_silent_is_given_up(server: HandingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another fetch goes on where this one stopped."""
    monkeypatch.setattr("frankenstream.bundle_fetch.SILENCE_S", 0.2)
    server.instead = {2: lambda: None}
    with pytest.raises(TransportError, match=r"nothing more of the bundle came for 0.2 s: .*bytes are here already"):
        fetch_edge_bundle(URL)
    fetch_edge_bundle(URL)
    assert server.asked[2] == server.asked[3] > 0


def test_a_server_that_dies_is_given_up_with_the_reason(server: HandingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts that fail are no progress, however many there are."""
    monkeypatch.setattr("frankenstream.bundle_fetch.SILENCE_S", 0.4)
    server.instead = {1: server.transport.kill}
    with pytest.raises(TransportError, match=r"nothing more .* for 0.4 s \(nobody listens at .*\): fetch it"):
        fetch_edge_bundle(URL)


def test_nobody_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with what the last attempt failed for."""
    monkeypatch.setattr("frankenstream.bundle_fetch.SILENCE_S", 0.2)
    with pytest.raises(TransportError, match=r"within 0.2 s \(nobody listens at memory://bundles\): is `frankenstream"):
        fetch_edge_bundle(URL)
