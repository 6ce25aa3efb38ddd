"""Pairing links and TLS settings, as a person meets them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from frankenstream.pairing import device_secret, link_url, qr_code, show_link
from frankenstream.tls import lan_address, server_context
from pipeline.errors import ConfigError


def shown(link: str, ca_file: Path | None = None) -> str:
    console = Console(file=io.StringIO(), width=300)
    show_link(link, console, ca_file=ca_file)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_links_begin_with_an_address_that_others_reach() -> None:
    """All interfaces means the one on the network; a port that is not known yet is left to the server."""
    assert link_url("0.0.0.0:8080", tls=True) == f"https://{lan_address()}:8080"
    assert link_url("127.0.0.1:8080", tls=False) == "http://127.0.0.1:8080"
    assert link_url("[::1]:8080", tls=False) == "http://[::1]:8080"
    assert link_url("camera-hub:8080", tls=True) == "https://camera-hub:8080"
    assert link_url("127.0.0.1:0", tls=False) == ""


def test_links_are_shown_with_what_to_do() -> None:
    """The QR code, the link, and a hint that fits."""
    assert "--tls local" in shown("http://10.0.0.5:8080/#pair=x")
    assert "certificate authority" in shown("https://10.0.0.5:8080/#pair=x", Path("ca.pem"))
    assert "Only this machine" in shown("http://127.0.0.1:8080/#pair=x")
    assert "https://10.0.0.5:8080/#pair=x" in shown("https://10.0.0.5:8080/#pair=x")
    assert len(qr_code("https://10.0.0.5:8080/#pair=x").splitlines()) > 10


def test_devices_stay_paired(tmp_path: Path) -> None:
    """The secret is kept, readable for its owner only; a damaged one is named."""
    secret = device_secret(tmp_path)
    assert secret == device_secret(tmp_path)
    assert (tmp_path / "devices.secret").stat().st_mode & 0o777 == 0o600
    for damaged in ("xyz", "00"):
        (tmp_path / "devices.secret").write_text(damaged)
        with pytest.raises(ConfigError, match="devices then pair again"):
            device_secret(tmp_path)


def test_certificates_that_do_not_fit_are_told(tmp_path: Path) -> None:
    """No such file, no certificate, the key of another."""
    with pytest.raises(ConfigError, match="is no certificate for TLS"):
        server_context(str(tmp_path / "none.pem"), None, tmp_path)
    (tmp_path / "rubbish.pem").write_text("rubbish")
    with pytest.raises(ConfigError, match="is no certificate for TLS"):
        server_context(str(tmp_path / "rubbish.pem"), None, tmp_path)
    server_context("local", None, tmp_path / "a")
    server_context("local", None, tmp_path / "b")
    with pytest.raises(ConfigError, match="is no certificate for TLS"):
        server_context(str(tmp_path / "a" / "server.pem"), tmp_path / "b" / "server.secret", tmp_path)
