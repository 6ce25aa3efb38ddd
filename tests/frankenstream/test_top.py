"""`frankenstream top`: what it draws at 80 columns, from figures of a real server; and what it says when it cannot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analytics_server.server import Server
from frankenstream import top_view
from frankenstream.admin_client import AdminClient
from frankenstream.cli import run
from frankenstream.server_events import Told, listen
from pipeline.bundle import Bundle
from pipeline.runtime.engine import NullEngine
from tests.bundles import backbone, random_bundle
from tests.streaming import StreamingEdge

WIDTH = 80


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    only = backbone("tf_efficientnet_lite0", pooled_width=8, default=True)
    return random_bundle(tmp_path_factory.mktemp("top") / "bundle", backbones=(only,))


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Server]:
    engine = NullEngine("tf_efficientnet_lite0")
    with Server(bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=[engine], admin_token="secret") as server:
        yield server


@pytest.fixture(scope="module")
def figures(server: Server, bundle: Bundle) -> dict[str, Any]:
    """Of a server with one session that streamed, with a few things put in that a test cannot wait for."""
    with StreamingEdge(server.urls[0], bundle, client="frankenstream edge", tasks=("food101",)) as edge:
        edge.stream(5)
        told = next(one for one in listen(AdminClient(server.http_url, token="secret")) if one.kind == "figures")
    found = told.data
    found["frames"]["dropped"] = {"shed": 12, "deadline": 3}
    found["frames"]["dropped_fps"] = 1.5
    found["drift"] = [{"signal": "confidence", "of": "food101@tf_efficientnet_lite0", "psi": 0.31, "frames": 900}]
    return found


def drawn(renderable: Any, width: int = WIDTH) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"), color_system=None)  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


def test_everything_fits_in_80_columns(figures: dict[str, Any]) -> None:
    parts = [
        top_view.head(figures, WIDTH), top_view.stages(figures, 41), top_view.engines(figures, 38),
        top_view.drops(figures), top_view.tasks(figures, WIDTH - 1),
    ]  # fmt: skip
    text = "".join(drawn(part) for part in parts)
    assert max(map(len, text.splitlines())) <= WIDTH
    for words in ("ready", "1 sessions", "entropy_decode", "on the server", "lite0 null/cpu", "shed 12", "food101@"):
        assert words in text
    assert "drift confidence food101@lite0 0.31" in text
    assert "3 more: imagenet1k@lite0" in text


def test_bars_are_on_one_scale() -> None:
    """The longest p95 fills the width; p50 is full, the rest up to p95 shaded."""
    assert str(top_view.bar({"p50": 5.0, "p95": 10.0}, 10.0, 10, "red")) == "█████░░░░░"
    assert str(top_view.bar({"p50": 2.5, "p95": 5.0}, 10.0, 10, "red")) == "██▌░░"
    assert str(top_view.bar({"p50": 0.0, "p95": 0.0}, 10.0, 10, "red")) == ""


def test_the_application_draws_sessions_and_events(figures: dict[str, Any], tmp_path: Path) -> None:
    """At 80 by 24, without a terminal; the keys do what the footer says."""
    pytest.importorskip("textual")
    from textual.widgets import DataTable, Static

    from frankenstream.top_app import TopApp

    opened = {"number": 1, "at": 0.0, "kind": "session", "what": "opened", "session": "abcdef12", "client": "porch"}
    app = TopApp(lambda after: iter([Told("session", opened, 1), Told("figures", figures)]))

    async def look() -> None:
        async with app.run_test(size=(WIDTH, 24)) as pilot:
            for _ in range(100):
                await pilot.pause(0.02)
                if app.query_one("#sessions", DataTable).row_count:
                    break
            assert app.query_one("#sessions", DataTable).row_count == len(figures["sessions"]) == 1
            assert "opened abcdef client=porch" in str(app.query_one("#events", Static).content)
            await pilot.press("s")
            await pilot.press("p")
            svg = app.export_screenshot()
            assert "food101@lite0" in svg.replace("&#160;", " ")
            await pilot.press("q")

    asyncio.run(look())


def test_one_look_as_text_and_as_json(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """For scripts and terminals without textual."""
    arguments = ["top", "--server", server.http_url, "--token", "secret"]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "ready"
    assert run([*arguments, "--once"]) == 0
    assert "entropy_decode" in capsys.readouterr().out


def test_a_server_that_is_not_there_or_lets_nobody_in(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Codes and lines as everywhere: 4 network, 2 settings."""
    assert run(["top", "--server", "http://127.0.0.1:9", "--once"]) == 4
    assert "is `frankenstream serve` running there?" in " ".join(capsys.readouterr().err.split())
    assert run(["top", "--server", server.http_url, "--once"]) == 2
    assert "wants its admin token: give --token" in " ".join(capsys.readouterr().err.split())
    assert run(["top", "--server", server.http_url]) == 2
    assert "--once" in capsys.readouterr().err
