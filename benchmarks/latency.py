"""Capture to result over the links of the FrankenSplit evaluation, one frame at a time: offloading or local execution.

    python -m benchmarks.latency --json FILE

The links are BLE 0.27, 4G LTE 12, Wi-Fi 54 and 5G 66.9 Mbit/s; as in the paper a link is its rate, without delay, so
that the codecs are compared and not the distance (`--delay-ms` adds one, there and back). Every stage is measured here
and now, the median of `--frames` frames in turn: the edge's preprocessing and encoding, the server's decoding and the
backbone, on one thread each. Only the time on the link is computed, bytes over rate: the frame's message up, a result
of 400 bytes down. So edge and server have this machine's processor; on a weaker edge local execution gets worse and
offloading hardly does. `reference` is our stream's later frames, coded against the one before.

x264 is a stream too: its bytes are the mean of a clip at crf 24, with a key frame every 2 s. PNG is lossless.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.evaluation_pictures import Pictures
from benchmarks.judge import Judge, find_head
from benchmarks.machine import processor, rounded
from benchmarks.network_coders import VideoCoder, median_s
from benchmarks.picture_codecs import PictureCodec, picture_codecs
from benchmarks.report import report
from benchmarks.video_clips import Clip, read_clips
from benchmarks.video_codecs import quiet
from pipeline.bundle import Bundle
from pipeline.codec import LatentCodec, Reference, dequantise, quantise, quantise_sticky
from pipeline.rate_control import EncodeChoice
from pipeline.runtime.encoder import FrameEncoder, preprocess_spec
from pipeline.runtime.engines import choose_engine
from recordings.samples import sample_path

LINKS_MBPS = {"BLE": 0.27, "4G LTE": 12.0, "Wi-Fi": 54.0, "5G": 66.9}
RESULT_BYTES = 400
MESSAGE_BYTES = 30
"""What a Frame message adds to its payload."""
X264_CRF = 24
STILLS = (("jpeg", 90), ("webp", 50), ("png", 100))


def main() -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="a video; the bundled sample tour if not given")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="one way, added to every link")
    parser.add_argument("--bundle", type=Path, help="bundle folder or .zip; the default one if not given")
    parser.add_argument("--backbone", default="", help="tag or alias; the bundle's default if not given")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return report(parser.parse_args(), run=run, show=show, written=rounded)


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All figures, ready for JSON."""
    bundle = Bundle.open(options.bundle)
    spec = preprocess_spec(bundle.edge_spec)
    (clip,), _ = read_clips([options.clip or Path(sample_path("tour"))], spec, frames=options.frames)
    engine = choose_engine(
        bundle, options.backbone, backend="onnx", device="cpu", threads=1, progress=console.print
    ).engine
    judge = Judge(engine, find_head(bundle, engine, "imagenet1k"), Pictures(clip.squares_NSS3, None))
    encoder = FrameEncoder(bundle, provider="cpu", precision="fp32")
    shrink = median_s(lambda: encoder.preprocess(clip.squares_NSS3[0]), options.frames)
    image = encoder.preprocess(clip.squares_NSS3[0])
    local_s = shrink + median_s(lambda: judge.answer_images(image), options.frames)
    pictures_s = local_s - shrink
    rows = _ours(bundle, encoder, judge, clip)
    stills, left_out = picture_codecs([name for name, _ in STILLS], clip.squares_NSS3.shape[1])
    for line in left_out:
        console.print(line, style="dim", markup=False)
    for name, quality in STILLS:
        rows += [
            _still(codec, clip, shrink, pictures_s)
            for codec in stills
            if (codec.name, codec.quality) == (name, quality) and codec.full_size
        ]
    rows.append(_video(clip, shrink, pictures_s))
    for row in rows:
        row["total_ms"] = {
            link: row["edge_ms"] + row["server_ms"] + _link_ms(row["bytes"], mbps, options.delay_ms)
            for link, mbps in LINKS_MBPS.items()
        }
    rows.append({
        "name": "local execution", "bytes": 0.0, "edge_ms": local_s * 1e3, "server_ms": 0.0,
        "total_ms": dict.fromkeys(LINKS_MBPS, local_s * 1e3),
    })  # fmt: skip
    return {
        "clip": clip.name, "frames": len(clip), "backbone": engine.backbone, "bundle_id": bundle.bundle_id,
        "delay_ms": options.delay_ms, "links_mbps": LINKS_MBPS, "processor": processor(), "rows": rows,
    }  # fmt: skip


def _link_ms(payload_bytes: float, mbps: float, delay_ms: float) -> float:
    return (payload_bytes + MESSAGE_BYTES + RESULT_BYTES) * 8 / (mbps * 1e3) + 2 * delay_ms


def _ours(bundle: Bundle, encoder: FrameEncoder, judge: Judge, clip: Clip) -> list[dict[str, Any]]:
    """Each operating point standing alone, and with references."""
    codec = bundle.latent_codec()
    latents = [encoder.analyse(encoder.preprocess(square)) for square in clip.squares_NSS3]
    analysis_s = median_s(lambda: encoder.analyse(encoder.preprocess(clip.squares_NSS3[0])), len(clip))
    engine_s = median_s(lambda: judge.answer_latents(latents[0][None]), len(clip))
    return [
        _our_row(codec, latents, index, analysis_s, engine_s, refer=refer)
        for index in range(len(codec.spec.operating_points))
        for refer in (False, True)
    ]


def _our_row(
    codec: LatentCodec, latents: list[Any], index: int, analysis_s: float, engine_s: float, *, refer: bool
) -> dict[str, Any]:
    point = codec.spec.operating_points[index]
    layers = len(codec.spec.layers)
    sizes, encode, decode = [], [], []
    symbols = quantise(latents[0], point)
    for number in range(1, len(latents)):
        latent = latents[number]
        reference = Reference(epoch=0, frame=number - 1, layers=layers, symbols=symbols) if refer else None

        def code(latent: Any = latent, reference: Reference | None = reference) -> tuple[Any, bytes]:
            if reference is None:
                made = quantise(latent, point)
            else:
                made = quantise_sticky(latent, point, codec.held_symbols(reference))
            return made, codec.encode(made, index, reference=reference)

        symbols, bitstream = code()
        held = {reference.id: reference} if reference is not None else {}
        sizes.append(len(bitstream))
        encode.append(median_s(code, 1))

        def read(bitstream: bytes = bitstream, held: dict[Any, Reference] = held) -> Any:
            return dequantise(codec.decode(bitstream, references=held).symbols, point)

        decode.append(median_s(read, 1))
    return {
        "name": f"ours {point.name}" + (" + reference" if refer else ""),
        "bytes": float(np.mean(sizes)),
        "edge_ms": 1e3 * (analysis_s + float(np.median(encode))),
        "server_ms": 1e3 * (float(np.median(decode)) + engine_s),
    }


def _still(codec: PictureCodec, clip: Clip, shrink: float, pictures_s: float) -> dict[str, Any]:
    files = [codec.compress(square) for square in clip.squares_NSS3]
    encode = median_s(lambda: codec.compress(clip.squares_NSS3[0]), len(clip))
    decode = median_s(lambda: codec.expand(files[0]), len(clip))
    return {
        "name": f"{codec.name} {codec.setting}",
        "bytes": float(np.mean([len(file) for file in files])),
        "edge_ms": 1e3 * (shrink + encode),
        "server_ms": 1e3 * (decode + pictures_s),
    }


def _video(clip: Clip, shrink: float, pictures_s: float) -> dict[str, Any]:
    packets: list[Any] = []
    numbers = iter(range(len(clip)))
    with quiet():
        coder = VideoCoder(clip, clip.fps, [X264_CRF], [1.0])
        encode = median_s(lambda: packets.append(coder.encode(next(numbers), EncodeChoice(0))), len(clip))
        arriving = iter(enumerate(packets))
        decode = median_s(lambda: coder.decode(*next(arriving)), len(clip))
    return {
        "name": f"x264 crf {X264_CRF}",
        "bytes": float(np.mean([len(packet) for packet in packets])),
        "edge_ms": 1e3 * (shrink + encode),
        "server_ms": 1e3 * (decode + pictures_s),
    }


def show(console: Console, figures: dict[str, Any]) -> None:
    """The paper's table."""
    table = Table(title=f"capture to result, ms ({figures['backbone']})", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in ("", "bytes", "edge", "server", *figures["links_mbps"]):
        table.add_column(column, justify="right" if column else "left", no_wrap=True, min_width=6)
    for row in figures["rows"]:
        times = (row["edge_ms"], row["server_ms"], *row["total_ms"].values())
        table.add_row(row["name"], f"{row['bytes']:,.0f}", *(f"{value:.1f}" for value in times))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
