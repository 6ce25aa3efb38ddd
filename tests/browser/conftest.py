"""A real server, a real Chromium, and a camera that shows a file."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analytics_server.front import FrontSettings
from analytics_server.page import WEB_FOLDER
from analytics_server.server import Server
from pipeline.bundle import Bundle
from pipeline.runtime.engine import Engine

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BACKBONE = "tf_efficientnet_lite0"
CAMERA_SHOWS_S = 2.0
"""The fake camera repeats so much of the sample clip: its first shot, a pizza."""
CAMERA_FPS = 10
PATIENCE_MS = 120_000
"""Of whatever has no limit of its own: far above what anything takes, even on a busy machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session", autouse=True)
def _can_run() -> None:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: sudo apt-get install chromium", allow_module_level=True)
    if not (WEB_FOLDER / "index.html").is_file():
        pytest.skip("the page is not built: npm ci && npm run build in web/")
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")


@pytest.fixture(scope="session", autouse=True)
def _home_of_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers that live longer than a test do not see the user's data folder either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRANKENSTREAM_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def engines_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where exported engines are. Exporting takes half a minute, so pytest's cache keeps them from run to run.

    FRANKENSTREAM_TEST_ENGINES names another folder to keep them in, one that has engines already, say.
    """
    cache = getattr(request.config, "cache", None)  # not there with -p no:cacheprovider
    kept = cache.mkdir("engines") if cache else tmp_path_factory.mktemp("engines")
    return Path(os.environ.get("FRANKENSTREAM_TEST_ENGINES") or kept)


@pytest.fixture(scope="session")
def engine(engines_folder: Path) -> Engine:
    """One engine for all servers."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("exporting a backbone needs torch and timm")
    from pipeline.runtime.engines import build_engine

    return build_engine(Bundle.open(), BACKBONE, backend="onnx", threads=1, cache_dir=engines_folder)


@pytest.fixture(scope="session")
def make_server(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Server]:
    """A server that is not started. `port` 0: any."""

    def make(port: int = 0, *, front: FrontSettings | None = None, admin_token: str = "") -> Server:
        place = tmp_path_factory.mktemp("server") / "s"
        door: dict[str, Any] = {"front": front, "admin_token": admin_token}
        return Server(Bundle.open(), [f"ipc://{place}"], f"127.0.0.1:{port}", engines=[engine], **door)

    return make


@pytest.fixture(scope="session")
def server(make_server: Callable[..., Server]) -> Iterator[Server]:
    with make_server() as server:
        yield server


@pytest.fixture(scope="session")
def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port: int = door.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def camera_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the bundled sample clip, as Chromium's fake camera reads it (YUV4MPEG2)."""
    import av

    from recordings.samples import sample_path

    file = tmp_path_factory.mktemp("camera") / "camera.y4m"
    with av.open(str(sample_path())) as clip, file.open("wb") as out:
        stream = clip.streams.video[0]
        step = round(float(stream.average_rate or 30) / CAMERA_FPS)
        out.write(f"YUV4MPEG2 W{stream.width} H{stream.height} F{CAMERA_FPS}:1 Ip A1:1 C420\n".encode())
        for number, frame in enumerate(clip.decode(stream)):
            if number >= CAMERA_SHOWS_S * CAMERA_FPS * step:
                break
            if number % step == 0:
                out.write(b"FRAME\n" + frame.reformat(format="yuv420p").to_ndarray().tobytes())
    return file


@pytest.fixture(scope="module")
def browser(camera_file: Path) -> Iterator[Any]:
    """Ends with its file: while Playwright lives, its event loop counts as running: others are refused."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            timeout=PATIENCE_MS,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-video-capture={camera_file}",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(url, **context)`: a page whose console must stay without errors, but for those in `expected`."""
    pages: list[tuple[Any, list[str], tuple[str, ...]]] = []

    def open_(url: str, *, expected: tuple[str, ...] = (), **context: Any) -> Any:
        context.setdefault("viewport", {"width": 390, "height": 844})
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(PATIENCE_MS)
        trouble: list[str] = []
        page.on("console", lambda said: trouble.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        pages.append((page, trouble, expected))
        page.goto(url)
        return page

    yield open_
    for page, trouble, expected in pages:
        page.context.close()
        assert [text for text in trouble if not any(part in text for part in expected)] == []
