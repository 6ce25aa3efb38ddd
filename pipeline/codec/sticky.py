"""Sticky symbols and places: keep the reference's symbols where the latent has hardly moved.

Noise of the sensor and slight movements push latents back and forth over the border between two symbols, and each
crossing costs bits without telling anything. So where a latent lies within a threshold of the reference's symbol (in
symbols; rounding itself goes up to 0.5), that symbol stays, although another may be nearest.

It is the encoder's choice alone: the bitstream and its decoder know nothing of it. The distance is always that of the
*present* latent, before rounding, to the symbol that would be kept, never that between one frame and the next, so a
slow drift is followed as soon as it has gone further than the threshold and errors do not add up
(tests/pipeline/codec/test_sticky.py):

    |latent in symbols − symbol| ≤ max(0.5, threshold), for every frame, however long the stream

With a *refresh threshold* places are judged first: where the distance to the reference's symbols, root mean square over
all channels, is within it, all of them stay; only the other places are refreshed, symbol by symbol as above, with a
sticky threshold that may then be small. What changes lies together, which costs a fraction of the bytes (one flag a
place, `pipeline.codec.places`) and less accuracy too: a place that is half old and half new is like nothing the decoder
knows (docs/decisions/0013-refreshed-places.md). A kept place is bound in the mean:

    rms over the place's channels of (latent in symbols − symbol) ≤ the refresh threshold

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

    `threshold` is the sticky one, in symbols; None: the operating point's own. The refresh threshold keeps its
    proportion to it. Up to 0.5, without a refresh threshold, it changes nothing.
    """
    reach = point.sticky_threshold if threshold is None else threshold
    refresh = point.refresh_threshold * reach / point.sticky_threshold if point.refresh_threshold else 0.0
    scaled_CHW = in_symbols(latent_CHW, point)
    symbols_CHW = nearest_symbols(scaled_CHW)
    if reach > 0.5 or refresh:
        keep(symbols_CHW, scaled_CHW, held_cHW, reach, refresh)
    return symbols_CHW


def keep(symbols_CHW: Symbols, scaled_CHW: Latent, held_cHW: Symbols, reach: float, refresh: float = 0.0) -> None:
    """Put the reference's symbols into `symbols_CHW` where `scaled_CHW` lies within `reach` of them, and at whole
    places where it lies within `refresh` of them in the mean.

    A latent that is NaN lies within reach of nothing, nor does its place.
    """
    channels = len(held_cHW)
    distance_cHW = scaled_CHW[:channels] - held_cHW
    squares_HW = np.einsum("chw,chw->hw", distance_cHW, distance_cHW) if refresh else None
    np.abs(distance_cHW, out=distance_cHW)
    kept_cHW = distance_cHW <= max(reach, 0.5) if refresh else distance_cHW <= reach
    if squares_HW is not None:
        kept_cHW |= squares_HW <= channels * refresh**2
    np.copyto(symbols_CHW[:channels], held_cHW, where=kept_cHW)


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
