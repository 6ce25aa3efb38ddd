"""HTTPS for the server's port: a given certificate, or one of a local authority that is made once on this machine.

A phone gives its camera only to pages over HTTPS. In a home or lab nobody has a certificate, so `--tls local` makes an
authority of its own, good for nothing but this: its name constraints allow private addresses and .local names only.
Devices that should trust it without a warning install `ca.pem`; edges name it with `--ca`.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import socket
import ssl
from pathlib import Path
from typing import Any, Final

from pipeline.errors import ConfigError

_AUTHORITY_DAYS: Final = 3650
_SERVER_DAYS: Final = 300
"""Phones refuse certificates that are valid for more than 398 days."""
_RENEW_DAYS: Final = 30
_PRIVATE: Final = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
                   "::1/128", "fc00::/7", "fe80::/10")  # fmt: skip


def server_context(certificate: str, key: Path | None, folder: Path) -> ssl.SSLContext:
    """TLS for the server: `certificate` is a PEM file, or "local" for a local authority in `folder`.

    Raises ConfigError.
    """
    if certificate == "local":
        place, secret = local_certificate(folder)
    else:
        place, secret = Path(certificate), key or Path(certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(place, secret)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{place} with key {secret} is no certificate for TLS ({error.strerror or error}): give PEM files that "
            "belong together, or --tls local"
        ) from None
    return context


def lan_address() -> str:
    """The address by which others on the network reach this machine; 127.0.0.1 without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # Sends nothing: asks the routing table.
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def host_names() -> tuple[str, ...]:
    """Names and addresses that the local certificate is for."""
    name = socket.gethostname().partition(".")[0].lower() or "localhost"
    return tuple(dict.fromkeys(("localhost", name, f"{name}.local", "127.0.0.1", "::1", lan_address())))


def local_certificate(folder: Path, names: tuple[str, ...] | None = None) -> tuple[Path, Path]:
    """(certificate, key) of this machine, signed by the authority in `folder`; both are made or renewed as needed.

    Raises ConfigError.
    """
    x509 = _library()
    wanted = host_names() if names is None else names
    certificate, key = folder / "server.pem", folder / "server.secret"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        authority, authority_key, fresh = _authority(folder)
        if fresh or not _fits(certificate, wanted) or not key.exists():
            _write_server(certificate, key, authority, authority_key, wanted)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}): free the place or give a certificate"
        ) from None
    except (ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(f"{folder} holds a damaged certificate ({error}): remove the folder") from None
    return certificate, key


def _library() -> Any:
    try:
        from cryptography import x509
    except ModuleNotFoundError:
        raise ConfigError("--tls local needs cryptography: pip install 'frankenstream[server]'") from None
    return x509


def _authority(folder: Path) -> tuple[Any, Any, bool]:
    """(certificate, key, whether it is new)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    place, secret = folder / "ca.pem", folder / "ca.secret"
    if place.exists() and secret.exists():
        loaded = serialization.load_pem_private_key(secret.read_bytes(), None)
        return x509.load_pem_x509_certificate(place.read_bytes()), loaded, False
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, f"FrankenStream local authority, {host_names()[1]}")]
    )
    allowed: list[Any] = [x509.IPAddress(ipaddress.ip_network(net)) for net in _PRIVATE]
    allowed += [x509.IPAddress(ipaddress.ip_network(lan_address()))]
    allowed += [x509.DNSName(one) for one in ("localhost", "local", host_names()[1])]
    certificate = (
        _builder(name, name, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(x509, sign=True), critical=True)
        .add_extension(x509.NameConstraints(allowed, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_secret(secret, key)
    place.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key, True


def _write_server(place: Path, secret: Path, authority: Any, authority_key: Any, names: tuple[str, ...]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = x509.SubjectAlternativeName([_general_name(x509, name) for name in names])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "FrankenStream server")])
    certificate = (
        _builder(name, authority.subject, key.public_key(), _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(x509, sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write_secret(secret, key)
    place.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _builder(subject: Any, issuer: Any, public_key: Any, days: int) -> Any:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )  # fmt: skip


def _usage(x509: Any, *, sign: bool) -> Any:
    return x509.KeyUsage(
        digital_signature=not sign, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=sign, crl_sign=sign, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(x509: Any, name: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _fits(place: Path, names: tuple[str, ...]) -> bool:
    """Whether the certificate is for all `names` and valid for a while yet."""
    from cryptography import x509

    if not place.exists():
        return False
    certificate = x509.load_pem_x509_certificate(place.read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    until = certificate.not_valid_after_utc - datetime.timedelta(days=_RENEW_DAYS)
    return {_general_name(x509, name) for name in names} <= set(found) and datetime.datetime.now(datetime.UTC) < until


def _write_secret(place: Path, key: Any) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    place.unlink(missing_ok=True)
    # Created with its mode: a file that is restricted afterwards can be read in between.
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
