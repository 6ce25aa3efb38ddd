"""The edge benchmark: its keys are a contract; its times are not tested."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("simplejpeg")
pytest.importorskip("PIL")

from benchmarks import edge
from edge_node.sources import open_source
from tests.bundles import random_bundle

VARIANT_KEYS = {
    "preprocess_p50_ms", "analysis_p50_ms", "entropy_encode_p50_ms", "entropy_decode_p50_ms", "whole_p50_ms",
    "whole_p99_ms", "whole_640x480_p50_ms", "whole_1280x720_p50_ms",
}  # fmt: skip


def test_every_variant_has_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that cannot be made here are named."""
    monkeypatch.setattr(edge, "export_missing", lambda *arguments: "encoders that the bundle does not carry: no torch")
    monkeypatch.setattr(edge, "PICTURES", 2)
    figures = edge.measure(random_bundle(tmp_path / "bundle", backbones=(), tasks=()), 3)
    assert figures["variants"].keys() == {"stem-fp32"}
    assert figures["variants"]["stem-fp32"].keys() >= VARIANT_KEYS
    assert figures.keys() >= {"jpeg_q90_p50_ms", "webp_q80_p50_ms", "left_out"}
    assert "no torch" in figures["left_out"]


def test_memory_is_taken_from_a_process_that_does_an_edges_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In MB; here only that it is plausible."""
    monkeypatch.setattr(edge, "RSS_FRAMES", 20)
    figures = edge.measure_rss(random_bundle(tmp_path / "bundle", backbones=(), tasks=()))
    assert 20 < figures["rss_mb"] < 4000
    assert 20 < figures["rss_early_mb"] < 4000


def test_a_bundle_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the exit code of its error."""
    monkeypatch.setattr(edge, "pin_to_one_core", lambda: None)
    monkeypatch.setattr(sys, "argv", ["edge", "--bundle", "no-such-bundle"])
    assert edge.main() == 5
    assert "no-such-bundle" in capsys.readouterr().err


def test_the_pictures_are_those_of_the_sample_clip(tmp_path: Path) -> None:
    """The encoder's square, or the whole frame at the column's size."""
    bundle = random_bundle(tmp_path / "bundle", backbones=(), tasks=())
    assert edge.sample_pictures(None, bundle)[0].shape == (224, 224, 3)
    assert edge.sample_pictures((320, 240), bundle)[0].shape == (240, 320, 3)
    assert next(iter(open_source(str(edge.sample_path()))))[0].shape == (480, 640, 3)
