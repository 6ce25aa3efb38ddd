"""Key files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.transports.keys import ClientKeys, ServerKeys, load_public, load_secret, write_pair


def test_files_are_read_back(tmp_path: Path) -> None:
    """A server's folder and an edge's pair."""
    server = write_pair(tmp_path / "server", "server")
    camera = write_pair(tmp_path / "server" / "clients", "camera")
    keys = ServerKeys.load(tmp_path / "server")
    assert (server, frozenset({camera})) == (keys.public, keys.clients)
    client = ClientKeys.load(tmp_path / "server" / "clients" / "camera.secret", tmp_path / "server" / "server.key")
    assert (camera, server) == (client.public, client.server_public)


def test_secret_is_for_its_owner_only(tmp_path: Path) -> None:
    """Mode 0600 when made, and refused when others may read it."""
    write_pair(tmp_path, "camera")
    secret = tmp_path / "camera.secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    os.chmod(secret, 0o644)
    with pytest.raises(ConfigError, match="has mode 644, expected 600"):
        load_secret(secret)


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    """repr shows no secret."""
    write_pair(tmp_path, "server")
    keys = ServerKeys.load(tmp_path)
    assert keys.secret.decode() not in repr(keys)


def test_existing_keys_are_kept(tmp_path: Path) -> None:
    """Making them again is refused."""
    write_pair(tmp_path, "server")
    with pytest.raises(ConfigError, match="exists already"):
        write_pair(tmp_path, "server")


@pytest.mark.parametrize("text", ["", "public = 3", 'public = "short"', "not toml at all ["])
def test_bad_files_are_told(tmp_path: Path, text: str) -> None:
    """One line naming the file."""
    (tmp_path / "bad.key").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.key"):
        load_public(tmp_path / "bad.key")


def test_missing_file_names_the_command(tmp_path: Path) -> None:
    """`frankenstream keys` makes them."""
    with pytest.raises(ConfigError, match="frankenstream keys"):
        load_public(tmp_path / "none.key")
