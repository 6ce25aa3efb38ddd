"""Frames over datagrams that get lost: one message, parts, and parts with parity, side by side in virtual time.

    python -m benchmarks.datagrams --json FILE

Real frames (the tour sample through the default bundle's encoder, each standing alone) over a simulated link of
5 Mbit/s and 50 ms each way, 30 a second, without rate control, with real sessions on both ends. Every packet is lost by
itself; answers are not (WebRTC repeats each in the three datagrams after it). A minute of streaming takes seconds, and
nothing depends on how busy the machine is. What aiortc makes of it is `benchmarks.transport --impaired`.

    answered   share of captured frames with an answer within 500 ms
    whole      share of answers from all layers; missing layers cost points only in the others
    up         from sending to the moment at which the server has all that it waits for
    stall      longest time without an answer
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.impaired_transport import payloads
from benchmarks.report import report
from benchmarks.simulated_stream import LossyUp, SimulatedServer, stream
from pipeline import limits
from pipeline.rate_control import EncodeChoice
from pipeline.transports.link_model import LinkModel
from pipeline.transports.memory import MemoryEdge
from pipeline.wire.cutting import layer_ends
from pipeline.wire.messages import Welcome
from pipeline.wire.part_loss import LossEstimate

LOSSES = (0.0, 0.01, 0.03, 0.05, 0.1)
PART_BYTES = limits.DATAGRAM_BYTES_MAX - 32
FPS = 30.0
DELAY_MS = 50.0
WINDOW = 12
"""So that credit is not what limits a stream of 30 a second over 50 ms each way."""
WAYS = ("one message", "parts", "parts + parity")


class Unprotected(LossEstimate):
    """Takes every link for one that loses nothing: no parity."""

    def begin(self) -> None:
        super().begin()
        self.share = 0.0

    def told(self, settled: int, parts: int) -> None:
        pass


@dataclass
class LayerCounter:
    """A Coder of frames that were made before; decoding counts the layers that are there."""

    frames: list[bytes]
    kind: str = "bitstream"
    encode_s: float = 0.005
    decode_s: float = 0.002
    server_s: float = 0.0
    layers: list[int] = field(default_factory=list)
    """Of each answer."""

    def encode(self, frame: int, choice: EncodeChoice) -> bytes:
        return self.frames[frame % len(self.frames)]

    def decode(self, frame: int, payload: bytes) -> tuple[int, int] | None:
        ends = layer_ends(payload)
        good = sum(end <= len(payload) for end in ends)
        assert payload == self.frames[frame % len(self.frames)][: len(payload)]
        return (good, len(ends)) if good else None

    def opened(self, welcome: Welcome) -> None: ...

    def answered(self, frame: int, decoded_layers: int) -> None:
        self.layers.append(decoded_layers)

    def dropped(self, frame: int, cause: str) -> None: ...


def _unprotect(edge: MemoryEdge, server: SimulatedServer) -> None:
    edge.session.loss = Unprotected()


def row(way: str, loss: float, frames: list[bytes], seconds: float, *, seed: int = 1) -> dict[str, Any]:
    """One stream."""
    whole = way == "one message"
    model = LinkModel(
        rate_kbps=5_000, delay_ms=DELAY_MS, jitter_ms=2, queue_ms=200, loss=loss, seed=seed,
        packet_bytes=limits.DATAGRAM_BYTES_MAX if whole else 0,
    )  # fmt: skip
    coder = LayerCounter(frames)
    link = LossyUp(model, down=LinkModel(delay_ms=DELAY_MS))
    bare = [] if way == "parts + parity" else [(-0.4, _unprotect)]
    run = stream(
        coder, link, seconds=seconds, fps=FPS, window=WINDOW, part_bytes=0 if whole else PART_BYTES, disturb=bare
    )
    answers = [track for track in run.frames if track.state == "answered"]
    ends = sorted(track.ended_at for track in answers)
    besides_ms = 1e3 * (coder.encode_s + coder.decode_s) + DELAY_MS
    up = [1e3 * (track.ended_at - track.captured_at) - besides_ms for track in answers]
    states: dict[str, int] = {}
    for track in run.frames:
        states[track.state] = states.get(track.state, 0) + 1
    states.pop("answered", None)
    return {
        "way": way, "loss": loss, "frames": len(run.frames), "answered": len(answers) / len(run.frames),
        "whole": sum(count == max(coder.layers) for count in coder.layers) / max(1, len(coder.layers)),
        "layers_mean": float(np.mean(coder.layers)), "up_p50_ms": float(np.median(up)),
        "up_p95_ms": float(np.percentile(up, 95)), "stall_ms": 1e3 * max(b - a for a, b in pairwise(ends)),
        "kbps": run.kbps, "dropped": states,
    }  # fmt: skip


def measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All ways at all losses."""
    frames = payloads(60, options.quality)
    rows = [row(way, loss, frames, options.seconds) for loss in LOSSES for way in WAYS]
    sizes = [len(frame) for frame in frames]
    return {
        "quality": options.quality or "standard", "seconds": options.seconds, "fps": FPS,
        "payload_bytes_mean": float(np.mean(sizes)), "payload_bytes_max": max(sizes), "rows": rows,
    }  # fmt: skip


def show(console: Console, figures: dict[str, Any]) -> None:
    """One table."""
    table = Table(
        "loss", "way", "answered", "whole", "up p50", "p95 ms", "stall ms", "kbit/s", "dropped",
        title=f"{figures['payload_bytes_mean']:,.0f} B a frame, {figures['fps']:.0f}/s, 5 Mbit/s, 50 ms",
    )  # fmt: skip
    for one in figures["rows"]:
        dropped = ", ".join(f"{cause} {count}" for cause, count in sorted(one["dropped"].items()))
        table.add_row(
            f"{one['loss']:.0%}", one["way"], f"{one['answered']:.1%}", f"{one['whole']:.1%}",
            f"{one['up_p50_ms']:.1f}", f"{one['up_p95_ms']:.1f}", f"{one['stall_ms']:.0f}", f"{one['kbps']:.0f}",
            dropped,
        )  # fmt: skip
    console.print(table)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benchmarks.datagrams", description="Frames over datagrams that get lost.")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each stream (default 60)")
    parser.add_argument("--quality", default="", help="operating point (default: the bundle's)")
    return report(parser.parse_args(), run=measure, show=show)


if __name__ == "__main__":
    sys.exit(main())
