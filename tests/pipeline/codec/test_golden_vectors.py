"""Golden vectors: bytes that every version, machine and language must make and read the same."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.codec import EntropyModel, LatentCodec, LatentSpec, Reference, parse_contexts
from pipeline.errors import BitstreamError, EngineError
from tests.codecs import points

FOLDER = Path(__file__).parents[2] / "golden" / "bitstream"
FILES = sorted(FOLDER.glob("*.json"))


def unpacked(text: str, shape: list[int]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<i2").astype(np.int16).reshape(shape)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def vector(request) -> dict[str, Any]:
    return json.loads(request.param.read_text(encoding="utf-8"))


@pytest.fixture(params=["c", "python"])
def codec(request, vector) -> LatentCodec:
    spec = vector["spec"]
    model = EntropyModel.from_bytes(base64.b64decode(vector["tables"]))
    contexts = parse_contexts(spec["contexts"], spec["layers"])
    operating_points = points(spec["operating_points"], spec["channels"])
    layers = tuple(spec["layers"])
    try:
        return LatentCodec(
            LatentSpec(spec["channels"], spec["stride"], layers, operating_points, contexts), model, coder=request.param
        )
    except EngineError as error:
        pytest.skip(str(error))


def test_there_are_vectors():
    assert len(FILES) >= 7


def test_frames_give_these_bytes_and_these_bytes_give_the_frames(codec, vector):
    for frame in vector["frames"]:
        symbols = unpacked(frame["symbols"], frame["shape"])
        reference, named = None, frame["reference"]
        if named:
            reference = Reference(
                named["epoch"], named["frame"], named["layers"], unpacked(named["symbols"], frame["shape"])
            )
        made = codec.encode(symbols, frame["operating_point"], layers=frame["layers_asked"], reference=reference)
        assert frame["bitstream"] == made[: frame["cut"]].hex(), frame["what"]
        decoded = codec.decode(
            bytes.fromhex(frame["bitstream"]), references={reference.id: reference} if reference else None
        )
        expected = symbols if frame["decoded"] is None else unpacked(frame["decoded"], frame["shape"])
        np.testing.assert_array_equal(expected, decoded.symbols, err_msg=frame["what"])
        assert frame["decoded_layers"] == decoded.decoded_layers


def test_bad_bitstreams_are_refused(codec, vector):
    for case in vector["refused"]:
        with pytest.raises(BitstreamError):
            codec.decode(bytes.fromhex(case["bitstream"]))


def test_tables_files_come_back_byte_for_byte(vector):
    data = base64.b64decode(vector["tables"])
    assert data == EntropyModel.from_bytes(data).to_bytes()
