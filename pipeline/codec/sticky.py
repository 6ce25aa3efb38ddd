"""Sticky symbols: keep the reference's symbol where the latent has hardly moved.

Noise of the sensor and slight movements push latents back and forth over the border between two symbols, and each
crossing costs bits without telling anything. So where a latent lies within a threshold of the reference's symbol (in
symbols; rounding itself goes up to 0.5), that symbol stays, although another may be nearest.

It is the encoder's choice alone: the bitstream and its decoder know nothing of it. The distance is always that of the
*present* latent, before rounding, to the symbol that would be kept, never that between one frame and the next, so a
slow drift is followed as soon as it has gone further than the threshold and errors do not add up
(tests/pipeline/codec/test_sticky.py):

    |latent in symbols − symbol| ≤ max(0.5, threshold), for every frame, however long the stream

Axes: C channels, H W the latent's grid; c ≤ C the channels that both ends hold of the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.codec.quantisation import Latent, OperatingPoint, Symbols, in_symbols, nearest_symbols, quantise


def quantise_sticky(
    latent_CHW: Latent, point: OperatingPoint, held_cHW: Symbols, *, threshold: float | None = None
) -> Symbols:
    """Symbols of a frame, int16 [C, H, W], which keep those of its reference, int16 [c, H, W], where they fit.

    `threshold` in symbols; None: the operating point's own. Up to 0.5 it changes nothing.
    """
    reach = point.sticky_threshold if threshold is None else threshold
    scaled_CHW = in_symbols(latent_CHW, point)
    symbols_CHW = nearest_symbols(scaled_CHW)
    if reach > 0.5:
        keep(symbols_CHW, scaled_CHW, held_cHW, reach)
    return symbols_CHW


def keep(symbols_CHW: Symbols, scaled_CHW: Latent, held_cHW: Symbols, reach: float) -> None:
    """Put the reference's symbols into `symbols_CHW` where `scaled_CHW` lies within `reach` of them.

    A latent that is NaN lies within reach of nothing.
    """
    channels = len(held_cHW)
    distance_cHW = scaled_CHW[:channels] - held_cHW
    np.abs(distance_cHW, out=distance_cHW)
    np.copyto(symbols_CHW[:channels], held_cHW, where=distance_cHW <= reach)


def stream_symbols(
    latents: Sequence[Latent], point: OperatingPoint, *, lag: int, threshold: float | None = None
) -> Iterator[tuple[Symbols, Symbols | None]]:
    """(frame, its reference) as an edge sends a clip, when the frame `lag` before is always the reference.

    `latents` are float32 [C, H, W] each. The first `lag` frames stand alone; with lag 0, all do.
    """
    sent: list[Symbols] = []
    for number, latent_CHW in enumerate(latents):
        reference = sent[number - lag] if lag and number >= lag else None
        if reference is None:
            sent.append(quantise(latent_CHW, point))
        else:
            sent.append(quantise_sticky(latent_CHW, point, reference, threshold=threshold))
        yield sent[-1], reference
