"""The stages of a frame sum to the time from its capture to its result, as somebody outside measures it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from analytics_server.server import Server
from edge_node.node import EdgeNode, NodeSettings
from edge_node.payload import LatentPayload
from edge_node.records import FrameLog, FrameRecord, link_state
from pipeline.bundle import Bundle
from pipeline.clock import monotonic
from pipeline.frame import Picture
from pipeline.runtime.encoder import FrameEncoder
from pipeline.runtime.engine import Features, NullEngine
from pipeline.stages import CAPTURE_TO_RESULT
from pipeline.transports import connect
from pipeline.wire import EdgeSession
from tests.bundles import backbone, random_bundle

FRAMES = 12


class Engine(NullEngine):
    """Takes 20 ms a batch, and says so."""

    def from_latents(self, latents_BCHW: np.ndarray) -> Features:
        began = monotonic()
        time.sleep(0.015)  # what an engine does instead of computing; nothing waits for it to be over
        middle = monotonic()
        time.sleep(0.005)
        pooled = np.zeros((len(latents_BCHW), self.feature_width), np.float32)
        return Features(pooled, middle - began, monotonic() - middle)


class Noise:
    """A few pictures of noise."""

    name, live, fps = "noise", False, 30.0

    def __iter__(self) -> Iterator[Picture]:
        rng = np.random.default_rng(0)
        for number in range(FRAMES):
            yield rng.integers(0, 256, (120, 160, 3), np.uint8), number / self.fps

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    only = backbone("null", alias="", pooled_width=8, default=True)
    return random_bundle(tmp_path_factory.mktemp("sums") / "bundle", backbones=(only,))


def test_stages_sum_to_capture_to_result_within_two_percent(bundle: Bundle, tmp_path: Path) -> None:
    """Over a real socket; the log has every stage, sizes, credit and clock of every frame."""
    measured: dict[int, float] = {}
    session = EdgeSession(codec_id=bundle.codec_id, lossless=True)
    file = tmp_path / "frames.jsonl"
    payload = LatentPayload(FrameEncoder(bundle), bundle.latent_codec(), bundle.operating_points, operating_point=1)
    with Server(bundle, ["tcp://127.0.0.1:0"], engines=[Engine("null")]) as server, FrameLog(file) as log:

        def ended(record: FrameRecord) -> None:
            measured[record.frame] = (monotonic() - record.captured_at) * 1e3
            log.write(record, link_state(session, input_pixels=payload.input_pixels))

        node = EdgeNode(
            Noise(), payload, session,
            lambda session, on_event: connect(server.urls[0], session, on_event),
            settings=NodeSettings(lossless=True), on_record=ended,
        )  # fmt: skip
        node.run()

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["state"] for line in lines] == ["answered"] * FRAMES
    errors = []
    for line in lines:
        assert list(line["stages_ms"]) == list(CAPTURE_TO_RESULT)
        total = sum(line["stages_ms"].values())
        assert total == pytest.approx(line["capture_to_result_ms"], rel=0.02)
        assert line["payload_bytes"] < line["wire_bytes"]
        assert line["bits_per_pixel"] == pytest.approx(line["payload_bytes"] * 8 / 224**2, rel=0.01)
        assert line["layers"] == 8
        assert line["credits"] >= 0
        errors.append(abs(total - measured[line["frame"]]) / measured[line["frame"]])
    assert statistics.median(errors) < 0.02
    assert any("clock_offset_ms" in line and line["clock_error_ms"] >= 0 for line in lines)
