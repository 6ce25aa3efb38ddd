"""CURVE keys as files: who may connect, and to whom (`frankenstream keys` makes them).

A key pair is two TOML files: `NAME.key` (public, may be copied around) and `NAME.secret` (private, mode 0600, never
leaves its machine). A server has a folder:

    server.key, server.secret      its own pair; edges get a copy of server.key
    clients/*.key                  the public keys of the edges that may connect

Keys are 40 printable characters (Z85, ZeroMQ RFC 32).
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ConfigError

_KEY_CHARS = 40


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """The server's own pair and the public keys of the clients that may connect."""

    public: bytes
    secret: bytes = field(repr=False)
    clients: frozenset[bytes] = frozenset()

    @classmethod
    def load(cls, folder: Path) -> ServerKeys:
        """From a folder with server.key, server.secret and clients/*.key. Raises ConfigError."""
        clients = frozenset(load_public(path) for path in sorted((folder / "clients").glob("*.key")))
        return cls(load_public(folder / "server.key"), load_secret(folder / "server.secret"), clients)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """An edge's own pair and the public key of the server that it expects."""

    public: bytes
    secret: bytes = field(repr=False)
    server_public: bytes = b""

    @classmethod
    def load(cls, secret: Path, server_key: Path) -> ClientKeys:
        """From NAME.secret (NAME.key beside it) and a copy of server.key. Raises ConfigError."""
        return cls(load_public(secret.with_suffix(".key")), load_secret(secret), load_public(server_key))

    @classmethod
    def from_folder(cls, folder: Path) -> ClientKeys:
        """From a folder with edge.key, edge.secret and server.key (`frankenstream keys admit`). Raises ConfigError."""
        return cls.load(folder / "edge.secret", folder / "server.key")


def generate() -> tuple[bytes, bytes]:
    """A new key pair: (public, secret), 40 characters each."""
    import zmq

    public, secret = zmq.curve_keypair()
    return public, secret


def write_pair(folder: Path, name: str) -> bytes:
    """Make NAME.key and NAME.secret in `folder`; returns the public key. Raises ConfigError if one is there already."""
    public, secret = generate()
    folder.mkdir(parents=True, exist_ok=True)
    key_file, secret_file = folder / f"{name}.key", folder / f"{name}.secret"
    for path in (key_file, secret_file):
        if path.exists():
            raise ConfigError(f"{path} exists already: remove it first if it is to be replaced")
    key_file.write_text(f'# FrankenStream public key of "{name}": may be copied.\npublic = "{public.decode()}"\n')
    # Created with its mode: a file that is restricted afterwards can be read in between.
    descriptor = os.open(secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f'# FrankenStream secret key of "{name}": keep it on this machine.\nsecret = "{secret.decode()}"\n')
    return public


def load_public(path: Path) -> bytes:
    """The public key in a .key file. Raises ConfigError."""
    return _load(path, "public")


def load_secret(path: Path) -> bytes:
    """The secret key in a .secret file. Raises ConfigError, also if other users can read the file."""
    if os.name == "posix" and path.exists() and path.stat().st_mode & 0o077:
        mode = path.stat().st_mode & 0o777
        raise ConfigError(f"{path} has mode {mode:03o}, expected 600: run `chmod 600 {path}`")
    return _load(path, "secret")


def _load(path: Path, field_name: str) -> bytes:
    try:
        key = tomllib.loads(path.read_text()).get(field_name)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): make keys with `frankenstream keys`") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no key file: {error}") from None
    if not isinstance(key, str) or len(key) != _KEY_CHARS or not key.isascii():
        raise ConfigError(
            f"{path} has no {field_name} key of {_KEY_CHARS} characters: make keys with `frankenstream keys`"
        )
    return key.encode()
