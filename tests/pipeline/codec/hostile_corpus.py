"""Damaged and hostile streams for the C coder, run under sanitizers by test_native_coder.py in a process of its own.

`python -m tests.pipeline.codec.hostile_corpus LIBRARY`: prints how many streams decoded and how many were refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.codec import LatentCodec, Reference, latent_codec
from pipeline.codec.bitstream import Header, HeaderReference, pack_header, parse_header
from pipeline.errors import BitstreamError
from pipeline.limits import SYMBOL_MAGNITUDE_MAX
from tests.codecs import CONTEXTS, random_reference, random_symbols, small_codec

STREAMS = 400


def damaged(codec: LatentCodec, rng: np.random.Generator, reference: Reference | None) -> Iterator[bytes]:
    """Good streams with bytes changed, cut, moved or made up, most behind a header that is made to fit."""
    named = reference and HeaderReference(reference.epoch, reference.frame, reference.layers)
    height, width = (5, 6) if reference else (int(rng.integers(1, 12)), int(rng.integers(1, 12)))
    for _ in range(STREAMS):
        symbols = random_symbols(rng, height, width, scale=float(rng.choice([0.3, 3.0, 900.0])))
        good = codec.encode(symbols, int(rng.integers(2)), reference=reference)
        header, start = parse_header(good)
        body = bytearray(good[start:])
        for _ in range(int(rng.integers(1, 6))):
            if body:
                body[int(rng.integers(len(body)))] = int(rng.integers(256))
        if rng.random() < 0.3:
            body = bytearray(rng.bytes(len(body)))
        lengths = list(header.lengths)
        if rng.random() < 0.3:
            lengths[int(rng.integers(3))] = int(rng.choice([0, 1, 2, 3, len(body), 2**31, 2**40]))
        wider = rng.random() < 0.2 and reference is None
        grid = (int(rng.integers(1, 257)), int(rng.integers(1, 40))) if wider else (height, width)
        yield pack_header(Header(int(rng.integers(2)), *grid, tuple(lengths), named)) + body[: int(2 * sum(lengths))]
        yield good[: int(rng.integers(len(good) + 1))]


def main(library: Path) -> None:
    latent_codec.LIBRARY = library
    decoded = refused = 0
    for name in CONTEXTS:
        for precision in (12, 16):
            codec = small_codec(name, coder="c", precision=precision)
            for with_reference in (False, True) if codec.takes_references else (False,):
                rng = np.random.default_rng(precision)
                reference = random_reference(rng, 5, 6, layers=2) if with_reference else None
                held = {reference.id: reference} if reference else None
                for stream in damaged(codec, rng, reference):
                    try:
                        symbols = codec.decode(stream, references=held).symbols
                    except BitstreamError:
                        refused += 1
                        continue
                    decoded += 1
                    assert np.abs(symbols).max() <= SYMBOL_MAGNITUDE_MAX
    print(f"decoded {decoded} refused {refused}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
