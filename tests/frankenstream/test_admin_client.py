"""The admin interface from the command line: every command reaches every server, and says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from analytics_server.front import FrontSettings
from analytics_server.server import Server
from frankenstream.admin_client import AdminClient
from frankenstream.cli import run
from frankenstream.tls import server_context
from pipeline.bundle import Bundle
from pipeline.errors import ConfigError, TransportError
from pipeline.runtime.engine import NullEngine
from tests.bundles import backbone, random_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    only = backbone("null", pooled_width=8, default=True)
    return random_bundle(tmp_path_factory.mktemp("admin") / "bundle", backbones=(only,))


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate of the local authority below."""
    return tmp_path_factory.mktemp("tls") / "ca.pem"


@pytest.fixture(scope="module")
def server(bundle: Bundle, ca: Path) -> Iterator[Server]:
    """As the README starts it: `--tls local --admin-token secret`."""
    front = FrontSettings(token="streams", tls=server_context("local", None, ca.parent))
    with Server(
        bundle, ["tcp://127.0.0.1:0"], "127.0.0.1:0", engines=[NullEngine("null")], admin_token="secret", front=front
    ) as server:
        yield server


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRANKENSTREAM_HOME", str(tmp_path))


COMMANDS = [["top", "--json"], ["tasks", "list"], ["pair"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_local_authority_is_trusted_with_its_certificate(
    command: list[str], server: Server, ca: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And only with it."""
    monkeypatch.setenv("FRANKENSTREAM_ADMIN_TOKEN", "secret")
    command = [*command, "--server", server.http_url]
    assert run([*command, "--ca", str(ca)]) == 0
    capsys.readouterr()
    assert run(command) == 4
    assert "name it with --ca" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_token_is_wanted_in_one_way(
    command: list[str], server: Server, ca: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*command, "--server", server.http_url, "--ca", str(ca)]
    assert run(command) == 2
    assert "give --token, or set FRANKENSTREAM_ADMIN_TOKEN" in " ".join(capsys.readouterr().err.split())
    assert run([*command, "--token", "secret"]) == 0


def test_the_other_name_of_the_token_still_holds(server: Server, ca: Path) -> None:
    assert run(["pair", "--server", server.http_url, "--ca", str(ca), "--admin-token", "secret"]) == 0


def test_a_bundle_is_fetched_with_token_and_certificate(
    server: Server, bundle: Bundle, ca: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over the port that phones use, as an edge would go there."""
    command = ["bundle", "fetch", "--server", f"wss{server.http_url.removeprefix('https')}", "--ca", str(ca)]
    command += ["--codec-id", bundle.codec_id]
    assert run(command) == 4
    capsys.readouterr()
    assert run([*command, "--token", "streams"]) == 0
    assert bundle.codec_id in capsys.readouterr().out


def test_http_to_a_server_with_tls_names_the_other_address(server: Server) -> None:
    plain = server.http_url.replace("https", "http")
    with pytest.raises(TransportError, match=f"if it was started with --tls, it is at {server.http_url}$"):
        AdminClient(plain).call("GET", "/api/v1/tasks")


def test_what_is_not_there_is_told(server: Server, ca: Path) -> None:
    with pytest.raises(TransportError, match=r"no server answers at http://127\.0\.0\.1:9 .*running there\?"):
        AdminClient("127.0.0.1:9").call("GET", "/api/v1/tasks")
    with pytest.raises(ConfigError, match="is no certificate of an authority"):
        AdminClient(server.http_url, ca=Path(__file__))
    answer = json.loads(AdminClient(server.http_url, token="secret", ca=ca).call("GET", "/api/v1/tasks"))
    assert answer["tasks"]


def test_addresses_as_people_name_them() -> None:
    assert AdminClient("127.0.0.1:8080").url == "http://127.0.0.1:8080"
    assert AdminClient("https://cameras.example/").url == "https://cameras.example"
    for text in ("tcp://127.0.0.1:5555", "http://"):
        with pytest.raises(ConfigError, match="expected its admin interface"):
            AdminClient(text)
