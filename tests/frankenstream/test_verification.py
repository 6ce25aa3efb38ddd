"""What counts as the same answer."""

from __future__ import annotations

import msgspec
import pytest

from edge_node.records import ANSWERED, FrameRecord, LabelScore
from frankenstream.verification import Verification, differences, engines_of
from recordings.topics import FrameResult, RecordedAnswer, RecordedLabel

SCORE = 0.1 + 0.2
THEN = "frankenstream 0.1.0; lite0=onnx/cpu/2 lite2=torch/cuda:0/1; onnxruntime 1.31.1; fp32; machine aaaaaa"


def expected(score: float = SCORE, *, label: str = "zebra", batch: int = 1) -> dict[int, FrameResult]:
    labels = [RecordedLabel(340, label, score), RecordedLabel(1, "horse", 0.05)]
    return {7: FrameResult(frame=7, tasks=[RecordedAnswer("animals", labels)], batch=batch)}


def record(score: float = SCORE, *, label: str = "zebra", state: str = ANSWERED, batch: int = 1) -> FrameRecord:
    labels = [LabelScore(label, score), LabelScore("horse", 0.05)]
    return FrameRecord(frame=0, state=state, tasks={"animals": labels}, batch=batch)


def test_the_same_to_the_last_bit() -> None:
    verification = Verification(expected())
    verification.compare(record(), 7)
    assert verification.passed
    assert verification.report() == ["verified 1 of 1 frames: 1 bit for bit"]


def test_the_last_bit_counts_under_the_same_conditions() -> None:
    """And does not where the conditions differ, or the frame was computed in a batch."""
    for verification, passed in (
        (Verification(expected(0.3)), False),
        (Verification(expected(0.3), exact=False), True),
        (Verification(expected(0.3, batch=2)), True),
    ):
        verification.compare(record(SCORE), 7)
        assert verification.passed == passed
        assert verification.identical == 0


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (record(SCORE + 0.002), "had 0.300000 for animals zebra, now 0.302000"),
        (record(label="horse"), "was zebra (0.3000) for animals, now it is horse"),
        (record(state="shed"), "was answered then, now it is shed"),
        (FrameRecord(frame=0, state=ANSWERED), "has no answer for animals now"),
    ],
)
def test_what_differs_is_said(now: FrameRecord, words: str) -> None:
    """Also under other conditions."""
    verification = Verification(expected(), exact=False)
    verification.compare(now, 7)
    assert not verification.passed
    assert words in "\n".join(verification.report())


def test_many_differences_are_counted_and_a_few_shown() -> None:
    results = {frame: msgspec.structs.replace(expected()[7], frame=frame) for frame in range(20)}
    verification = Verification(results)
    for frame in range(20):
        verification.compare(record(label="horse"), frame)
    assert verification.report()[0] == "verified 0 of 20 frames: 0 bit for bit"
    assert verification.report()[-1] == "and 15 more frames differ"


def test_nothing_to_compare_is_no_success() -> None:
    verification = Verification({})
    verification.compare(record(), 7)
    assert not verification.passed
    assert "nothing was compared" in verification.report()[0]


def test_conditions() -> None:
    """A server that serves fewer backbones computes them alike; another engine, library or machine does not."""
    assert differences(THEN, THEN) == []
    assert differences(THEN, THEN.replace(" lite2=torch/cuda:0/1", "")) == []
    assert differences(THEN, THEN.replace("onnx/cpu/2", "onnx/cpu/1")) == [
        "lite0 ran on onnx on cpu with 2 threads, now on onnx on cpu with 1 threads"
    ]
    assert differences(THEN, THEN.replace("1.31.1", "1.32.0")) == ["onnxruntime 1.31.1 then", "onnxruntime 1.32.0 now"]
    assert differences(THEN, THEN.replace("aaaaaa", "bbbbbb")) == ["machine aaaaaa then", "machine bbbbbb now"]
    assert differences("frankenstream server", THEN) == ["the engine is not known"]
    assert engines_of(THEN)["lite2"].device == "cuda:0"
