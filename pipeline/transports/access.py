"""Who may stream over the HTTP port, and how both ends prove who they are: token, TLS, ICE servers.

ZeroMQ has keys (keys.py); WebSocket and WebRTC have a bearer token inside TLS, which is what browsers can do. Beyond
loopback a server wants a token; `wss` and `webrtc+https` check the server's certificate against the system's
authorities, or against `ca_file` (a local authority, see tls.py).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from pipeline.errors import ConfigError

TOKEN_CHARS = re.compile(r"[A-Za-z0-9._~-]+")
"""What a token is made of: it travels as a WebSocket subprotocol, which allows no others."""


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server: `url` as in RFC 7064/7065, user and password for TURN."""

    url: str
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> IceServer:
        """`stun:HOST:PORT`, `turn:USER:PASSWORD@HOST:PORT`, `turns:…` (user and password percent-encoded).

        Raises ConfigError.
        """
        scheme, _, rest = text.partition(":")
        account, _, place = rest.rpartition("@")
        host = place.partition("?")[0]
        if scheme not in ("stun", "stuns", "turn", "turns") or not host or any(letter in host for letter in "/ "):
            raise ConfigError(f"ice server is {text!r}, expected stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT")
        user, _, password = account.partition(":")
        return cls(f"{scheme}:{place}", unquote(user), unquote(password))


@dataclass(frozen=True, slots=True)
class ClientAccess:
    """What an edge shows and trusts. `fallback`: go over to WebSocket where WebRTC finds no way."""

    token: str = field(default="", repr=False)
    ca_file: Path | None = None
    ice_servers: tuple[IceServer, ...] = ()
    fallback: bool = True

    def tls(self) -> ssl.SSLContext:
        """What checks the server's certificate. Raises ConfigError if the authority's file is none."""
        try:
            return ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{self.ca_file} is no certificate of an authority ({error}): copy the server's ca.pem"
            ) from None


def untrusted(url: str, error: ssl.SSLCertVerificationError) -> str:
    """One line for people."""
    return (
        f"{url} has a certificate that is not trusted here ({error.verify_message}): "
        "copy the server's ca.pem and name it with --ca"
    )


def anyone(token: str) -> bool:
    """Accepts any token: for a server on loopback."""
    return True


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """Whom a server lets in over HTTP. `accepts(token)` decides; `required`: whether a token is needed at all."""

    accepts: Callable[[str], bool] = anyone
    required: bool = False
    origins: tuple[str, ...] = ()
    """Further pages that may connect, e.g. https://cameras.example; the server's own always may."""
    ice_servers: tuple[IceServer, ...] = ()
    tls: ssl.SSLContext | None = None

    @classmethod
    def with_token(cls, token: str, **more: object) -> ServerAccess:
        """One token for everybody; empty: none is needed. Raises ConfigError."""
        if not token:
            return cls(**more)  # type: ignore[arg-type]
        check_token(token)
        expected = token.encode()
        return cls(lambda given: hmac.compare_digest(given.encode(), expected), True, **more)  # type: ignore[arg-type]

    def key_of(self, token: str) -> bytes:
        """What a session is bound to: a digest of the token, empty without one."""
        return hashlib.sha256(token.encode()).digest() if self.required else b""

    def lets_in_page(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` (header, empty for programs) may connect to the server that it calls `host`."""
        if not origin:
            return True
        return origin.partition("://")[2] == host or origin in self.origins


def check_token(token: str) -> None:
    """Raises ConfigError unless the token can be sent by a browser."""
    if not TOKEN_CHARS.fullmatch(token):
        raise ConfigError("the token has characters beyond A-Z a-z 0-9 - . _ ~: browsers could not send it")
