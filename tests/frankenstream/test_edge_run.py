"""How a run of the edge is put together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from frankenstream import edge_run
from pipeline.errors import ConfigError


def test_traces_name_the_source_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """They leave this machine."""
    named: list[str] = []

    def open_sinks(output: object, stack: object, *, source: str, notify: object) -> None:
        named.append(source)
        raise ConfigError("far enough")

    monkeypatch.setattr(edge_run, "open_sinks", open_sinks)
    monkeypatch.setattr(edge_run, "open_edge_bundle", lambda path: None)
    monkeypatch.setattr(edge_run, "open_source", lambda text, **options: SimpleNamespace(name="rtsp://host/s"))
    with pytest.raises(ConfigError, match="far enough"):
        edge_run.run_edge(edge_run.EdgeRun(source="rtsp://admin:secret@host/s", server=""), console=Console())
    assert named == ["rtsp://host/s"]
