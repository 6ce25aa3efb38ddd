"""The tasks' side of a server's admin interface, for the command line."""

from __future__ import annotations

import json
import secrets
import urllib.parse
from collections.abc import Sequence
from typing import Any

from frankenstream.admin_client import TIMEOUT_S, AdminClient
from tasks.head_file import HeadFiles


class TaskClient(AdminClient):
    """Lists, hands over, takes back and removes tasks, and captures features. See AdminClient."""

    def tasks(self) -> dict[str, Any]:
        """What is served, and what was refused."""
        answer: dict[str, Any] = json.loads(self.call("GET", "/api/v1/tasks"))
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
        answer: dict[str, Any] = json.loads(self.call("PUT", f"/api/v1/tasks/{_quoted(name)}", bytes(body), kind))
        return answer

    def roll_back(self, name: str, version: int = 0) -> dict[str, Any]:
        path = f"/api/v1/tasks/{_quoted(name)}/rollback"
        answer: dict[str, Any] = json.loads(self.call("POST", path, _json({"version": version})))
        return answer

    def remove(self, name: str) -> None:
        self.call("DELETE", f"/api/v1/tasks/{_quoted(name)}")

    def capture(self, **wish: Any) -> bytes:
        """The features of a session's next frames, as a safetensors file."""
        return self.call("POST", "/api/v1/captures", _json(wish), timeout_s=wish["wait_s"] + TIMEOUT_S)

    def choose(self, session: str, tasks: Sequence[str], top_k: int) -> None:
        """Other tasks for a session."""
        self.call("POST", f"/api/v1/sessions/{_quoted(session)}/tasks", _json({"tasks": list(tasks), "top_k": top_k}))


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
