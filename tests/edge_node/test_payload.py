"""Frames to bitstreams and JPEGs, timed stage by stage."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from edge_node.payload import JpegPayload, LatentPayload, to_pixels
from pipeline.clock import VirtualClock
from pipeline.codec.quantisation import quantise
from pipeline.errors import ConfigError
from pipeline.frame import Frame
from pipeline.preprocess import PreprocessSpec
from pipeline.runtime.encoder import FrameEncoder
from tests.bundles import random_bundle


def a_frame(height: int = 48, width: int = 64) -> Frame:
    return Frame(0, 1.0, np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


class Ticking(VirtualClock):
    """Moves on by a second with every look."""

    def __call__(self) -> float:
        self.advance(1.0)
        return super().__call__()


def test_a_bitstream_decodes_to_the_symbols_of_the_frame(tmp_path: Path) -> None:
    """Preprocess, analysis, quantisation and entropy coding in a row; marks in order."""
    bundle = random_bundle(tmp_path / "bundle", backbones=(), tasks=())
    encoder, codec, points = FrameEncoder(bundle), bundle.latent_codec(), bundle.latent_spec.operating_points
    payload = LatentPayload(encoder, codec, points, operating_point=1, clock=Ticking(3.0))
    frame = a_frame()
    encoded = payload.encode(frame, 2.0)
    expected = quantise(encoder.analyse(encoder.preprocess(frame.pixels)), points[1])
    np.testing.assert_array_equal(codec.decode(encoded.payload).symbols, expected)
    marks = encoded.marks
    stamps = (marks.captured_at, marks.capture_done, marks.preprocess_done, marks.analysis_done, marks.encode_done)
    assert stamps == (1.0, 2.0, 4.0, 5.0, 6.0)


def test_quality_and_layers_can_be_changed_while_running(tmp_path: Path) -> None:
    """A lower operating point and fewer layers are fewer bytes."""
    bundle = random_bundle(tmp_path / "bundle", backbones=(), tasks=())
    payload = LatentPayload(
        FrameEncoder(bundle), bundle.latent_codec(), bundle.latent_spec.operating_points, operating_point=2
    )
    high = len(payload.encode(a_frame(), 1.0).payload)
    payload.operating_point = 0
    low = len(payload.encode(a_frame(), 1.0).payload)
    payload.layers = 2
    assert len(payload.encode(a_frame(), 1.0).payload) < low < high


def test_a_jpeg_is_what_the_encoder_would_see() -> None:
    """The same square at the same size; analysis takes no time."""
    av = pytest.importorskip("av")
    encoded = JpegPayload(PreprocessSpec(size=32), quality=95).encode(
        Frame(0, 1.0, np.full((48, 64, 3), (200, 100, 50), np.uint8)), 1.0
    )
    context = av.CodecContext.create("mjpeg", "r")
    pixels = context.decode(av.Packet(encoded.payload))[0].to_ndarray(format="rgb24")
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 6
    assert encoded.marks.analysis_done == encoded.marks.preprocess_done


def test_jpegs_without_a_library_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The light edge has none."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install simplejpeg"):
        JpegPayload(PreprocessSpec())


def test_pixels_survive_the_way_to_the_encoders_input_and_back() -> None:
    """Rounding is exact for 8-bit values."""
    frame = a_frame(16, 16)
    from pipeline.preprocess import Preprocessor

    np.testing.assert_array_equal(to_pixels(Preprocessor(PreprocessSpec(size=16))(frame.pixels)), frame.pixels)
