"""Makes the golden vectors beside it: `python -m tests.golden.bitstream.make_vectors`, with the Python reference coder.

Changed bytes mean a new bitstream version (docs/protocol.md): then, and only then, run this again. Each file is JSON:
`spec` (channels, stride, layers, contexts), `tables` (base64 of tables.msgpack), `frames` (symbols in, bitstream out)
and `refused` (bitstreams that must not decode). Arrays are base64 of little-endian int16; bitstreams are hex.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codec import LatentCodec, LatentSpec, Reference, contexts_data
from tests.codecs import CONTEXTS, full_model, points, random_reference, random_symbols, small_codec

FOLDER = Path(__file__).parent


def packed(array: NDArray[Any]) -> str:
    return base64.b64encode(array.astype("<i2").tobytes()).decode()


def frame(
    codec: LatentCodec,
    symbols: NDArray[np.int16],
    point: int,
    *,
    what: str,
    reference: Reference | None = None,
    layers: int | None = None,
    cut: int | None = None,
) -> dict[str, Any]:
    bitstream = codec.encode(symbols, point, reference=reference, layers=layers)[:cut]
    decoded = codec.decode(bitstream, references={reference.id: reference} if reference else None)
    return {
        "what": what,
        "operating_point": point,
        "shape": list(symbols.shape),
        "symbols": packed(symbols),
        "layers_asked": layers,
        "cut": cut,
        "reference": None
        if reference is None
        else {
            "epoch": reference.epoch,
            "frame": reference.frame,
            "layers": reference.layers,
            "symbols": packed(reference.symbols),
        },
        "bitstream": bitstream.hex(),
        "decoded_layers": decoded.decoded_layers,
        "decoded": None if (decoded.symbols == symbols).all() else packed(decoded.symbols),
    }


def refused(bitstream: bytes, why: str) -> dict[str, str]:
    return {"why": why, "bitstream": bitstream.hex()}


def vector(codec: LatentCodec, frames: list[dict[str, Any]], bad: list[dict[str, str]]) -> dict[str, Any]:
    spec, model = codec.spec, codec.model
    return {
        "version": 1,
        "spec": {
            "channels": spec.channels,
            "stride": spec.stride,
            "layers": list(spec.layers),
            "operating_points": len(spec.operating_points),
            "contexts": contexts_data(spec.contexts),
        },
        "tables": base64.b64encode(model.to_bytes()).decode(),
        "frames": frames,
        "refused": bad,
    }


def small_vector(name: str, seed: int, precision: int) -> dict[str, Any]:
    codec = small_codec(name, coder="python", seed=seed, precision=precision)
    rng = np.random.default_rng(seed)
    ordinary, wild = random_symbols(rng, 6, 7), random_symbols(rng, 5, 4, scale=300.0)
    wild[0, 0, :2] = 4095, -4095
    predicted = np.broadcast_to(codec.fill[:, None, None], (6, 3, 4)).astype(np.int16)
    frames = [
        frame(codec, ordinary, 0, what="ordinary symbols"),
        frame(codec, wild, 1, what="escapes, up to the largest magnitude"),
        frame(codec, predicted, 0, what="every channel is its prediction: layers of length 0"),
        frame(codec, ordinary, 1, what="two of three layers", layers=2),
        frame(codec, ordinary, 1, what="last word missing", cut=-2),
        frame(codec, random_symbols(rng, 1, 1), 0, what="one place"),
    ]
    if codec.takes_references:
        for layers in (3, 1):
            reference = random_reference(rng, 6, 7, layers=layers)
            frames.append(frame(codec, ordinary, 0, what=f"{layers} layers of a reference", reference=reference))
        reference = random_reference(rng, 6, 7)
        still = reference.symbols.copy()
        still[3, 2, 2] += 1
        frames.append(frame(codec, still, 1, what="one symbol differs from the reference", reference=reference))
        if codec.spec.contexts.places:
            frames += _partly_refreshed(codec, rng, reference)
    good = bytes.fromhex(frames[0]["bitstream"])
    bad = [
        refused(b"", "empty"),
        refused(b"\xf2" + good[1:], "another version"),
        refused(bytes([good[0] ^ 0x80]) + good[1:], "no magic"),
        refused(good[:6] + bytes([good[6] ^ 1]) + good[7:], "damaged header"),
        refused(good[:11], "cut in layer 0"),
        refused(good[:14] + bytes([good[14] ^ 4]) + good[15:], "damaged layer 0"),
        refused(good + b"\0", "bytes after the last layer"),
    ]
    return vector(codec, frames, bad)


def _partly_refreshed(codec: LatentCodec, rng: np.random.Generator, reference: Reference) -> list[dict[str, Any]]:
    """Frames of which a third of the places is refreshed, or only the last place in the last layer."""
    mixed = np.where(rng.random((6, 7)) < 1 / 3, random_symbols(rng, 6, 7), reference.symbols).astype(np.int16)
    last = reference.symbols.copy()
    last[-1, -1, -1] += 2
    return [
        frame(codec, mixed, 0, what="a third of the places is refreshed", reference=reference),
        frame(codec, mixed, 1, what="the same, one layer", reference=reference, layers=1),
        frame(codec, last, 1, what="the last place in the last layer only", reference=reference),
        frame(codec, reference.symbols, 0, what="nothing is refreshed", reference=reference),
    ]


def full_vector() -> dict[str, Any]:
    rng = np.random.default_rng(48)
    model, scales = full_model()
    codec = LatentCodec(LatentSpec(48, 8, (6,) * 8, points(1, 48)), model, coder="python")
    symbols = np.rint(rng.laplace(0, scales[:, None, None], (48, 14, 14))).astype(np.int16)
    return vector(codec, [frame(codec, symbols, 0, what="48 channels, eight layers")], [])


def main() -> None:
    vectors = {
        name.replace(", ", "-"): small_vector(name, seed, precision)
        for seed, (name, precision) in enumerate(zip(CONTEXTS, (12, 12, 12, 13, 12, 16, 12, 13, 12), strict=True))
    }
    vectors["full"] = full_vector()
    for name, content in vectors.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
