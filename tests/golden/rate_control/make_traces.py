"""Writes traces.json: what rate control is told in simulated streams, and what it decides, for Python and TypeScript.

    python -m tests.golden.rate_control.make_traces

Run it only when the control law changed: both ends must then decide anew, and alike to the last bit. A trace's steps:

    ["opened", now]   ["pinged", sent, received, now]   ["credited", frames]   ["sent", frame, size, now, first bytes]
    ["acknowledged", frame, received, now, outcome]   ["refused", frame, now, undecodable, outcome]
    ["send_at", now, rung of `choice_at` before, when it may be sent, rung of `choice` then, room for 4,000 bytes]

where an outcome is [rung, frames a second, kbit/s, loss]; null stands for what is not known or has no end.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.simulated_stream import stream
from pipeline.rate_control import EncodeChoice, RateControl, Rung, pinned
from pipeline.transports.link_model import LinkModel
from tests.pipeline.test_rate_control import LADDER, NullCoder, WholeCoder

FILE = Path(__file__).parent / "traces.json"
ROOM_BYTES = 4_000
LTE = LinkModel(rate_kbps=6_000, delay_ms=35, jitter_ms=10, seed=1)
LOSSY = LinkModel(rate_kbps=4_000, delay_ms=20, jitter_ms=5, loss=0.1, packet_bytes=1_200, seed=5)
REGRETS = tuple((1.0 + 0.6 * number, 250.0 if number % 2 else 6_000.0) for number in range(8))


class RefusedCoder(NullCoder):
    """The server cannot decode some of the frames."""

    def decode(self, frame: int, payload: bytes) -> tuple[int, int] | None:  # type: ignore[override]
        return super().decode(frame, payload) if frame % 7 else None


STREAMS: dict[str, dict[str, Any]] = {
    "a rate that falls and comes back": {"link": replace(LTE, steps=((2.0, 400.0), (3.2, 6_000.0))), "seconds": 4.5},
    "rises that are regretted": {"link": replace(LTE, steps=REGRETS), "seconds": 5.0},
    "a blackout": {"link": replace(LTE, steps=((1.5, 0.0), (2.6, 6_000.0))), "seconds": 3.5},
    "parts that get lost": {"link": LOSSY, "seconds": 4.0, "part_bytes": 1_200, "coder": WholeCoder},
    "a server with credit for one": {
        "link": LinkModel(rate_kbps=270, delay_ms=15, jitter_ms=5, seed=1), "seconds": 3.0, "window": 1,
        "coder": lambda: NullCoder(server_s=0.1),
    },
    "refusals, and another connection": {
        "link": LTE, "seconds": 2.5, "coder": RefusedCoder, "disturb": ((1.5, lambda edge, server: edge.cut(0.2)),),
    },
    "a pinned point": {
        "link": LinkModel(rate_kbps=600, delay_ms=15, jitter_ms=5, seed=1), "seconds": 2.0,
        "ladder": pinned(LADDER, operating_point=2),
    },
    "another frame rate": {"link": LinkModel(rate_kbps=500, delay_ms=15, seed=2), "seconds": 3.0, "fps_max": 12.5},
}  # fmt: skip


class Recorder(RateControl):
    """Writes down what it is told, in microseconds' precision."""

    def __init__(self, ladder: tuple[Rung, ...], **options: Any) -> None:
        self.steps: list[list[Any]] = []
        super().__init__(ladder, **options)

    def _note(self, name: str, *values: Any) -> None:
        self.steps.append([name, *(round(value, 6) if isinstance(value, float) else value for value in values)])

    def opened(self, now: float) -> None:
        self._note("opened", now)
        super().opened(now)

    def pinged(self, sent_at: float, received_at: float, now: float) -> None:
        self._note("pinged", sent_at, received_at, now)
        super().pinged(sent_at, received_at, now)

    def sent(self, frame: int, size: int, now: float, *, first_bytes: int = 0) -> None:
        self._note("sent", frame, size, now, first_bytes)
        super().sent(frame, size, now, first_bytes=first_bytes)

    def acknowledged(self, frame: int, received_at: float, now: float) -> None:
        self._note("acknowledged", frame, received_at, now)
        super().acknowledged(frame, received_at, now)

    def credited(self, frames: int) -> None:
        if frames != self._credit:
            self._note("credited", frames)
        super().credited(frames)

    def refused(self, frame: int, now: float, *, undecodable: bool) -> None:
        self._note("refused", frame, now, undecodable)
        super().refused(frame, now, undecodable=undecodable)

    def send_at(self, now: float) -> float:
        self._note("send_at", now)
        return super().send_at(now)


def followed(control: RateControl, step: list[Any]) -> list[Any]:
    """`step` as it should stand in the file: what is told, then what is decided."""
    name, *told = step
    match name:
        case "opened":
            control.opened(told[0])
        case "pinged":
            control.pinged(*told)
        case "credited":
            control.credited(told[0])
        case "sent":
            control.sent(*told[:3], first_bytes=told[3])
        case "acknowledged":
            told = told[:3]
            control.acknowledged(*told)
            return [name, *told, _outcome(control)]
        case "refused":
            told = told[:3]
            control.refused(told[0], told[1], undecodable=told[2])
            return [name, *told, _outcome(control)]
        case "send_at":
            now = told[0]
            to_encode = control.choice_at(now).rung
            at = control.send_at(now)
            return [name, now, to_encode, _known(at), control.choice.rung, _known(control.room(ROOM_BYTES))]
    return [name, *told]


def _outcome(control: RateControl) -> list[Any]:
    choice = control.choice
    return [choice.rung, choice.fps, choice.kbps, control.loss]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def control_of(trace: dict[str, Any]) -> RateControl:
    """The controller that a trace begins with."""
    rungs = [Rung(EncodeChoice(point), name, mean) for point, name, mean in trace["ladder"]]
    control = RateControl(rungs, fps_max=trace["fps_max"], budget_s=trace["budget_s"])
    control.part_bytes = trace["part_bytes"]
    return control


def trace(name: str) -> dict[str, Any]:
    """What happens in one of STREAMS, and what is decided."""
    options = dict(STREAMS[name])
    recorder = Recorder(options.pop("ladder", LADDER), fps_max=options.pop("fps_max", 30.0))
    stream(options.pop("coder", NullCoder)(), options.pop("link"), control=recorder, **options)
    found: dict[str, Any] = {
        "name": name,
        "ladder": [[rung.encode.operating_point, rung.name, rung.bytes_mean] for rung in recorder.ladder],
        "fps_max": recorder.fps_max,
        "budget_s": recorder.budget_s,
        "part_bytes": recorder.part_bytes,
    }
    control = control_of(found)
    return {**found, "steps": [followed(control, step) for step in recorder.steps]}


def written(traces: list[dict[str, Any]]) -> str:
    """JSON with a line for each step."""
    texts = []
    for one in traces:
        head = json.dumps({key: value for key, value in one.items() if key != "steps"})
        steps = ",\n".join(json.dumps(step, separators=(",", ":")) for step in one["steps"])
        texts.append(f'{head[:-1]}, "steps": [\n{steps}\n]}}')
    return "[\n" + ",\n".join(texts) + "\n]\n"


if __name__ == "__main__":
    FILE.write_text(written([trace(name) for name in STREAMS]))
