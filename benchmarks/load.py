"""How many live streams one server carries, for each of its backbones: `frankenstream bench load` as a document.

    python -m benchmarks.load --json FILE

Starts a server for each backbone, so that the others' engines take nothing, and steps up streams of recorded latents
until the 95th percentile or the drops exceed a bound. Generator and server share this machine; `generator_cpu_percent`
says what the generator took.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from benchmarks.machine import processor, rounded
from frankenstream.load import Load, Step, bounds, find_knee, recorded_payloads, verdict
from frankenstream.server_process import ServerProcess
from pipeline.bundle import Bundle
from recordings.samples import sample_path


def main() -> int:
    """Run, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--bundle", type=Path, help="bundle folder or .zip; the default one if not given")
    parser.add_argument("--backbones", default="", help="comma separated; all of the bundle if not given")
    parser.add_argument("--streams", type=int, default=32, help="streams at most")
    parser.add_argument("--fps", type=float, default=30.0, help="frames a second of each stream")
    parser.add_argument("--duration", type=float, default=8.0, help="seconds a step")
    parser.add_argument("--p95-ms", type=float, default=150.0, help="bound")
    parser.add_argument("--drops", type=float, default=1.0, help="bound, in percent")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    payloads = recorded_payloads(bundle, str(sample_path()))
    console = Console(highlight=False)
    tags = [name for name in arguments.backbones.split(",") if name] or [one.tag for one in bundle.backbones]
    knees = {tag: measure(tag, bundle, payloads, arguments, console) for tag in tags}
    figures = {"backbones": knees, "fps": arguments.fps, "p95_ms": arguments.p95_ms, "drops": arguments.drops,
               "processor": processor()}  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(rounded(figures), indent=2) + "\n")
    return 0


def measure(
    tag: str, bundle: Bundle, payloads: list[bytes], arguments: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """The knee of one backbone, and all steps on the way."""
    flags = ["--backbones", tag] + (["--bundle", str(arguments.bundle)] if arguments.bundle else [])
    steps: list[Step] = []
    with ServerProcess(flags, console=console) as server:
        load = Load(server.url, bundle.codec_id, payloads, fps=arguments.fps, duration_s=arguments.duration)
        best, worst = find_knee(
            load.step, streams_max=arguments.streams, good=bounds(arguments.p95_ms, arguments.drops),
            on_step=steps.append,
        )  # fmt: skip
    streams = best.streams if best else 0
    console.print(f"[bold]{tag}[/]: {streams} streams of {arguments.fps:g} fps; {verdict(worst)}")
    for step in steps:
        console.print(
            f"  {step.streams:3} streams  {step.answered_fps:7.1f} answers/s  p50 {step.p50_ms:.1f}  "
            f"p95 {step.p95_ms:.1f}  p99 {step.p99_ms:.1f} ms  {step.dropped_percent:.1f} % dropped"
        )
    return {"streams": streams, "steps": [msgspec.to_builtins(step) for step in steps]}


if __name__ == "__main__":
    sys.exit(main())
