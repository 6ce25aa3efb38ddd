"""Who may stream over HTTP: the tokens that a server knows, and the links that pair a device once.

A paired device gets a token of its own: a random name and a check that only this server can make (HMAC-SHA256 with its
secret). So nothing is stored for each device, tokens survive a restart with the same secret, and a new secret ends all.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable
from typing import Final

from pipeline.clock import Clock, monotonic
from pipeline.transports.access import check_token

INVITATION_S: Final = 600.0
"""How long a pairing link can be used, in seconds."""
INVITATIONS_MAX: Final = 32
"""Links that can be open at one time; a new one ends the oldest."""


class TokenBook:
    """Accepts `tokens` (empty ones do not count) and those of paired devices. Thread-safe. Raises ConfigError."""

    def __init__(
        self,
        *tokens: str,
        secret: bytes = b"",
        clock: Clock = monotonic,
        random: Callable[[int], str] = secrets.token_urlsafe,
    ) -> None:
        self._tokens = tuple(token.encode() for token in tokens if token)
        for token in tokens:
            if token:
                check_token(token)
        self._secret = secret or secrets.token_bytes(32)
        self._clock = clock
        self._random = random
        self._guard = threading.Lock()
        self._invitations: dict[str, float] = {}

    def accepts(self, token: str) -> bool:
        """Whether somebody who shows `token` may stream."""
        given = token.encode("utf-8", "replace")
        known = [hmac.compare_digest(given, one) for one in self._tokens]
        name, _, check = token.rpartition(".")
        paired = bool(name) and hmac.compare_digest(check.encode("utf-8", "replace"), self._check(name).encode())
        return any(known) or paired

    def invite(self) -> str:
        """A code that can be redeemed once, within INVITATION_S."""
        code = self._random(16)
        with self._guard:
            self._invitations[code] = self._clock() + INVITATION_S
            while len(self._invitations) > INVITATIONS_MAX:
                del self._invitations[next(iter(self._invitations))]
        return code

    def redeem(self, code: str) -> str | None:
        """The token for a code; None if it was used, is too old, or never was."""
        with self._guard:
            until = self._invitations.pop(code, None)
        if until is None or self._clock() > until:
            return None
        name = self._random(12)
        return f"{name}.{self._check(name)}"

    def _check(self, name: str) -> str:
        return hmac.new(self._secret, name.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:40]
