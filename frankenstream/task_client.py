"""The tasks' side of a server's admin interface, for the command line: urllib, one line for whatever goes wrong."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from pipeline.errors import BundleError, ConfigError, TransportError
from tasks.head_file import HeadFiles

_TIMEOUT_S = 60.0


class TaskClient:
    """Talks to the server at `url` (http://HOST:PORT). `token`: bearer token, required beyond loopback.

    Every call raises TransportError if nobody answers, ConfigError without the right token, BundleError with the
    server's own line where it refuses.
    """

    def __init__(self, url: str, *, token: str = "") -> None:
        whole = url if "://" in url else f"http://{url}"
        parts = urllib.parse.urlsplit(whole)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(
                f"server is {url!r}, expected its admin interface, http://HOST:PORT (see `frankenstream serve --http`)"
            )
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._token = token

    def tasks(self) -> dict[str, Any]:
        """What is served, and what was refused."""
        answer: dict[str, Any] = json.loads(self._call("GET", "/api/v1/tasks"))
        return answer

    def put(self, name: str, files: Sequence[HeadFiles]) -> dict[str, Any]:
        """Hand a version over; the server's answer says which number it got there."""
        edge = secrets.token_hex(16)
        body = bytearray()
        for head in files:
            for field, data in (("head", head.toml), ("arrays", head.arrays)):
                heading = f'Content-Disposition: form-data; name="{field}"; filename="{field}"'
                body += f"--{edge}\r\n{heading}\r\n\r\n".encode()
                body += data + b"\r\n"
        body += f"--{edge}--\r\n".encode()
        kind = f"multipart/form-data; boundary={edge}"
        answer: dict[str, Any] = json.loads(self._call("PUT", f"/api/v1/tasks/{_quoted(name)}", bytes(body), kind))
        return answer

    def roll_back(self, name: str, version: int = 0) -> dict[str, Any]:
        path = f"/api/v1/tasks/{_quoted(name)}/rollback"
        answer: dict[str, Any] = json.loads(self._call("POST", path, _json({"version": version})))
        return answer

    def remove(self, name: str) -> None:
        self._call("DELETE", f"/api/v1/tasks/{_quoted(name)}")

    def capture(self, **wish: Any) -> bytes:
        """The features of a session's next frames, as a safetensors file."""
        return self._call("POST", "/api/v1/captures", _json(wish), timeout_s=wish["wait_s"] + _TIMEOUT_S)

    def choose(self, session: str, tasks: Sequence[str], top_k: int) -> None:
        """Other tasks for a session."""
        self._call("POST", f"/api/v1/sessions/{_quoted(session)}/tasks", _json({"tasks": list(tasks), "top_k": top_k}))

    def _call(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json",
        timeout_s: float = _TIMEOUT_S,
    ) -> bytes:  # fmt: skip
        request = urllib.request.Request(self.url + path, data=body, method=method)
        if body is not None:
            request.add_header("Content-Type", kind)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            raise _refusal(self.url, error) from None
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise TransportError(
                f"no server answers at {self.url} ({reason}): is `frankenstream serve` running?"
            ) from None


def _refusal(url: str, error: urllib.error.HTTPError) -> ConfigError | BundleError | TransportError:
    text = error.read().decode(errors="replace")
    try:
        line = str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        line = text.strip() or error.reason
    if error.code == 401:
        return ConfigError(f"{url} wants its admin token: give --token, or set FRANKENSTREAM_ADMIN_TOKEN")
    if error.code in (404, 422) and text.startswith("{"):
        return BundleError(f"the server refused: {line}")
    return TransportError(f"{url} answered {error.code}: {' '.join(line.split())[:300]}")


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
