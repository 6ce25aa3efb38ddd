"""What is refused over HTTP with a status of its own; every other FrankenError is 422."""

from __future__ import annotations

from pipeline.errors import ConfigError


class RequestRefused(ConfigError):
    """A line for whoever asked; `status` is HTTP's."""

    def __init__(self, line: str, status: int = 422) -> None:
        super().__init__(line)
        self.status = status
