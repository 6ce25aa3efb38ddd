"""Rate control decides as the golden traces say, which the web page's own one must follow too."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.golden.rate_control.make_traces import FILE, control_of, followed, written

TRACES: list[dict[str, Any]] = json.loads(FILE.read_text())


def steps(name: str) -> list[list[Any]]:
    return [step for trace in TRACES for step in trace["steps"] if step[0] == name]


def stood_still(steps: list[list[Any]]) -> bool:
    """Whether the lowest rung was taken without an answer that asked for it: answers were overdue."""
    told = [step for step in steps if step[0] in ("acknowledged", "send_at")]
    return any(
        before[0] == "acknowledged" and after[0] == "send_at" and before[4][0] > after[2] == 0
        for before, after in itertools.pairwise(told)
    )


@pytest.mark.parametrize("trace", TRACES, ids=[trace["name"] for trace in TRACES])
def test_it_decides_as_written(trace: dict[str, Any]) -> None:
    """At every step, to the last bit."""
    control = control_of(trace)
    for number, step in enumerate(trace["steps"]):
        assert followed(control, step) == step, f"step {number}"


def test_the_file_is_as_the_script_writes_it() -> None:
    """Line by line, so that a change can be read."""
    assert FILE.read_text() == written(TRACES)


def test_the_traces_hold_what_can_happen() -> None:
    """Rises and falls, waiting, standing still, probes, no credit, refusals, lost parts, another connection."""
    sends = steps("send_at")
    assert {send[4] for send in sends} == {0, 1, 2}
    assert any(stood_still(trace["steps"]) for trace in TRACES)
    assert any(send[3] is not None and send[3] > send[1] for send in sends), "a frame waits"
    assert any(send[5] is None for send in sends), "nothing is known yet"
    assert ["credited", 0] in steps("credited")
    assert {step[3] for step in steps("refused")} == {True}
    assert max(step[4][3] for step in steps("acknowledged")) > 0.1, "frames get lost"
    assert sum(step[0] == "opened" for step in steps("opened")) > len(TRACES)
    assert {trace["part_bytes"] for trace in TRACES} == {0, 1_200}
