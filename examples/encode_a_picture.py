"""What an edge does to a picture, step by step, without any network: pixels → latent → symbols → bytes → symbols."""

from __future__ import annotations

import numpy as np

from frankenstream import Bundle, FrameEncoder, open_source
from pipeline.codec import quantise
from recordings.samples import sample_path


def main() -> None:
    bundle = Bundle.open()
    encoder = FrameEncoder(bundle)
    codec = bundle.latent_codec()
    index = bundle.edge_spec.operating_point_index()

    pixels, _ = next(iter(open_source(str(sample_path()))))
    latent = encoder.analyse(encoder.preprocess(pixels))
    symbols = quantise(latent, bundle.latent_spec.operating_points[index])
    payload = codec.encode(symbols, index)
    decoded = codec.decode(payload)

    print(f"{pixels.shape[1]}×{pixels.shape[0]} pixels → {symbols.size} symbols → {len(payload)} bytes")
    equal = np.array_equal(decoded.symbols, symbols)
    print(f"decoded {decoded.decoded_layers} of {decoded.layers} layers, equal: {equal}")
    half = codec.decode(codec.encode(symbols, index, layers=4))
    print(f"the first half of the layers decodes alone: {half.decoded_layers} layers")


if __name__ == "__main__":
    main()
