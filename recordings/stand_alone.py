"""Makes recorded frames stand alone, so that they decode wherever and however they are replayed.

A frame coded against an earlier one decodes only where that one is held: in that session, at that moment. A replay has
another session, may be faster, lossy or a cut of the recording. So frames with a reference are coded again without it:
symbols are integers and coding them is exact, so what the server decodes, and all that it computes, is the same bit for
bit. Only their bytes are more. Frames that stand alone anyway go out as they were recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pipeline.codec import DecodedLatent, LatentCodec, Reference, ReferenceId
from pipeline.codec.bitstream import Header, parse_header
from pipeline.errors import BitstreamError
from recordings.topics import Bitstream

HELD_FRAMES_MAX: Final = 32
"""Frames that later ones are coded against, decoded (8 MiB each at most). A server keeps the last 8 of a session."""


def reference_of(bitstream: Bitstream) -> int | None:
    """The frame that this one is coded against; None also for damaged ones, which are met again later."""
    if bitstream.kind != "bitstream":
        return None
    try:
        reference = parse_header(bitstream.payload)[0].reference
    except BitstreamError:
        return None
    return None if reference is None else reference.frame


def last_uses(references: Iterable[tuple[int, int | None]]) -> dict[int, int]:
    """Frame → the last frame that is coded against it, of pairs (frame, what `reference_of` says of it)."""
    uses: dict[int, int] = {}
    for frame, named in references:
        if named is not None:
            uses[named] = max(uses.get(named, 0), frame)
    return uses


class StandAlone:
    """Recodes the frames of one recording, which come in their order. `uses` as `last_uses` tells."""

    def __init__(self, codec: LatentCodec, uses: dict[int, int]) -> None:
        self.recoded = 0
        """Frames that were coded again."""
        self._codec = codec
        self._uses = uses
        self._held: dict[int, DecodedLatent] = {}
        self._let_go = -1  # the last one that was still needed when there were too many

    def take(self, bitstream: Bitstream, *, layers: int = 0) -> bytes:
        """The frame's bytes without a reference. `layers` > 0: only so many, as a server may have had them.

        Raises BitstreamError if it is damaged or its reference is not in the recording.
        """
        if bitstream.kind != "bitstream":
            return bitstream.payload
        header, _ = parse_header(bitstream.payload)
        fewer = 0 < layers < len(header.lengths)
        if header.reference is None and not fewer and bitstream.frame not in self._uses:
            return bitstream.payload
        decoded = self._decode(bitstream, header)
        if header.reference is None and not fewer:
            return bitstream.payload
        self.recoded += 1
        sent = layers if fewer else decoded.decoded_layers
        return self._codec.encode(decoded.symbols, decoded.operating_point, layers=sent)

    def hold(self, bitstream: Bitstream) -> None:
        """Keep a frame that later ones are coded against. Raises BitstreamError."""
        self._decode(bitstream, parse_header(bitstream.payload)[0])

    def _decode(self, bitstream: Bitstream, header: Header) -> DecodedLatent:
        references: dict[ReferenceId, Reference] = {}
        if header.reference is not None:
            named = header.reference
            held = self._held.get(named.frame)
            if held is None:
                late = named.frame <= self._let_go
                why = f"more than {HELD_FRAMES_MAX} such frames back" if late else "which the recording does not have"
                raise BitstreamError(f"frame {bitstream.frame} is coded against frame {named.frame}, {why}")
            references[ReferenceId(named.epoch, named.frame)] = held.as_reference(epoch=named.epoch, frame=named.frame)
        decoded = self._codec.decode(bitstream.payload, references=references)
        for frame in [frame for frame in self._held if self._uses[frame] <= bitstream.frame]:
            del self._held[frame]
        if self._uses.get(bitstream.frame, 0) > bitstream.frame:
            self._held[bitstream.frame] = decoded
        if len(self._held) > HELD_FRAMES_MAX:
            self._let_go = next(iter(self._held))
            del self._held[self._let_go]
        return decoded
