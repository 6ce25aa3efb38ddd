"""The codec: latents to a few kB and back, bit-exact on any two machines.

`quantisation` makes symbols, `sticky` keeps those of an earlier frame where they still fit, `entropy_model` holds the
integer tables that `table_making` made, `contexts` picks among them, `range_coder` and `_range_coder.c` turn symbols
into bytes, `bitstream` frames them, `latent_codec` is the door.
"""

from __future__ import annotations

from pipeline.codec.contexts import Contexts, Term, contexts_data, parse_contexts
from pipeline.codec.entropy_model import EntropyModel
from pipeline.codec.latent_codec import (
    DecodedLatent,
    LatentCodec,
    LatentShape,
    LatentSpec,
    Reference,
    ReferenceId,
    coder_in_use,
)
from pipeline.codec.quantisation import OperatingPoint, dequantise, quantise
from pipeline.codec.sticky import quantise_sticky, stream_symbols
from pipeline.codec.table_counts import TableCounter
from pipeline.codec.table_making import ChannelPmf

__all__ = [
    "ChannelPmf",
    "Contexts",
    "DecodedLatent",
    "EntropyModel",
    "LatentCodec",
    "LatentShape",
    "LatentSpec",
    "OperatingPoint",
    "Reference",
    "ReferenceId",
    "TableCounter",
    "Term",
    "coder_in_use",
    "contexts_data",
    "dequantise",
    "parse_contexts",
    "quantise",
    "quantise_sticky",
    "stream_symbols",
]
