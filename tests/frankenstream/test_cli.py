"""The command line: help, exit codes, one line for what is wrong, settings from file, environment and flags."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from frankenstream.cli import COMMANDS, run
from pipeline.errors import ConfigError
from tests.bundles import random_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "random"
    random_bundle(folder)
    return folder


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Standard error as one line."""
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of every command ends with 0 and names its purpose."""
    assert run([command, "--help"]) == 0
    assert "Usage: frankenstream" in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert [name for name in COMMANDS if not re.search(rf"\b{name}\b", out)] == []


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert re.match(r"\d", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonsense"], 2, "nonsense"),
        (["serve", "--nonsense"], 2, "--nonsense"),
        (["edge", "--budget-ms", "soon"], 2, "soon"),
        (["replay", "tour", "--fast", "--realtime"], 2, "contradict"),
        (["replay", "tour", "--lossless", "--fps", "5"], 2, "with --lossless"),
        (["demo", "--jpeg", "80", "--fps", "5"], 2, "with --jpeg"),
        (["edge", "tour", "--jpeg", "80", "--fps", "5"], 2, "with --jpeg"),
        (["edge", "0", "--size", "large"], 2, "'large', expected WIDTHxHEIGHT"),
        (["demo", "--size", "1280x720"], 2, "leave --size out"),
        (["edge", "/nowhere/clip.mp4"], 3, "/nowhere/clip.mp4"),
        (["demo", "--source", "/nowhere/clip.mp4"], 3, "/nowhere/clip.mp4"),
        (["bundle", "info", "/nowhere/bundle"], 5, "/nowhere/bundle"),
        (["tasks", "info", "birds"], 2, "food101"),
        (["--config", "/nowhere.toml", "doctor"], 2, "/nowhere.toml"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], code: int, words: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage and settings end with 2, input with 3, models with 5; each says the value seen."""
    if arguments[0] in ("edge", "demo"):
        arguments = [*arguments, "--bundle", str(bundle)]

    assert run(arguments) == code

    line = said(capsys)
    assert line.startswith("frankenstream:")
    assert words in line


def test_listening_beyond_this_machine_without_keys_is_refused(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is built: the line comes at once and names `frankenstream keys`."""
    assert run(["serve", "--listen", "tcp://0.0.0.0:5599", "--bundle", str(bundle)]) == 4
    assert "frankenstream keys" in said(capsys)


def test_flags_win_over_environment_and_file(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same setting three times: the file's is used alone, the environment's above it, the flag's above both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frankenstream.toml").write_text(f'[edge]\nbundle = "{bundle}"\nquality = "from-file"\n')
    picture = tmp_path / "picture.ppm"
    picture.write_bytes(b"P6 2 2 255 " + bytes(12))
    command = ["edge", str(picture)]

    assert run(command) == 5
    assert "from-file" in said(capsys)
    monkeypatch.setenv("FRANKENSTREAM_EDGE_QUALITY", "from-environment")
    assert run(command) == 5
    assert "from-environment" in said(capsys)
    assert run([*command, "--quality", "from-flag"]) == 5
    assert "from-flag" in said(capsys)


def test_bundle_info_and_verify(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "info", str(bundle)]) == 0
    assert "standard (default)" in capsys.readouterr().out
    assert run(["bundle", "verify", str(bundle)]) == 0
    assert "good" in capsys.readouterr().out


def test_keys_are_made_once_and_admitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """create, admit, show; making them twice is refused, and secrets are for their owner only."""
    folder = tmp_path / "keys"
    assert run(["keys", "create", "--folder", str(folder)]) == 0
    assert run(["keys", "create", "--folder", str(folder)]) == 2
    assert run(["keys", "admit", "porch", "--folder", str(folder)]) == 0

    assert (folder / "server.secret").stat().st_mode & 0o077 == 0
    assert (folder / "edge-porch" / "server.key").read_text() == (folder / "server.key").read_text()
    capsys.readouterr()
    assert run(["keys", "show", "--folder", str(folder)]) == 0
    assert "porch" in capsys.readouterr().out


def test_doctor_names_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) in (0, 5)
    out = capsys.readouterr().out
    assert "range coder" in out
    assert "onnxruntime" in out


def test_an_admin_token_is_made_where_one_is_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond loopback, for this run, printed; one of the user's is kept, and loopback needs none."""
    pytest.importorskip("aiohttp")
    from frankenstream.config import ServerSettings
    from frankenstream.door import with_admin_token

    made = with_admin_token(ServerSettings(http="0.0.0.0:8080"))
    assert len(made.admin_token) > 20
    assert made.admin_token in capsys.readouterr().out
    assert with_admin_token(ServerSettings(http="0.0.0.0:8080")).admin_token != made.admin_token
    for settings in (ServerSettings(http="[::1]:8080"), ServerSettings(http="0.0.0.0:1", admin_token="mine")):
        assert with_admin_token(settings) == settings
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        with_admin_token(ServerSettings(http="8080"))
    monkeypatch.setenv("FRANKENSTREAM_ADMIN_TOKEN", "everywhere")
    assert run(["serve", "--help"]) == 0
    assert "FRANKENSTREAM_ADMIN_TOKEN" in capsys.readouterr().out
