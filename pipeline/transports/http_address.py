"""Addresses of servers that are reached over HTTP: ws(s)://HOST:PORT and webrtc+http(s)://HOST:PORT."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.errors import TransportError

STREAM_PATH = "/api/v1/stream"
OFFER_PATH = "/api/v1/webrtc/offer"
WEBRTC_PATH = "/api/v1/webrtc"
SUBPROTOCOL = "frankenstream.v1"
TOKEN_PROTOCOL = "frankenstream.token."
"""Browsers put the token behind this prefix into a second subprotocol: they can send no headers of their own."""

CLOSE_PROTOCOL, CLOSE_TOO_BIG, CLOSE_UNAUTHORISED, CLOSE_NO_HELLO = 1002, 1009, 4401, 4408

_TLS = {"ws": False, "wss": True, "webrtc+http": False, "webrtc+https": True}


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where a server's HTTP port is."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str, *, any_port: bool = False) -> HttpAddress:
        """From a transport URL; the port is that of HTTP(S) if none is given. Raises TransportError."""
        example = "expected for example ws://127.0.0.1:8080 or webrtc+http://127.0.0.1:8080"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise TransportError(f"{url!r} has no port from 0 to 65535, {example}") from None
        if parts.scheme not in _TLS or not parts.hostname:
            raise TransportError(f"{url!r} has no host, {example}")
        if parts.path not in ("", "/", STREAM_PATH) or parts.query or parts.fragment or parts.username:
            raise TransportError(f"{url!r} has more than host and port, {example}: a token is given by --token")
        if port is None:
            port = 443 if _TLS[parts.scheme] else 80
        if port == 0 and not any_port:
            raise TransportError(f"{url!r} names no server, expected a port above 0")
        return cls(parts.scheme, parts.hostname, port)

    @property
    def tls(self) -> bool:
        """Whether it is reached over TLS."""
        return _TLS[self.scheme]

    @property
    def host_text(self) -> str:
        """Host with brackets if it is an IPv6 address."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def authority(self) -> str:
        """HOST:PORT as in the Host header."""
        return f"{self.host_text}:{self.port}"

    @property
    def web_socket(self) -> str:
        """URL of the WebSocket."""
        return f"{'wss' if self.tls else 'ws'}://{self.authority}{STREAM_PATH}"

    def with_port(self, port: int) -> str:
        """The transport URL with the real port."""
        return f"{self.scheme}://{self.host_text}:{port}"
